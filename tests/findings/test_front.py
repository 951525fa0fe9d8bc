"""The Pareto front from planted tables: which models are beaten, and which are fair but constant."""

from __future__ import annotations

import base64
from dataclasses import replace

import pandas as pd
import pytest

from fedtoll.findings import front
from fedtoll.scenarios.claims import Claim, Term
from tests.findings.planted import study

SPREAD = Claim(name="s", says="s", kind="threshold", of="spread", measure="accuracy", at_most=0.1)
TOLLS = {1.0: {"a": 0.0, "b": 0.1}, 0.1: {"a": 0.1, "b": 0.2}}


def by_epsilon(points, strategy="fedavg"):
    return {p.epsilon: p for p in points if p.strategy == strategy}


def test_a_point_is_the_seed_mean_with_its_interval():
    points = by_epsilon(front.front([SPREAD], {"base": study(TOLLS, start={"a": 0.9, "b": 0.7})}))
    assert list(points) == ["∞", "1", "0.1"]
    assert points["0.1"].accuracy[0] == pytest.approx(points["∞"].accuracy[0] - 0.15, abs=1e-9)
    mean, low, high = points["1"].disparity
    assert low < mean < high
    assert mean == pytest.approx(points["∞"].disparity[0] + 0.1, abs=1e-9)
    assert {p.standing for p in points.values()} == {"on the front"}  # each is the most private, or better


def test_a_beaten_point_is_not_on_the_front():
    fine = study(TOLLS)
    worse = fine.groups.assign(strategy="worse")
    lower = (worse["group"] == "b") | (worse["group"] == "(all)")
    worse.loc[lower, "accuracy"] -= 0.3
    both = replace(fine, groups=pd.concat([fine.groups, worse], ignore_index=True), _paired={}, _too_few={})
    points = front.front([SPREAD], {"base": both})
    assert {p.standing for p in points if p.strategy == "worse"} == {"beaten"}
    assert {p.standing for p in points if p.strategy == "fedavg"} == {"on the front"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "standing"), [("collapsed", "collapsed"), ("below_majority", "no better than the majority")]
)
def test_a_constant_model_is_not_on_the_front_and_beats_nobody(flag, standing):
    planted = study({1.0: {"a": 0.3, "b": 0.1}, 0.1: {"a": 0.1, "b": 0.1}}, start={"a": 0.9, "b": 0.9})
    tight = planted.groups["epsilon"] == 0.1
    planted.groups.loc[tight, flag] = planted.groups.loc[tight, "seed"] < 5  # half of the seeds
    points = by_epsilon(front.front([SPREAD], {"base": planted}))
    assert points["0.1"].standing == standing
    assert points["1"].standing == "on the front"  # though the flagged one is better in all three
    planted.groups.loc[tight, flag] = planted.groups.loc[tight, "seed"] < 4
    again = replace(planted, _paired={}, _too_few={})
    points = by_epsilon(front.front([SPREAD], {"base": again}))
    assert (points["0.1"].standing, points["1"].standing) == ("on the front", "beaten")


def test_the_sentence_on_constant_models_says_no_more_than_was_seen():
    points = front.front([SPREAD], {"base": study(TOLLS)})
    assert front.collapse_sentence(points) == "No model collapsed in half of its seeds or more."


def test_a_finding_without_a_spread_has_no_front():
    other = Claim(name="o", says="o", kind="order", b=Term())
    assert front.front([other], {"base": study(TOLLS)}) == ()


def test_the_front_has_the_settings_of_its_claims():
    claim = SPREAD.model_copy(update={"settings": ("blind",)})
    points = front.front([claim], {"base": study(TOLLS), "blind": study(TOLLS)})
    assert {p.setting for p in points} == {"blind"}


@pytest.mark.slow
def test_the_drawing_is_an_svg_without_script_address_or_users_markup():
    points = [
        replace(p, strategy="<script>x</script>") if p.epsilon == "1" else p
        for p in front.front([SPREAD], {"base": study(TOLLS, collapsed=0.1)})
    ]
    kind, _, content = front.data_url(points).partition(",")
    assert kind == "data:image/svg+xml;base64"
    svg = base64.b64decode(content).decode()
    assert svg.startswith("<svg")
    assert "<script" not in svg
    assert "href" not in svg
    for words in ("ε = 0.1", "accuracy of everybody", "disparity of accuracy", ">fedavg<", "&lt;script"):
        assert words in svg
    assert front.data_url(points) == front.data_url(points)
    assert "(all)" not in front.alt_text(points)
    assert front.collapse_sentence(points).endswith("base, fedavg at ε = 0.1 (100% of seeds).")
