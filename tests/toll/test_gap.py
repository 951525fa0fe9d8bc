"""The gap and the disparity of seed means, without groups that are too small for a claim."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedtoll.toll import toll, toll_gap
from fedtoll.toll.gap import between_groups, gap_interval
from tests.toll.tables import NAN, at, pair, table


def test_the_gap_is_taken_of_seed_means():
    # Per seed the groups are .2 apart, one way and the other; in the mean they pay the same.
    a = pair([(0.2, 0.3), (0.2, 0.5)], group="a")
    b = pair([(0.2, 0.5), (0.2, 0.3)], group="b")
    row = at(toll_gap(toll(pd.concat([a, b]))))
    assert row["gap"] == pytest.approx(0)
    assert row["groups"] == 2


def test_the_gap_names_who_pays_most_and_least():
    parts = [pair([(0.2, 0.2 + cost)] * 2, group=g) for g, cost in (("a", 0.05), ("b", 0.25), ("c", -0.01))]
    row = at(toll_gap(toll(pd.concat(parts))))
    assert row["gap"] == pytest.approx(0.26)
    assert (row["worst_group"], row["best_group"]) == ("b", "c")
    assert (row["worst_toll"], row["best_toll"]) == pytest.approx((0.25, -0.01))
    assert row["disparity"] == pytest.approx(0.26)


@pytest.mark.parametrize("last", [0.3, 0.1 + 0.2, 0.3 - 1e-16])
def test_the_same_gap_in_every_seed_is_no_certainty_whatever_is_rounded(last):
    low, high = gap_interval(np.array([[0.3, 0.1]] * 3 + [[last, 0.1]]))
    assert low == 0
    assert np.isnan(high)
    assert gap_interval(np.array([[0.3, 0.3]] * 3 + [[0.3, last]])) == pytest.approx((0, 0), abs=1e-15)


def test_everybody_and_groups_with_too_few_records_take_no_part_in_the_gap():
    parts = [pair([(0.2, 0.2 + cost)] * 2, group=g) for g, cost in (("a", 0.05), ("b", 0.06), ("(all)", 0.5))]
    parts.append(pair([(0.2, 0.9)] * 2, group="tiny", n=20, positives=4))
    row = at(toll_gap(toll(pd.concat(parts))))
    assert (row["groups"], row["worst_group"]) == (2, "b")
    assert row["gap"] == pytest.approx(0.01)


def test_one_group_has_no_gap():
    row = at(toll_gap(toll(pair([(0.2, 0.3)] * 2))))
    assert row[["gap", "worst_toll", "disparity"]].isna().all()
    assert pd.isna(row["worst_group"])


def test_disparity_is_that_of_the_utility_at_epsilon():
    parts = [pair([(0.3, 0.5), (0.3, 0.7)], group="a"), pair([(0.2, 0.1), (0.2, 0.3)], group="b")]
    frame = toll_gap(toll(pd.concat(parts)))
    assert at(frame)["disparity"] == pytest.approx(0.6 - 0.2)
    assert at(frame, "none")["disparity"] == pytest.approx(0.1)


def test_the_interval_of_the_gap_is_the_widest_pairs():
    rng = np.random.default_rng(0)
    toll_SG = rng.normal([0.1, 0.3, 0.2], 0.05, (10, 3))
    lows, highs = [], []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        pairs = stats.ttest_rel(toll_SG[:, i], toll_SG[:, j]).confidence_interval(1 - 0.05 / 3)
        lows.append(max(pairs.low, -pairs.high))
        highs.append(max(pairs.high, -pairs.low))
    assert gap_interval(toll_SG) == pytest.approx((max(lows), max(highs)))


def test_the_interval_of_the_gap_is_in_the_frame_and_includes_zero_where_nothing_differs():
    rng = np.random.default_rng(1)
    parts = [pair(np.c_[np.full(8, 0.2), rng.normal(0.3, 0.05, 8)], group=g) for g in "abc"]
    parts.append(pair(np.c_[np.full(8, 0.2), rng.normal(0.9, 0.05, 8)], group="tiny", n=8))
    row = at(toll_gap(toll(pd.concat(parts))))
    assert row["gap_low"] == 0
    assert 0 < row["gap"] < row["gap_high"] < 0.3  # the tiny group takes no part


@pytest.mark.parametrize(
    "toll_SG", [np.zeros((1, 3)), np.zeros((5, 1)), np.full((5, 3), NAN), np.zeros((0, 0))]
)
def test_without_two_seeds_and_two_groups_the_gap_has_no_interval(toll_SG):
    assert np.isnan(gap_interval(toll_SG)).all()


def test_an_undefined_group_or_seed_is_left_out_of_the_interval():
    x = np.random.default_rng(0).normal(size=(6, 3))
    holes = np.column_stack([x, np.full(6, NAN)])
    assert gap_interval(holes) == gap_interval(x)
    holes = np.vstack([x, [NAN, 0, 0]])
    assert gap_interval(holes) == gap_interval(x)


def holes() -> pd.DataFrame:
    """Make tolls in the TPR of three groups; b has no positives in the easy seeds, which cost little."""
    parts = []
    for group, more in (("a", 0.05), ("b", 0.0), ("c", 0.04)):
        part = pair([(0.2, 0.3)] * 10, group=group)
        hard, private = part["seed"] % 2 == 1, part["mechanism"] == "dp-sgd"
        own = {"a": 0.001, "b": 0.0, "c": -0.0005}[group] * (part["seed"] // 2)
        cost = np.where(hard, 0.25, 0.0) + more + own
        part["tpr"] = np.where(private, 0.8 - cost, 0.8)
        if group == "b":
            part.loc[~hard, "tpr"] = NAN
            part.loc[~hard, "positives"] = 0
        parts.append(part)
    return pd.concat(parts)


def test_groups_are_compared_over_the_same_seeds():
    """Over its own seeds b would pay most, for it has no easy ones; in each of them it pays least."""
    tolls = toll(holes(), "tpr")
    row = at(toll_gap(tolls))
    assert (row["worst_group"], row["best_group"], row["groups"], row["seeds"]) == ("a", "b", 3, 5)
    assert (row["worst_toll"], row["best_toll"]) == pytest.approx((0.302, 0.25))
    assert row["gap"] == pytest.approx(0.052)
    assert row["gap_low"] < row["gap"] < row["gap_high"]
    assert row["disparity"] == pytest.approx(0.052)
    assert at(tolls, group="b")["toll"] == pytest.approx(0.25)  # each group's own row has all of its seeds
    assert at(tolls, group="c")["toll"] == pytest.approx(0.164)


def test_the_gap_of_a_partial_sweep_has_the_seeds_with_a_reference():
    groups = holes().assign(log_loss=0.3)
    groups = groups[(groups["mechanism"] == "dp-sgd") | (groups["seed"] < 7)]
    row = at(toll_gap(toll(groups, "tpr")))
    assert row["seeds"] == 3
    assert row["gap"] == pytest.approx(0.051)
    assert row["disparity"] == pytest.approx(0.052)  # of levels at ε alone: no reference is needed


def test_without_a_seed_that_has_all_groups_there_is_no_gap():
    parts = [pair([(0.2, 0.3)] * 4, group="a"), pair([(0.2, 0.4)] * 4, group="b")]
    groups = pd.concat(parts)
    apart = (groups["group"] == "a") == (groups["seed"] < 2)
    row = at(toll_gap(toll(groups.assign(tpr=groups["tpr"].where(apart)), "tpr")))
    assert (row["groups"], row["seeds"]) == (0, 0)
    assert row[["gap", "gap_low", "worst_toll", "disparity"]].isna().all()


def rates(*values: float, n: int = 500, positives: int = 100, measure: str = "tpr") -> pd.DataFrame:
    """Make one seed at ε whose groups have these rates."""
    parts = []
    for i, value in enumerate(values):
        parts.append(pair([(0.2, 0.3)], group=f"g{i}", n=n, positives=positives).assign(**{measure: value}))
    return pd.concat(parts)


def test_the_corrected_disparity_is_that_of_lum():
    # Variance of (.2, .4) is .02; chance adds (.2·.8 + .4·.6) / 2 / 99.
    row = at(toll_gap(toll(rates(0.2, 0.4), "tpr")))
    assert row["disparity_corrected"] == pytest.approx(0.02 - 0.2 / 99)
    row = at(toll_gap(toll(rates(0.2, 0.4, measure="accuracy"), "accuracy")))
    assert row["disparity_corrected"] == pytest.approx(0.02 - 0.2 / 499)
    row = at(toll_gap(toll(rates(0.2, 0.4, measure="fpr"), "fpr")))
    assert row["disparity_corrected"] == pytest.approx(0.02 - 0.2 / 399)


def test_the_corrected_disparity_is_signed():
    assert at(toll_gap(toll(rates(0.3, 0.3), "tpr")))["disparity_corrected"] == pytest.approx(-0.21 / 99)


@pytest.mark.parametrize("measure", ["log_loss", "balanced_accuracy", "auroc"])
def test_what_is_no_proportion_has_no_corrected_disparity(measure):
    row = at(toll_gap(toll(rates(0.2, 0.4, measure=measure), measure)))
    assert np.isnan(row["disparity_corrected"])
    assert row["disparity"] == pytest.approx(0.2)


@pytest.mark.slow
def test_the_corrected_disparity_is_unbiased():
    rng = np.random.default_rng(2)
    n_SG = np.tile([20.0, 50.0, 100.0, 1000.0], (10, 1))
    for p in (np.full(4, 0.8), np.array([0.7, 0.8, 0.8, 0.9])):
        found = np.array(
            [between_groups(rng.binomial(n_SG.astype(int), p) / n_SG, n_SG) for _ in range(4000)]
        )
        error = found.std() / np.sqrt(len(found))
        assert abs(found.mean() - p.var(ddof=1)) < 4 * error
        naive = np.mean([np.var(rng.binomial(n_SG[0].astype(int), p) / n_SG[0], ddof=1) for _ in range(4000)])
        assert naive > p.var(ddof=1) + 20 * error  # what the correction is for


def test_the_front_has_those_whom_nobody_beats_in_both():
    def strategy(name: str, everybody: float, gap: float) -> pd.DataFrame:
        costs = {"a": 0.0, "b": gap, "(all)": everybody}
        return pd.concat([pair([(0.2, 0.2 + c)] * 2, name, g) for g, c in costs.items()])

    kinds = {
        "good": (0.1, 0.1),
        "fair": (0.3, 0.0),
        "worse": (0.2, 0.2),
        "same": (0.1, 0.1),
        "slow": (0.1, 0.15),
    }
    frame = toll_gap(toll(pd.concat([strategy(k, *v) for k, v in kinds.items()])))
    assert {k: bool(at(frame, strategy=k)["on_front"]) for k in kinds} == {
        "good": True,
        "fair": True,
        "worse": False,
        "same": True,
        "slow": False,
    }
    row = at(frame, strategy="fair")
    assert (row["everybody"], row["everybody_toll"]) == pytest.approx((-0.5, 0.3))


def test_without_a_gap_or_everybody_nobody_is_on_the_front():
    alone = pd.concat([pair([(0.2, 0.3)] * 2, group=g) for g in ("a", "(all)")])
    assert not at(toll_gap(toll(alone)))["on_front"]
    headless = pd.concat([pair([(0.2, 0.3)] * 2, group=g) for g in ("a", "b")])
    row = at(toll_gap(toll(headless)))
    assert not row["on_front"]
    assert np.isnan(row["everybody"])


def test_the_utility_of_everybody_points_upwards():
    groups = table(
        *[("fedavg", m, e, 0, "(all)", 0.4) for m, e in (("none", np.inf), ("dp-sgd", 1.0))], tpr=0.7
    )
    assert at(toll_gap(toll(groups)))["everybody"] == pytest.approx(-0.4)
    assert at(toll_gap(toll(groups, "tpr")))["everybody"] == pytest.approx(0.7)
