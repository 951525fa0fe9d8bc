"""The declared family of comparisons: exact within seeds, adjusted as a whole, not tested with few seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.toll import comparisons, toll, toll_gap
from fedtoll.toll.intervals import holm, sign_flip, t_interval
from fedtoll.toll.two_gaps import gap_swap
from tests.toll.tables import INF, NAN, FakeResults, at, resolved

GROUPS = {"a": 0.05, "b": 0.10, "c": 0.25}


def study(
    rng: np.random.Generator,
    strategies: dict[str, float],
    seeds: int = 10,
    spread: float = 0.04,
    own: float = 0.01,
    **scenario: Any,
) -> FakeResults:
    """Simulate a study; ``strategies`` gives the relative excess of each strategy's tolls over FedAvg's.

    ``spread`` is the standard deviation shared by the strategies of a seed, ``own`` that of each run.
    """
    cost = np.array([*GROUPS.values()])
    shared_SG = rng.normal(0, spread, (seeds, len(cost)))
    parts = []
    for name, more in strategies.items():
        free_SG = 0.3 + shared_SG / 2
        paid_SG = (1 + more) * cost + shared_SG + rng.normal(0, own, (seeds, len(cost)))
        for mechanism, epsilon, loss_SG in (("none", INF, free_SG), ("dp-sgd", 0.5, free_SG + paid_SG)):
            loss = np.column_stack([loss_SG, loss_SG.mean(axis=1)])
            parts.append(rows(name, mechanism, epsilon, (*GROUPS, "(all)"), loss))
    return FakeResults(pd.concat(parts), resolved(tuple(strategies), (INF, 0.5), **scenario))


def rows(
    strategy: str, mechanism: str, epsilon: float, groups: tuple[str, ...], loss_SG: np.ndarray
) -> pd.DataFrame:
    """Make the rows of the groups table of one strategy at one ε."""
    seeds = len(loss_SG)
    return pd.DataFrame(
        {
            "strategy": strategy,
            "mechanism": mechanism,
            "epsilon": epsilon,
            "seed": np.repeat(np.arange(seeds), len(groups)),
            "round": 5,
            "group": np.tile(groups, seeds),
            "n": 500,
            "positives": 100,
            "log_loss": loss_SG.reshape(-1),
            "tpr": 0.5,
            "collapsed": False,
            "below_majority": False,
        }
    )


@pytest.fixture
def results() -> FakeResults:
    return study(np.random.default_rng(0), {"fedavg": 0.0, "term(t=5)": -0.4, "uniform": 0.5})


def test_the_default_family_is_everyone_against_fedavg_at_the_tightest(results):
    frame = comparisons(results)
    assert frame[
        ["strategy", "baseline", "measure", "mechanism", "epsilon", "quantity"]
    ].to_numpy().tolist() == [
        [s, "fedavg", "log_loss", "dp-sgd", 0.5, q]
        for s in ("term(t=5)", "uniform")
        for q in ("toll gap", "utility")
    ]
    assert (frame["seeds"] == 10).all()
    assert (frame["reason"] == "").all()
    assert frame["significant"].dtype == bool


def test_the_difference_is_that_of_the_gaps_and_of_the_utilities(results):
    frame = comparisons(results)
    gaps = toll_gap(toll(results.groups))
    baseline = at(gaps, strategy="fedavg")
    for name in ("term(t=5)", "uniform"):
        own = at(gaps, strategy=name)
        gap, utility = frame[frame["strategy"] == name].to_dict("records")
        assert gap["difference"] == pytest.approx(own["gap"] - baseline["gap"])
        assert utility["difference"] == pytest.approx(own["everybody"] - baseline["everybody"])
        assert gap["low"] < gap["difference"] < gap["high"]
        assert utility["low"] < utility["difference"] < utility["high"]


def test_p_values_are_those_of_the_exact_tests(results):
    frame = comparisons(results)
    own = results.groups[results.groups["group"] != "(all)"].set_index(["strategy", "seed", "group"])
    loss = {m: own[own["mechanism"] == m]["log_loss"] for m in ("none", "dp-sgd")}
    paid = (loss["dp-sgd"] - loss["none"]).unstack()  # noqa: PD010
    everybody = results.groups.query("group == '(all)' and mechanism == 'dp-sgd'").set_index(
        ["strategy", "seed"]
    )
    for name in ("term(t=5)", "uniform"):
        gap, utility = frame[frame["strategy"] == name]["p"]
        assert gap == pytest.approx(gap_swap(paid.loc[name].to_numpy(), paid.loc["fedavg"].to_numpy()))
        difference = everybody.loc[name, "log_loss"] - everybody.loc["fedavg", "log_loss"]
        assert utility == pytest.approx(sign_flip(difference))


def test_holm_is_over_the_whole_family(results):
    frame = comparisons(results)
    assert frame["p_holm"].min() == pytest.approx(4 * frame["p"].min())
    excludes = (frame["low"] > 0) | (frame["high"] < 0)
    assert (frame["significant"] == ((frame["p_holm"] <= 0.05) & excludes)).all()
    assert frame.query("quantity == 'toll gap'")["significant"].all()  # planted: .08 and .1 of .2


def test_an_interval_with_zero_is_not_significant_whatever_the_test_says():
    """Two strategies with the same expected tolls, equal over groups, one with five times the noise."""
    results = study(np.random.default_rng(1), {"fedavg": 0.0, "q": 0.0})
    rng, groups = np.random.default_rng(21), results.groups
    of_group = groups["group"] != "(all)"
    for strategy, sd in (("fedavg", 0.02), ("q", 0.1)):
        own = (groups["strategy"] == strategy) & of_group
        free, private = (own & (groups["mechanism"] == m) for m in ("none", "dp-sgd"))
        noise = rng.normal(0, sd, private.sum())
        groups.loc[private, "log_loss"] = groups.loc[free, "log_loss"].to_numpy() + 0.1 + noise
    row = comparisons(results).query("quantity == 'toll gap'").iloc[0]
    assert row["p_holm"] <= 0.05
    assert row["low"] < 0 < row["high"]
    assert not row["significant"]


def test_the_family_is_the_declared_one(results):
    results.resolved["scenario"]["compare"] = {
        "baseline": "uniform",
        "strategies": ["term"],
        "measure": "tpr",
        "quantities": ["utility"],
        "epsilons": [0.5],
    }
    frame = comparisons(results)
    assert frame[["strategy", "baseline", "measure", "quantity"]].to_numpy().tolist() == [
        ["term(t=5)", "uniform", "tpr", "utility"]
    ]
    assert (frame["difference"].item(), frame["p"].item()) == (0, 1)
    assert frame[["low", "high"]].isna().all(axis=None)  # tpr does not move: nothing is known of its spread


def test_a_declaration_that_names_nothing_is_one_line(results):
    results.resolved["scenario"]["compare"] = {"baseline": "fedavgg"}
    with pytest.raises(ScenarioError, match="did you mean 'fedavg'"):
        comparisons(results)
    results.resolved["scenario"]["compare"] = {"measures": "tpr"}
    with pytest.raises(ScenarioError, match=r"^resolved\.json: compare: "):
        comparisons(results)


@pytest.mark.parametrize(
    ("seeds", "reason"), [(3, "too few seeds"), (5, "too few seeds"), (6, "family too large")]
)
def test_what_the_seeds_cannot_reach_is_no_test_but_has_its_figures(seeds, reason):
    results = study(np.random.default_rng(0), {"fedavg": 0.0, "term(t=5)": -0.4, "uniform": 0.5}, seeds)
    frame = comparisons(results)
    assert frame["reason"].str.startswith(reason).all()
    assert frame[["p", "p_holm"]].isna().all(axis=None)
    assert not frame["significant"].any()
    assert frame[["difference", "low", "high"]].notna().all(axis=None)


@pytest.mark.parametrize(
    ("drop", "reason"),
    [
        ("mechanism == 'none'", "no run at ε = ∞"),
        ("strategy == 'term(t=5)' and mechanism == 'dp-sgd'", "no run of term"),
        ("group in ('a', 'b')", "fewer than two groups"),
        ("(strategy == 'fedavg') == (seed < 5) and mechanism == 'dp-sgd'", "no seed in which"),
    ],
)
def test_a_comparison_without_data_gives_the_reason(results, drop, reason):
    results.groups = results.groups.query(f"not ({drop})")
    row = comparisons(results).iloc[0]
    assert row["reason"].startswith(reason) or row["reason"].endswith("to take tolls from")
    assert row["seeds"] == 0
    assert row[["difference", "p", "p_holm"]].isna().all()
    assert not row["significant"]


@pytest.mark.slow
def test_a_small_group_and_an_undefined_seed_take_no_part(results):
    before = comparisons(results)
    tiny = results.groups.query("group == 'a'").assign(group="tiny", n=20, positives=3)
    tiny["log_loss"] += 5.0 * (tiny["strategy"] == "uniform")
    results.groups = pd.concat([results.groups, tiny])
    pd.testing.assert_frame_equal(comparisons(results), before)
    hole = (
        (results.groups["seed"] == 3)
        & (results.groups["group"] == "b")
        & (results.groups["strategy"] == "uniform")
    )
    results.groups.loc[hole, "log_loss"] = NAN
    after = comparisons(results)
    assert after["seeds"].tolist() == [10, 10, 9, 10]


def test_one_strategy_or_no_finite_epsilon_has_no_family():
    alone = study(np.random.default_rng(0), {"fedavg": 0.0})
    assert comparisons(alone).empty
    assert list(comparisons(alone).columns)[:2] == ["strategy", "baseline"]
    free = study(np.random.default_rng(0), {"fedavg": 0.0, "q": 0.0})
    free.resolved["scenario"]["privacy"]["epsilons"] = ["inf", "clip-only"]
    assert comparisons(free).empty


@pytest.mark.slow
def test_a_strategy_against_itself_is_significant_at_most_five_times_in_a_hundred():
    """A/A test: 100 families of four tests, where each strategy is FedAvg with other noise."""
    rng = np.random.default_rng(11)
    families = [comparisons(study(rng, {"fedavg": 0.0, "q": 0.0, "afl": 0.0})) for _ in range(100)]
    assert np.mean([f["significant"].any() for f in families]) <= 0.05
    assert 0.03 < np.mean([f["p"] <= 0.05 for f in families]) < 0.07  # exact, not merely silent


@pytest.mark.slow
def test_the_tests_are_exact_over_many_families_whether_or_not_groups_tie():
    """A/A test on arrays: 2,000 families of four tests that share one baseline."""
    rng = np.random.default_rng(13)
    for cost in (np.array([0.05, 0.10, 0.25]), np.zeros(3)):
        p = np.empty((2000, 4))
        for family in p:
            shared, *own = rng.normal(0, [[[0.04]], [[0.02]], [[0.02]], [[0.02]]], (4, 10, 3))
            base, *others = (cost + shared + e for e in own)
            family[:2] = [gap_swap(x, base) for x in others]
            family[2:] = [sign_flip((x - base).mean(axis=1)) for x in others]
        false = np.mean([(holm(family) <= 0.05).any() for family in p])
        assert false <= 0.05 + 2.6 * np.sqrt(0.05 * 0.95 / len(p))
        assert np.mean(p <= 0.05) == pytest.approx(0.05, abs=0.01)


POWER = {3: 0.29, 5: 0.66, 10: 0.97}
"""Power of the paired t test for a difference of .02, with a shared sd of .04 and an own sd of .01."""


@pytest.mark.parametrize("seeds", POWER)
@pytest.mark.slow
def test_a_planted_difference_is_found_as_often_as_it_should(seeds):
    """One strategy costs everybody .02 more: count how often intervals and the exact test find it."""
    rng, repeats = np.random.default_rng(12), 4000
    shared = rng.normal(0, 0.04, (seeds, repeats))
    base, rival = (shared + more + rng.normal(0, 0.01, (seeds, repeats)) for more in (0.0, 0.02))
    _, low, _ = t_interval(rival - base)
    assert np.mean(low > 0) == pytest.approx(POWER[seeds], abs=0.03)
    rejected = np.mean([sign_flip(x) <= 0.05 for x in (rival - base).T[:1000]])
    assert rejected > 0.93 if seeds == 10 else rejected == 0


def test_the_planted_difference_is_found_in_results():
    rng = np.random.default_rng(14)
    shared = 0.4 + rng.normal(0, 0.04, (10, 1))
    parts = [
        rows(strategy, "dp-sgd", 0.5, ("(all)",), shared + more + rng.normal(0, 0.01, (10, 1)))
        for strategy, more in (("fedavg", 0.0), ("q", 0.02))
    ]
    shown = resolved(("fedavg", "q"), (INF, 0.5), compare={"quantities": ["utility"]})
    (row,) = comparisons(FakeResults(pd.concat(parts), shown)).to_dict("records")
    assert row["significant"]
    assert row["low"] < row["difference"] < row["high"] < 0


@pytest.mark.parametrize("draw", range(6))  # whether rounding hid the fault depends on the numbers
def test_groups_that_the_strategy_leaves_alone_make_no_noise_significant(draw):
    """The strategy changes b alone, so the pair of c and a is the same under both, and a candidate."""
    rng = np.random.default_rng(draw)
    results = study(rng, {"fedavg": 0.0}, seeds=10, spread=0.01)
    own = results.groups.assign(strategy="uniform")
    hit = (own["group"] == "b") & (own["mechanism"] == "dp-sgd")
    own.loc[hit, "log_loss"] += 0.15 + rng.normal(0, 0.05, 10)  # about the toll of c
    both = pd.concat([results.groups, own], ignore_index=True)
    frame = comparisons(FakeResults(both, resolved(("fedavg", "uniform"), (INF, 0.5))))
    row = frame[frame["quantity"] == "toll gap"].iloc[0]
    assert row["low"] <= row["difference"] <= row["high"]
