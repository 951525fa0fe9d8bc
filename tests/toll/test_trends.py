"""Slopes over log ε, and the toll in the terms of two papers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.toll import slopes, toll
from fedtoll.toll.literature import literature
from tests.toll.tables import INF, NAN, FakeResults, at, pair, resolved, table


def curve(slope_of: dict[int, float], epsilons: tuple[float, ...] = (0.5, 2.0, 8.0)) -> pd.DataFrame:
    """Make one group whose utility (minus log-loss) rises by ``slope_of[seed]`` per unit of ln ε."""
    rows = [("fedavg", "dp-sgd", e, s, "a", 1 - b * np.log(e)) for s, b in slope_of.items() for e in epsilons]
    free = [("fedavg", m, INF, s, "a", 0.1) for s in slope_of for m in ("none", "clip-only")]
    return table(*rows, *free)


def test_the_slope_is_taken_per_seed_and_then_averaged():
    frame = slopes(curve({0: 0.1, 1: 0.2, 2: 0.4}))
    (row,) = frame.to_dict("records")
    expected = stats.ttest_1samp([0.1, 0.2, 0.4], 0).confidence_interval(0.95)
    assert (row["strategy"], row["group"], row["epsilons"], row["seeds"], row["runs"]) == (
        "fedavg",
        "a",
        3,
        3,
        3,
    )
    assert row["slope"] == pytest.approx(0.7 / 3)
    assert (row["slope_low"], row["slope_high"]) == pytest.approx((expected.low, expected.high))


def test_the_slope_is_of_utility():
    assert slopes(curve({0: 0.1}).assign(tpr=lambda x: x["log_loss"]), "tpr")[
        "slope"
    ].item() == pytest.approx(-0.1)


def test_a_seed_with_a_hole_is_left_out_and_seen():
    groups = curve({0: 0.1, 1: 0.2, 2: 0.3})
    groups.loc[(groups["seed"] == 2) & (groups["epsilon"] == 8.0), "log_loss"] = NAN
    (row,) = slopes(groups).to_dict("records")
    assert (row["seeds"], row["runs"]) == (2, 3)
    assert row["slope"] == pytest.approx(0.15)
    groups = groups[groups["log_loss"].notna()]
    assert slopes(groups)["slope"].item() == pytest.approx(0.15)


def test_one_epsilon_has_no_slope():
    (row,) = slopes(curve({0: 0.1, 1: 0.2}, (0.5,))).to_dict("records")
    assert np.isnan([row["slope"], row["slope_low"], row["slope_high"]]).all()
    assert (row["epsilons"], row["seeds"]) == (1, 0)


def test_slopes_carry_the_flags():
    groups = curve({0: 0.1, 1: 0.2}).assign(n=30, positives=4)
    groups["collapsed"] = (groups["epsilon"] == 0.5) & (groups["seed"] == 0)
    (row,) = slopes(groups).to_dict("records")
    assert (row["n"], row["positives"], row["too_few"]) == (60, 8, True)
    assert row["collapsed"] == pytest.approx(1 / 6)


def test_slopes_of_an_unknown_measure():
    with pytest.raises(ScenarioError, match="'log_loss'"):
        slopes(curve({0: 0.1}), "logloss")


@pytest.mark.slow
def test_the_papers_quantities_are_worked_out_by_hand():
    losses = {"a": [(0.2, 0.3), (0.2, 0.5)], "b": [(0.3, 0.3), (0.3, 0.5)], "(all)": [(0.2, 0.3), (0.3, 0.5)]}
    parts = []
    for group, own in losses.items():
        part = pair(own, group=group)
        part["accuracy"] = 1 - part["log_loss"] / (2 if group == "b" else 1)
        parts.append(part)
    groups = pd.concat(parts)
    results = FakeResults(groups, resolved(("fedavg",), (INF, 1.0), folds=5))
    frame = literature(results)
    pd.testing.assert_frame_equal(
        literature(results, {m: toll(groups, m, 5) for m in ("accuracy", "log_loss")}), frame
    )
    a, b, everybody = (at(frame, group=g) for g in losses)
    assert (a["privacy_cost"], b["privacy_cost"]) == pytest.approx((0.2, 0.05))
    assert a["privacy_cost_gap"] == b["privacy_cost_gap"] == pytest.approx(0.15)
    assert (a["excessive_risk"], b["excessive_risk"]) == pytest.approx((0.2, 0.1))
    assert (a["fairness_gap"], b["fairness_gap"]) == pytest.approx((0.05, 0.05))  # R = .15
    assert np.isnan(everybody["fairness_gap"])
    assert a["excessive_risk_se"] == pytest.approx(at(toll(groups), group="a")["toll_se"])


def test_without_a_reference_the_papers_have_nothing():
    groups = pair([(0.2, 0.3)] * 2).assign(accuracy=0.8).query("mechanism == 'dp-sgd'")
    frame = literature(FakeResults(groups, {}))
    assert frame[["privacy_cost", "privacy_cost_gap", "excessive_risk", "fairness_gap"]].isna().all(axis=None)
    assert (frame["n"] == 500).all()
