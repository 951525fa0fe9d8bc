"""Comparisons of disparity, demographic parity and equalised odds: functionals of seed means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedtoll.scenarios.compare import Compare
from fedtoll.toll import comparisons, fairness
from fedtoll.toll.quantities import COLUMNS, sides
from fedtoll.toll.tolls import paired
from fedtoll.toll.two_gaps import gap_difference, gap_swap
from tests.toll.tables import INF, NAN, FakeResults, rates, resolved

GROUPS = ("a", "b", "c")
PARITY, ODDS = "demographic parity difference", "equalised odds difference"
N = 400


def predictions(strategy: str, seed: int, lift: float) -> pd.DataFrame:
    """Draw one run's predictions; ``lift`` raises the scores of group c."""
    rng = np.random.default_rng(seed)
    group = np.repeat(GROUPS, N)
    label = rng.integers(0, 2, len(group))
    score = 0.25 * label + rng.uniform(size=len(group)) * 0.6 + lift * (group == "c")
    run = {"strategy": strategy, "mechanism": "dp-sgd", "epsilon": 0.5, "seed": seed}
    return pd.DataFrame(
        run | {"record": np.arange(len(group)), "group": group, "label": label, "score": score}
    )


def study(lifts: dict[str, float], seeds: int = 8, **compare: Any) -> FakeResults:
    runs = [predictions(s, seed, lift) for s, lift in lifts.items() for seed in range(seeds)]
    groups = rates(pd.concat(runs))
    shown = resolved(tuple(lifts), (0.5,), compare=None)
    shown["scenario"]["compare"] = {"quantities": [*COLUMNS][1:], **compare}
    return FakeResults(groups, shown, pd.concat(runs, ignore_index=True))


LIFTS = {"fedavg": 0.2, "term": 0.02}


@pytest.fixture(scope="module")
def results() -> FakeResults:
    return study(LIFTS)


def test_every_quantity_that_a_scenario_may_declare_is_computed():
    assert {"utility", *COLUMNS} == set(Compare(quantities=("utility", *COLUMNS)).quantities)


def test_with_one_seed_they_are_fairlearns_differences():
    from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

    results = study(LIFTS, seeds=1)
    found = comparisons(results).set_index("quantity")["difference"]
    for name, metric in ((PARITY, demographic_parity_difference), (ODDS, equalized_odds_difference)):
        a, b = (
            metric(p["label"], p["score"] >= 0.5, sensitive_features=p["group"])
            for p in (results.predictions.query(f"strategy == '{s}'") for s in ("term", "fedavg"))
        )
        assert found[name] == pytest.approx(a - b)


def means(results: FakeResults, strategy: str, column: str) -> pd.Series[float]:
    own = results.groups.query(f"strategy == '{strategy}' and group != '(all)'")
    if column == "selection_rate":
        chosen = results.predictions.query(f"strategy == '{strategy}'").assign(x=lambda p: p["score"] >= 0.5)
        return chosen.groupby(["seed", "group"])["x"].mean().groupby("group").mean()
    return own.groupby("group")[column].mean()


def test_differences_are_those_of_seed_mean_rates(results):
    found = comparisons(results).set_index("quantity")["difference"]

    def difference(*columns: str) -> float:
        a, b = (max(float(np.ptp(means(results, s, c))) for c in columns) for s in ("term", "fedavg"))
        return a - b

    assert found["disparity"] == pytest.approx(difference("log_loss"))
    assert found[PARITY] == pytest.approx(difference("selection_rate"))
    assert found[ODDS] == pytest.approx(difference("tpr", "fpr"))
    per_seed = fairness(results.groups).set_index("strategy")["equalized_odds_difference"]
    assert found[ODDS] != pytest.approx(per_seed["term"] - per_seed["fedavg"], abs=1e-6)


def test_a_planted_difference_is_found_and_its_interval_excludes_zero(results):
    frame = comparisons(results)
    assert frame["quantity"].tolist() == ["disparity", PARITY, ODDS]
    for row in frame[frame["quantity"] != "disparity"].to_dict("records"):
        assert row["significant"]
        assert row["low"] < row["difference"] < row["high"] < 0
        assert row["p"] == pytest.approx(2 / 2**8)


def test_tests_and_intervals_swap_all_rates_of_a_seed_together(results):
    final = paired(results.groups, "log_loss")
    ours, base = (final[final["strategy"] == s] for s in ("term", "fedavg"))
    both = sides(ODDS, ours, base, set())
    assert not isinstance(both, str)
    assert both.ours.shape == (8, 6)
    assert both.block.tolist() == [0, 0, 0, 1, 1, 1]
    row = comparisons(results).set_index("quantity").loc[ODDS]
    assert row["p"] == gap_swap(both.ours, both.baseline, both.block)
    assert (row["difference"], row["low"], row["high"]) == gap_difference(
        both.ours, both.baseline, both.block
    )


def test_columns_of_different_blocks_are_not_compared():
    a = np.array([[0.1, 0.2, 0.9, 0.8]] * 7)
    block = np.array([0, 0, 1, 1])
    difference, *_ = gap_difference(a, a * 0, block)
    assert difference == pytest.approx(0.1)


def test_no_run_without_privacy_is_needed(results):
    assert not (results.groups["mechanism"] == "none").any()
    assert (comparisons(results)["reason"] == "").all()


def test_a_small_group_takes_no_part(results):
    groups = results.groups
    tiny = groups[groups["group"] == "a"].assign(group="tiny", n=30, positives=5, tpr=0.99, log_loss=9.0)
    after = comparisons(FakeResults(pd.concat([groups, tiny]), results.resolved))
    pd.testing.assert_frame_equal(after, comparisons(results))


def test_an_undefined_rate_drops_its_seed_and_is_not_zero(results):
    groups = results.groups.copy()
    hole = (groups["seed"] == 2) & (groups["group"] == "a") & (groups["strategy"] == "term")
    groups.loc[hole, ["tpr", "log_loss"]] = NAN
    frame = comparisons(FakeResults(groups, results.resolved)).set_index("quantity")
    assert frame["seeds"].to_dict() == {"disparity": 7, PARITY: 7, ODDS: 7}
    assert frame["difference"].notna().all()
    # Without positives there is no true-positive rate, but there is a selection rate.
    groups.loc[hole, "positives"] = 0
    frame = comparisons(FakeResults(groups, results.resolved)).set_index("quantity")
    assert frame["seeds"].to_dict() == {"disparity": 7, PARITY: 8, ODDS: 7}


def test_more_classes_give_the_reason(results):
    groups = results.groups.assign(positives=NAN, tpr=NAN, fpr=NAN)
    frame = comparisons(FakeResults(groups, results.resolved)).set_index("quantity")
    for name in (PARITY, ODDS):
        assert frame.loc[name, "reason"] == f"{name}: defined for two classes only"
        assert frame["difference"].isna()[name]
        assert not frame.loc[name, "significant"]
    assert frame.loc["disparity", "reason"] == ""


def test_the_default_family_is_unchanged(results):
    shown = resolved(("fedavg", "term"), (INF, 0.5))
    assert comparisons(FakeResults(results.groups, shown))["quantity"].tolist() == ["toll gap", "utility"]
