"""The charts' data: the numbers, in order, with n and interval in the tooltips."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import replace

import pytest

from fedtoll.report import charts
from fedtoll.report.charts.utility import with_intervals
from fedtoll.report.digest import Digest
from fedtoll.report.page import _captions
from fedtoll.toll import toll
from tests.server.fake import INF, adult_race


@pytest.fixture
def digest(eight):
    return eight


def data(spec):
    return [row for rows in spec["datasets"].values() for row in rows]


@pytest.mark.slow
def test_who_pays_is_sorted_and_shows_toll_interval_and_n(digest):
    spec = charts.who_pays(digest)
    rows = data(spec)
    tight = digest.tight.query("strategy == 'fedavg'").set_index("group")
    assert [row["label"].split("\n")[0] for row in rows][-1] == "everybody"
    tolls = [row["toll"] for row in rows[:-1]]
    assert tolls == sorted(tolls, reverse=True)
    assert rows[0]["label"] == "Asian-Pac-Islander\nn = 1,515"
    worst = tight.loc["Asian-Pac-Islander"]
    within = f"{worst['toll_low']:.3f} to {worst['toll_high']:.3f}"
    assert rows[0]["text"] == f"{worst['toll']:.3f}  ({within})"
    assert (rows[0]["interval"], rows[0]["n"], rows[0]["seeds"]) == (within, "1,515", 8)
    narrow = data(charts.who_pays_narrow(digest))
    assert narrow[0]["text"] == f"Asian-Pac-Islander, n = 1,515: {worst['toll']:.3f}  ({within})"


@pytest.mark.slow
@pytest.mark.parametrize("draw", [charts.who_pays, charts.who_pays_narrow])
def test_who_pays_shows_in_how_many_seeds_a_group_is_collapsed(digest, draw):
    flagged = copy(digest)
    flagged.__dict__["tight"] = digest.tight.assign(collapsed=0.0)
    assert {row["collapsed"] for row in data(draw(flagged))} == {""}
    flagged.tight.loc[flagged.tight["group"] == "Other", "collapsed"] = 6 / 8
    spec = draw(flagged)
    flags = {row["group"]: row["collapsed"] for row in data(spec)}
    assert flags.pop("race “Other”") == "collapsed in 6 of 8 seeds"
    assert set(flags.values()) == {""}
    assert {"field": "collapsed", "type": "nominal"} in [
        layer["encoding"].get("text") for layer in spec["layer"]
    ]


@pytest.mark.slow
def test_the_rate_of_the_rarer_class_is_drawn_and_described(digest):
    swapped = digest.results.groups.assign(
        positives=digest.results.groups["n"] - digest.results.groups["positives"]
    )
    other = Digest(replace(digest.results, groups=swapped))
    for chosen, rate, title in ((digest, "tpr", "positives = "), (other, "fpr", "negatives = ")):
        drawn = charts.Charts(chosen).utility
        assert list(drawn) == ["log_loss", rate, "accuracy"]
        labels = {row["panel"] for row in data(drawn[rate])}
        assert f"Asian-Pac-Islander\n{title}410" in labels
        captions = _captions(chosen)
        assert (
            f"always predicting {'negative' if rate == 'tpr' else 'positive'}" in captions["accuracy"].lower()
        )
        assert rate in captions


@pytest.mark.slow
def test_every_chart_has_n_and_interval_in_its_tooltips(digest):
    specs = {
        "who pays": charts.who_pays(digest),
        "narrow": charts.who_pays_narrow(digest),
        "others": charts.others(digest),
        "split": charts.split(digest),
        "utility": charts.utility(digest, "tpr"),
        "front": charts.front(digest),
    }
    for name, spec in specs.items():
        assert spec is not None
        tips = [tip["field"] for tips in _find(spec, "tooltip") if isinstance(tips, list) for tip in tips]
        assert "n" in tips, name
        assert any("interval" in tip for tip in tips), name
        assert set(tips) <= set(data(spec)[0]), name
    for spec in (charts.weights(digest), charts.effective_noise(digest)):
        assert spec is not None
        fields = {tip["field"] for tips in _find(spec, "tooltip") if isinstance(tips, list) for tip in tips}
        assert {"interval", "seeds"} <= fields


def _find(spec, key):
    """Yield every value of a key, however deep."""
    if isinstance(spec, dict):
        for k, v in spec.items():
            if k == key:
                yield v
            yield from _find(v, key)
    elif isinstance(spec, list):
        for v in spec:
            yield from _find(v, key)


@pytest.mark.slow
def test_the_others_have_the_leaders_order_and_its_tolls(digest):
    rows = data(charts.others(digest))
    assert list(dict.fromkeys(row["panel"] for row in rows)) == ["uniform", "term(t=5)"]
    order = [row["label"] for row in data(charts.who_pays(digest))]
    assert [row["label"] for row in rows[:6]] == order
    assert rows[0]["leader"] == data(charts.who_pays(digest))[0]["toll"]


@pytest.mark.slow
def test_the_parts_add_up_to_the_toll(digest):
    rows = data(charts.split(digest))
    whole = {(r["strategy"], r["group"]): r["toll"] for _, r in digest.tight.iterrows()}
    for strategy, group, label in (("fedavg", "White", "White"), ("uniform", "Other", "race “Other”")):
        parts = [r["toll"] for r in rows if r["panel"] == strategy and r["group"] == label]
        assert len(parts) == 2
        assert sum(parts) == pytest.approx(whole[strategy, group], abs=1e-4)


@pytest.mark.slow
def test_charts_that_cannot_be_drawn_are_none(results, fake_digest):
    assert charts.split(Digest(results)) is None
    assert charts.others(fake_digest(strategies=("fedavg",), seeds=(0, 1))) is None
    assert charts.front(fake_digest(epsilons=(8.0,), seeds=(0, 1))) is None


@pytest.mark.slow
def test_utility_goes_from_no_privacy_to_the_tightest_with_bands(digest):
    spec = charts.utility(digest, "log_loss")
    x = spec["spec"]["layer"][1]["encoding"]["x"]
    assert x["scale"]["domain"] == ["∞", "∞ clip", "8", "2", "0.5"]
    rows = data(spec)
    assert len(rows) == 6 * 3 * 5
    assert {row["panel"] for row in rows} >= {"Black\nn = 4,685", "everybody\nn = 48,835"}
    assert all(row["low"] < row["value"] < row["high"] for row in rows)


@pytest.mark.slow
def test_bands_are_t_intervals_of_the_mean(results, fake_digest):
    frame = toll(results.groups, "log_loss", 5)
    row = with_intervals(frame, None).iloc[0]
    assert (row["high"] - row["value"]) == pytest.approx(2.776445 * row["value_sd"] / math.sqrt(5), rel=1e-6)
    one = with_intervals(toll(fake_digest(seeds=(0,)).results.groups), None)
    assert one[["low", "high"]].isna().all(axis=None)


def test_the_front_joins_only_those_that_nobody_beats(digest):
    rows = data(charts.front(digest))
    gaps = digest.gaps.query("mechanism == 'dp-sgd'").set_index(["strategy", "epsilon"])
    for row in rows:
        gap = gaps.loc[(row["strategy"], float(row["panel"].removeprefix("ε = ")))]
        assert row["on_front"] == gap["on_front"]
        assert row["gap"] == pytest.approx(gap["gap"], rel=1e-4)
        assert row["value"] == pytest.approx(-gap["everybody"], rel=1e-4)


@pytest.mark.slow
def test_strategies_differ_by_colour_and_by_shape_and_dash():
    names = tuple(f"s{i}" for i in range(20))
    many = Digest(adult_race(strategies=names, epsilons=(INF, 0.5), seeds=(0, 1), rounds=1, records=60))
    spec = charts.utility(many, "log_loss")
    _, line, point = spec["spec"]["layer"]
    colours = point["encoding"]["color"]["scale"]["range"]
    shapes = point["encoding"]["shape"]["scale"]["range"]
    dashes = line["encoding"]["strokeDash"]["scale"]["range"]
    assert len(set(zip(colours, shapes, strict=True))) == 20
    assert len({(c, tuple(d)) for c, d in zip(colours, dashes, strict=True)}) == 20
    assert len({tuple(d) for d in dashes[:7]}) == len(set(shapes[:7])) == 7
