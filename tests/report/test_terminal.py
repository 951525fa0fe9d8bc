"""The summary in the terminal: one screen of plain text that claims no more than the page."""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import pytest
from rich.console import Console

from fedtoll.report import Digest, terminal_summary
from fedtoll.report.headline import lead, sentences
from fedtoll.scenarios.measures import EVERYBODY
from tests.server.fake import adult_race


def screen(results, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(terminal_summary(results))
    return out.getvalue()


@pytest.fixture(scope="module")
def twelve():
    """A digest of twelve strategies."""
    names = ("fedavg", "uniform", "term(clip=1, t=5)", *(f"noise-fair(x={i})" for i in range(9)))
    return Digest(adult_race(strategies=names, seeds=(0, 1), epsilons=(math.inf, 0.5), rounds=1, records=60))


@pytest.mark.slow
@pytest.mark.parametrize("digest", ["eight", "twelve", "disguised"])
def test_it_is_one_screen_of_80_by_40_whatever_the_width(request, digest):
    digest = request.getfixturevalue(digest)
    out = screen(digest)
    lines = out.splitlines()
    assert len(lines) <= 38  # the path of the report and the prompt come below
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in out
    assert "±" not in out
    assert not [line for line in lines if line.endswith(" ")]
    assert screen(digest, 200) == out


def test_it_is_the_first_sentence_a_table_and_what_the_tests_say(eight):
    out = screen(eight)
    sentence, table, *notes = out.strip().split("\n\n")
    assert " ".join(sentence.split()) == lead(eight) == sentences(eight)[0]
    title, head, _, *rows = table.splitlines()
    assert title == "Toll of this recipe, ε = 0.5: log-loss added by privacy (nats), 8 seeds"
    assert head.split() == ["race", "n", "fedavg", "95%", "interval", "uniform", "term(t=5)"]
    assert rows[0].startswith("Asian-Pac-Islander   1,515")  # who pays most comes first
    assert rows[0].count(".") == 5  # three tolls, and both ends of the leader's interval
    tight = eight.tight.set_index(["strategy", "group"])
    white = tight.loc[("fedavg", "White")]
    row = next(row for row in rows if row.startswith("White"))
    assert f"{white['toll']:.3f}  {white['toll_low']:.3f} to {white['toll_high']:.3f}" in row
    gap = eight.gaps.query("strategy == 'fedavg' and mechanism == 'dp-sgd' and epsilon == 0.5")["gap"].item()
    assert rows[-1].split()[:3] == ["toll", "gap", f"{gap:.3f}"]
    assert rows[-2].startswith("everybody")
    assert re.search(r"^Tests against fedavg at ε = 0\.5: ", notes[-1])
    assert "(Holm over 4 default comparisons)" in " ".join(notes[-1].split())


def test_the_title_counts_the_seeds_that_the_tolls_have(eight):
    """With references for three of fedavg's eight seeds, its tolls are of three."""
    groups = eight.results.groups
    lost = (groups["strategy"] == "fedavg") & (groups["mechanism"] == "none") & (groups["seed"] >= 3)
    out = screen(replace(eight.results, groups=groups[~lost]))
    assert "log-loss added by privacy (nats), 3 to 8 seeds\n" in out


def test_groups_that_the_seeds_do_not_distinguish_are_called_so(alike):
    out = screen(alike)
    assert "The seeds do not distinguish the groups: the toll gap is " in " ".join(out.split())
    sentence = out.split("\n\n")[0]
    assert " ".join(sentence.split()) == lead(alike)


def test_the_line_of_tests_says_what_is_significant(eight):
    from fedtoll.report.tables.compared import verdict

    words = " ".join(screen(eight).split()).rsplit("Tests against", 1)[1]
    frame = eight.comparisons
    for _, row in frame[frame["significant"]].iterrows():
        assert verdict(row).replace("gap", "toll gap") in words
    rest = int((~frame["significant"].astype(bool)).sum())
    assert ("no significant difference" in words) == (rest > 0)


@pytest.mark.slow
def test_the_title_at_best_constants_is_one_line(eight):
    row = {"strategy": "fedavg", "mechanism": "dp-sgd", "epsilon": 0.5, "chosen": True}
    tuning = [row | {"constants": {"learning_rate": 0.5}, "seeds": 2, "loss": {"(all)": 0.3}}]
    resolved = eight.results.resolved | {"tuning": tuning}
    lines = screen(replace(eight.results, resolved=resolved)).splitlines()
    assert "Price at best constants, ε = 0.5: log-loss added by privacy (nats), 8 seeds" in lines
    assert any(line.startswith("price gap") for line in lines)


@pytest.mark.slow
def test_a_useless_model_is_called_that(eight):
    from fedtoll.report import headline

    tight = eight.tight.copy()
    tight.loc[tight["group"] == EVERYBODY, "collapsed"] = 1.0
    useless = Digest(eight.results)
    useless.__dict__["tight"] = tight
    assert "But fedavg is collapsed" in lead(useless)
    assert "But fedavg is collapsed" in headline(useless)
    assert "But fedavg is collapsed" in " ".join(screen(useless).split())


@pytest.mark.parametrize("digest", ["eight", "twelve", "disguised"])
def test_no_name_is_cut(request, digest):
    """Long names take several lines: every part of each is there, in order."""
    digest = request.getfixturevalue(digest)
    out = screen(digest)
    assert "…" not in out
    if digest is request.getfixturevalue("twelve"):
        assert all(any(line.startswith(s) for line in out.splitlines()) for s in digest.strategies)
    first_column = "".join(line[:20].split("  ")[0] for line in out.splitlines()).replace(" ", "")
    for group in digest.order if len(digest.strategies) <= 3 else []:
        assert group.replace(" ", "") in first_column


def test_it_says_why_there_is_no_test(digest):
    assert "4 default comparisons, not tested (too few seeds" in screen(digest)


@pytest.mark.slow
def test_a_declared_family_is_not_called_the_default_one(results):
    scenario = results.resolved["scenario"] | {"compare": {"quantities": ["utility"]}}
    asked = replace(results, resolved=results.resolved | {"scenario": scenario})
    assert "\n2 comparisons, not tested (too few seeds" in screen(asked)


@pytest.mark.slow
def test_it_marks_what_may_not_be_claimed(fake_digest):
    out = screen(fake_digest(seeds=(0,)))
    assert re.search(r"“Other” +81\*", out)
    assert "* too few records, or of a class, for a claim" in out
    assert "one seed" in out
    assert "95% interval" not in out


def test_many_strategies_are_the_rows(twelve):
    lines = screen(twelve).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("strategy"))
    assert lines[head].split() == ["strategy", "everybody", "pays", "most", "toll", "toll", "gap"]
    rows = lines[head + 2 : head + 14]
    assert rows[0].startswith("fedavg ")
    gaps = [float(row.split()[-1]) for row in rows[1:]]
    assert gaps == sorted(gaps)


def test_more_than_fit_are_left_to_the_report(monkeypatch, twelve, eight):
    from fedtoll.report import terminal

    monkeypatch.setattr(terminal, "MOST_ROWS", 3)
    assert "only in the report: 9 strategies with wider gaps" in " ".join(screen(twelve).split())
    assert "only in the report: 2 groups that pay less" in " ".join(screen(eight).split())


def test_several_classes_have_no_positives(digits):
    out = screen(digits)
    assert out.count("digit “2”") == 2  # the sentence and the table


def test_hostile_names_are_no_markup(disguised):
    out = screen(disguised)
    assert "[red]" in out
    assert "[/bol" in out  # the header takes several lines
