"""Every verdict, from tables in which the truth is planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedtoll.findings.contrasts import outcomes
from fedtoll.findings.verdicts import Case, Part, fieller, judge
from fedtoll.scenarios.claims import LEAST_SEEDS, Claim, Term
from fedtoll.scenarios.measures import FLAGS
from fedtoll.toll.intervals import holm, sign_flip, t_interval
from tests.findings.planted import study

TIGHT, LOOSE = {"big": 0.05, "small": 0.15}, {"big": 0.01, "small": 0.02}
PLANTED = {8.0: LOOSE, 1.0: TIGHT}


def claim(kind, **fields):
    sides = {"a": Term(groups=("small",)), "b": Term(groups=("big",))}
    if kind == "threshold":
        del sides["b"]
    usual = {"name": "x", "says": "x", "kind": kind, "measure": "accuracy", "epsilon": 1.0, **sides}
    return Claim(**{**usual, **fields})


def verdict(stated, **planted):
    (outcome,) = outcomes([stated], {"base": study(PLANTED, **planted)})
    return outcome


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (claim("order"), "reproduced"),
        (claim("order", a=Term(groups=("big",)), b=Term(groups=("small",))), "contradicted"),
        (claim("order", b=Term(groups=("small",), epsilon=1.0)), "undecided"),  # with itself: 0 in every seed
        (claim("difference", at_least=0.05, at_most=0.15), "reproduced"),
        (claim("difference", at_least=0.2), "contradicted"),
        (claim("difference", at_least=0.1), "not reproduced"),  # the bound is where the truth is
        (claim("difference", at_most=0.05), "contradicted"),
        (claim("threshold", at_least=0.1), "reproduced"),
        (claim("threshold", at_most=0.1), "contradicted"),
        (claim("threshold", at_least=0.145, at_most=0.155, epsilon=8.0), "contradicted"),
        (claim("ratio", at_least=2.0), "reproduced"),
        (claim("ratio", at_least=2.0, at_most=4.0), "reproduced"),
        (claim("ratio", at_least=4.5), "contradicted"),
        (claim("ratio", at_most=3.0), "not reproduced"),
        (claim("shape", shape="rises", over=(8, 1), b=None), "reproduced"),
        (claim("shape", shape="falls", over=(8, 1), b=None), "contradicted"),
        (claim("shape", shape="rises", over=(8, 1)), "reproduced"),  # of a − b
        (claim("shape", shape="flat", over=(8, 1), margin=0.2, b=None), "reproduced"),
        (claim("shape", shape="flat", over=(8, 1), margin=0.05, b=None), "contradicted"),
        (claim("shape", shape="flat", over=(8, 1), margin=0.13, b=None), "not reproduced"),
    ],
    ids=lambda x: "" if isinstance(x, str) else f"{x.kind}-{x.shape or ''}{x.at_least}{x.at_most}",
)
def test_each_kind_of_claim_gets_each_verdict(stated, expected):
    outcome = verdict(stated)
    assert outcome.verdict == expected, outcome
    assert outcome.seeds == 10
    assert (outcome.why == "the same value in every seed, so there is no interval") == (
        expected == "undecided"
    )
    assert outcome.p == outcome.p_holm  # the only claim of its family


@pytest.mark.slow
def test_a_curve_that_peaks_and_one_with_a_step_the_other_way():
    tolls = {e: {"g": t} for e, t in ((8.0, 0.05), (2.0, 0.2), (1.0, 0.1))}
    over = (8, 2, 1)
    verdicts = {
        shape: outcomes(
            [claim("shape", shape=shape, over=over, a=Term(groups=("g",)), b=None, **more)],
            {"base": study(tolls)},
        )[0]
        for shape, more in (("peaks", {"peak": 2}), ("rises", {}), ("falls", {}))
    }
    assert verdicts["peaks"].verdict == "reproduced"
    assert verdicts["rises"].verdict == "contradicted"  # from first to last it rises, but its last step falls
    assert verdicts["falls"].verdict == "contradicted"
    assert verdicts["peaks"].figure == "peak − higher end"
    assert verdicts["peaks"].region == "a peaks at 2 over 8, 2, 1"
    assert verdicts["peaks"].mean == pytest.approx(0.1, abs=0.02)


def test_a_shape_over_settings_pairs_seeds_between_them():
    studies = {
        name: study({1.0: {"small": t, "big": 0.05}}, salt=i)
        for i, (name, t) in enumerate([("base", 0.05), ("half", 0.1), ("tenth", 0.2)])
    }
    rising = claim("shape", shape="rises", over=("base", "half", "tenth"))
    (outcome,) = outcomes([rising], studies)
    assert outcome.verdict == "reproduced"
    assert outcome.region == "a − b rises over base, half, tenth"
    assert len(outcome.sides) == 6


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ({"seeds": 5}, "too few seeds: 5, at least 10 are needed"),
        ({"seeds": LEAST_SEEDS - 1}, "too few seeds: 9"),
        ({"undefined": 3}, "too few seeds: 7"),
        ({"undefined": 10}, "undefined in every seed"),
        ({"n": {"small": 15}}, "too few records: small"),
    ],
)
def test_what_cannot_be_decided_says_why(planted, words):
    outcome = verdict(claim("order"), **planted)
    assert outcome.verdict == "undecided"
    assert words in outcome.why


def test_quick_decides_nothing():
    (outcome,) = outcomes([claim("order")], {"base": study(PLANTED)}, undecidable="quick: few seeds")
    assert (outcome.verdict, outcome.why) == ("undecided", "quick: few seeds")
    assert outcome.mean == pytest.approx(0.1, abs=0.02)


@pytest.mark.slow
def test_a_family_too_large_for_its_seeds_decides_nothing():
    few = outcomes([claim("order", name=f"x{i}") for i in range(25)], {"base": study(PLANTED)})
    many = outcomes([claim("order", name=f"x{i}") for i in range(26)], {"base": study(PLANTED)})
    assert {o.verdict for o in few} == {"reproduced"}
    assert {o.verdict for o in many} == {"undecided"}
    assert "family too large" in many[0].why


def test_holm_is_over_all_claims_and_can_take_a_verdict_away():
    rng = np.random.default_rng(3)
    draws = (rng.normal(0.7, 1.0, 12) for _ in range(1000))
    x = next(x for x in draws if 0.02 < sign_flip(x) < 0.05 and t_interval(x)[1] > 0)
    alone = judge([Case((Part(x, low=0.0),))])[0]
    assert alone.verdict == "reproduced"
    others = [Case((Part(rng.normal(0, 1, 12), low=0.0),)) for _ in range(9)]
    crowd = judge([Case((Part(x, low=0.0),)), *others])
    assert crowd[0].p == alone.p
    assert crowd[0].p_holm > alone.p
    assert [c.p_holm for c in crowd] == pytest.approx(list(holm([c.p for c in crowd])))
    assert crowd[0].verdict == "not reproduced"
    assert "Holm" in crowd[0].why


def test_verdicts_rest_on_the_tolls_own_statistics():
    outcome = verdict(claim("order"))
    planted_study = study(PLANTED)
    small, big = (planted_study.quantity(claim("order").terms("base")[i]).seeds for i in (0, 1))
    assert (outcome.mean, outcome.low, outcome.high) == pytest.approx(
        [float(v) for v in t_interval(small - big)]
    )
    assert outcome.p == sign_flip(small - big)
    assert outcome.seeds == len(small)


def test_a_ratio_to_nothing_is_not_reproduced():
    stated = claim("ratio", at_least=2.0)
    none = {1.0: {"small": 0.2, "big": 0.0}}
    (outcome,) = outcomes([stated], {"base": study(none)})
    assert outcome.verdict == "not reproduced"
    assert "there is no ratio" in outcome.why
    assert math.isnan(outcome.low)


@pytest.mark.slow
def test_fieller_covers_the_ratio():
    """95% of the intervals contain the true ratio of 3 when the sides share noise."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        shared = rng.normal(0, 0.02, 10)
        a, b = 0.15 + shared + rng.normal(0, 0.02, 10), 0.05 + shared / 3 + rng.normal(0, 0.01, 10)
        _, low, high = fieller(a, b)
        covered += low <= 3.0 <= high
    assert 0.935 < covered / 2000 < 0.965


@pytest.mark.slow
def test_false_claims_are_seldom_reproduced():
    """If there is no difference, at most 5% of verdicts are false in either direction."""
    rng = np.random.default_rng(1)
    words = [judge([Case((Part(rng.normal(0, 1, 10), low=0.0),))])[0].verdict for _ in range(1000)]
    assert words.count("not reproduced") > 930
    assert words.count("reproduced") > 0  # by chance, so the test can fail
    band = [
        judge([Case((Part(rng.normal(1, 1, 10), -1.0, 1.0),))])[0].verdict for _ in range(500)
    ]  # the truth lies on the bound of equivalence
    assert band.count("reproduced") / 500 < 0.05


@pytest.mark.parametrize(
    ("ones", "bound", "expected"),
    [
        (10, {"at_least": 0.5}, "reproduced"),
        (10, {"at_least": 0.9}, "not reproduced"),  # even a share of .9 gives ten of ten with p = .35
        (9, {"at_least": 0.5}, "reproduced"),
        (8, {"at_least": 0.5}, "not reproduced"),
        (1, {"at_least": 0.5}, "contradicted"),
        (0, {"at_most": 0.1}, "not reproduced"),
        (0, {"at_most": 0.5}, "reproduced"),
        (10, {"at_most": 0.5}, "contradicted"),
    ],
)
@pytest.mark.parametrize("measure", FLAGS)
def test_a_share_of_seeds_has_the_exact_binomial_test(ones, bound, expected, measure):
    planted_study = study(PLANTED)
    planted_study.groups[measure] = planted_study.groups["seed"] < ones
    stated = claim("threshold", of="value", measure=measure, a=Term(), **bound)
    (outcome,) = outcomes([stated], {"base": planted_study})
    (limit,) = bound.values()
    above = ones / 10 >= limit
    exact = stats.binomtest(ones, 10, limit, alternative="greater" if above else "less")
    assert outcome.p == pytest.approx(min(1.0, 2 * exact.pvalue))
    both = stats.binomtest(ones, 10).proportion_ci(0.95, "exact")
    assert (outcome.mean, outcome.low, outcome.high) == pytest.approx((ones / 10, *both))
    assert outcome.verdict == expected


@pytest.mark.slow
def test_a_share_that_lies_on_its_bound_is_seldom_shown():
    rng = np.random.default_rng(5)
    for bound in (0.5, 0.9):
        drawn = (rng.random((1000, 10)) < bound).astype(float)
        words = [judge([Case((Part(x, low=bound, share=True),))])[0].verdict for x in drawn]
        assert 1000 - words.count("not reproduced") < 75  # 50 ± 3.6 standard errors


def test_the_same_value_in_every_seed_is_no_certainty():
    planted_study = study({1.0: {"small": 0.1, "big": 0.1}}, noise=0.0)
    planted_study.groups["selection_rate"] = 0.25
    stated = claim("threshold", of="spread", measure="selection_rate", a=Term(), at_most=0.02)
    (outcome,) = outcomes([stated], {"base": planted_study})
    assert outcome.verdict == "undecided"
    assert "the same value in every seed" in outcome.why
    assert math.isnan(outcome.low)
    assert math.isnan(outcome.high)


@pytest.mark.parametrize(("few", "dropped"), [(("small",), ("small",)), (("big", "small"), ("big", "small"))])
def test_a_spread_over_fewer_than_two_groups_is_undefined(few, dropped):
    planted_study = study(PLANTED, n=dict.fromkeys(few, 15))
    term = Term(of="spread", measure="accuracy", epsilon=1.0, setting="base")
    assert planted_study.quantity(term).seeds.isna().all()
    assert planted_study.quantity(term).too_few == dropped
    (outcome,) = outcomes([claim("threshold", of="spread", a=Term(), at_most=0.9)], {"base": planted_study})
    assert outcome.verdict == "undecided"
    assert f"too few records: {', '.join(dropped)}" in outcome.why


def test_a_step_in_the_other_direction_rules_out_reproduced():
    """The mean of every step must lie on the right side, even if it does not contradict the claim."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1.0, 10)
    noise -= noise.mean()
    overall = Part(1.0 + rng.normal(0, 0.1, 10), low=0.0)

    def curve(mean):
        return judge([Case((overall, Part(mean + noise, low=0.0, guard=True)))])[0]

    assert curve(0.05).verdict == "reproduced"
    assert curve(-0.05).verdict == "not reproduced"
    assert "one of its steps goes the other way" in curve(-0.05).why
    assert curve(-5.0).verdict == "contradicted"


@pytest.mark.parametrize("of", ["toll", "price", "value", "spread", "weight"])
def test_every_quantity_is_what_it_says(of):
    planted_study = study({**PLANTED, "clip-only": LOOSE}, noise=0.0, start={"big": 0.9, "small": 0.7})
    groups = ("small",) if of != "spread" else ("small", "big")
    term = Term(groups=groups, of=of, measure="accuracy", epsilon=1.0, setting="base")
    rows = planted_study.groups.query(
        "mechanism == 'dp-sgd' and epsilon == 1 and group == 'small'"
    ).set_index("seed")
    found = planted_study.quantity(term).seeds
    if of in {"toll", "price"}:
        assert found.to_numpy() == pytest.approx(0.15)
    elif of == "value":
        assert found.to_numpy() == pytest.approx(rows["accuracy"].to_numpy())
    elif of == "weight":
        assert found.to_numpy() == pytest.approx(0.5)
    else:
        big = planted_study.groups.query(
            "mechanism == 'dp-sgd' and epsilon == 1 and group == 'big'"
        ).set_index("seed")
        spread = (big["accuracy"] - rows["accuracy"]).abs()
        assert found.to_numpy() == pytest.approx(spread.to_numpy())
    clipped = planted_study.quantity(
        term.model_copy(update={"epsilon": "clip-only", "of": "toll", "groups": ("big",)})
    )
    assert clipped.seeds.to_numpy() == pytest.approx(0.01)
    assert "clip-only" in clipped.description
