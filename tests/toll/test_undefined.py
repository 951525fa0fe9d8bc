"""Undefined values never become 0: empty and tiny groups, no positives or negatives, several classes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from fedtoll.scenarios.measures import MEASURES
from fedtoll.server.evaluate import HeldOut
from fedtoll.toll import (
    comparisons,
    difference,
    fairness,
    joint_intervals,
    literature,
    slopes,
    toll,
    toll_gap,
)
from fedtoll.toll.predictions import ROWS
from tests.toll.tables import INF, FakeResults, at, resolved

GROUPS = {  # name: positives and negatives in one test set
    "empty": (0, 0),
    "one positive": (1, 0),
    "one negative": (0, 1),
    "no positives": (0, 120),
    "no negatives": (120, 0),
    "large": (60, 140),
    "larger": (90, 160),
}
CELLS = [("none", INF), ("clip-only", INF), ("dp-sgd", 8.0), ("dp-sgd", 0.5)]
SEEDS = 7


def defined(measure: str, positives: int, negatives: int) -> bool:
    """Return whether a measure is defined for these counts."""
    return {
        "log_loss": positives + negatives > 0,
        "accuracy": positives + negatives > 0,
        "selection_rate": positives + negatives > 0,
        "tpr": positives > 0,
        "fpr": negatives > 0,
        "balanced_accuracy": positives > 0 and negatives > 0,
        "auroc": positives > 0 and negatives > 0,
    }[measure]


@pytest.fixture(scope="module", params=[2, 3], ids=["two classes", "three classes"])
def results(request) -> FakeResults:
    """Return results measured by the real evaluation; with three classes, the third resembles the second."""
    classes = request.param
    codes = np.repeat(np.arange(len(GROUPS)), [p + n for p, n in GROUPS.values()])
    labels = np.concatenate([np.r_[np.ones(p, int), np.zeros(n, int)] for p, n in GROUPS.values()])
    if classes == 3:
        labels = np.where((labels == 1) & (np.arange(len(labels)) % 2 == 1), 2, labels)
    held_out = HeldOut.__new__(HeldOut)
    held_out.names, held_out.codes, held_out.labels, held_out.classes = (*GROUPS,), codes, labels, classes
    groups, predictions = [], []
    for strategy, (mechanism, epsilon), seed in product(("fedavg", "uniform"), CELLS, range(SEEDS)):
        rng = np.random.default_rng([seed, len(strategy), int(10 * min(epsilon, 99)), len(mechanism)])
        score_NC = rng.dirichlet(np.ones(classes), len(labels))
        score_NC[np.arange(len(labels)), labels] += 0.4
        score_NC /= score_NC.sum(axis=1, keepdims=True)
        key = {"strategy": strategy, "mechanism": mechanism, "epsilon": epsilon, "seed": seed}
        groups += [key | {"round": 1} | row for row in held_out.measure(score_NC)]
        scores = (
            {"score": score_NC[:, 1]} if classes == 2 else {f"score_{c}": score_NC[:, c] for c in range(3)}
        )
        names = np.array(held_out.names)[codes]
        predictions.append(
            pd.DataFrame(key | {"record": np.arange(len(labels)), "group": names, "label": labels} | scores)
        )
    scenario = resolved(("fedavg", "uniform"), (INF, "clip-only", 8.0, 0.5))
    return FakeResults(pd.DataFrame(groups), scenario, pd.concat(predictions, ignore_index=True))


def is_defined(results: FakeResults, measure: str, group: str) -> bool:
    if "score" in results.predictions:
        return defined(measure, *GROUPS[group])
    if measure == "balanced_accuracy":
        return sum(GROUPS[group]) > 1 and min(GROUPS[group]) > 0
    return measure in {"log_loss", "accuracy"} and sum(GROUPS[group]) > 0


def is_small(results: FakeResults, group: str) -> bool:
    """Return whether a group has too few records, or of its rarer class if there are two classes."""
    return sum(GROUPS[group]) < 100 or ("score" in results.predictions and min(GROUPS[group]) < 20)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_toll_is_undefined_exactly_where_its_measure_is(results, measure):
    frame = toll(results.groups, measure, folds=1)
    for group, (positives, negatives) in GROUPS.items():
        row = at(frame, strategy="fedavg", epsilon=0.5, group=group)
        assert (row["n"], row["runs"], row["too_few"]) == (
            positives + negatives,
            SEEDS,
            is_small(results, group),
        )
        numbers = row[["value", "value_sd", "toll", "toll_se", "clipping", "noise", "price", "price_se"]]
        if is_defined(results, measure, group):
            assert numbers.notna().all()
            assert (row["seeds"], row["undefined"]) == (SEEDS, 0)
        else:
            assert numbers.isna().all()
            ends = ["toll_low", "toll_high", "price_low", "price_high", "clipping_se", "noise_se"]
            assert row[ends].isna().all()
            assert (row["seeds"], row["undefined"]) == (0, SEEDS)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_gap_is_over_groups_that_have_the_measure(results, measure):
    row = at(toll_gap(toll(results.groups, measure, folds=1)), strategy="fedavg", epsilon=0.5)
    claimed = [g for g in GROUPS if is_defined(results, measure, g) and not is_small(results, g)]
    assert row["groups"] == len(claimed)
    assert row[["gap", "gap_low", "gap_high", "disparity"]].isna().all() == (len(claimed) < 2)
    assert row[["gap", "gap_low", "gap_high", "disparity"]].notna().all() == (len(claimed) > 1)
    proportion = bool(MEASURES[measure].of) and len(claimed) > 1
    assert np.isnan(row["disparity_corrected"]) != proportion


@pytest.mark.parametrize("measure", MEASURES)
def test_a_slope_is_undefined_exactly_where_its_measure_is(results, measure):
    frame = slopes(results.groups, measure, folds=1)
    for group in GROUPS:
        (row,) = frame[(frame["strategy"] == "fedavg") & (frame["group"] == group)].to_dict("records")
        values = np.array([row["slope"], row["slope_low"], row["slope_high"]])
        assert (row["n"], row["runs"], row["too_few"]) == (
            sum(GROUPS[group]),
            SEEDS,
            is_small(results, group),
        )
        assert (np.isfinite(values[0]), row["seeds"]) == (
            (True, SEEDS) if is_defined(results, measure, group) else (False, 0)
        )
        assert is_defined(results, measure, group) or np.isnan(values).all()


@pytest.mark.parametrize("measure", ROWS)
def test_joint_intervals_are_undefined_exactly_where_rows_lack(results, measure):
    frame = joint_intervals(results, measure)
    binary = "score" in results.predictions
    for group, (positives, negatives) in GROUPS.items():
        rows = frame[(frame["strategy"] == "fedavg") & (frame["epsilon"] == 0.5) & (frame["group"] == group)]
        if group == "empty":
            assert rows.empty  # predictions do not know it
            continue
        (row,) = rows.to_dict("records")
        n = {"tpr": positives, "fpr": negatives}.get(measure, positives + negatives)
        n = n if binary or measure in {"log_loss", "accuracy"} else 0
        assert row["n"] == n
        assert np.isnan(row["toll"]) == (n == 0)
        assert np.isnan([row["low"], row["high"]]).all() == (n < 2)
        assert row["seeds"] == (SEEDS if n else 0)


def test_the_papers_quantities_are_undefined_for_nobody(results):
    frame = literature(results)
    row = at(frame, strategy="fedavg", epsilon=0.5, group="empty")
    numbers = ["privacy_cost", "privacy_cost_se", "excessive_risk", "excessive_risk_se", "fairness_gap"]
    assert row[numbers].isna().all()
    assert (row["n"], row["too_few"]) == (0, True)
    assert at(frame, strategy="fedavg", epsilon=0.5, group="large")[numbers].notna().all()


def test_fairness_has_no_odds_without_positives_or_negatives(results):
    row = at(fairness(results.groups), strategy="fedavg", epsilon=0.5)
    assert np.isnan(row["equalized_odds_difference"])
    assert row["undefined"] == SEEDS
    assert np.isnan(row["demographic_parity_difference"]) == ("score" not in results.predictions)
    large = results.groups[results.groups["group"].isin(["large", "larger"])]
    row = at(fairness(large), strategy="fedavg", epsilon=0.5)
    assert np.isnan(row["equalized_odds_difference"]) == ("score" not in results.predictions)


@pytest.mark.parametrize("measure", MEASURES)
def test_two_folders_differ_only_in_what_both_have(results, measure):
    frame = difference(results, results, measure)
    for group in GROUPS:
        row = at(frame, strategy="fedavg", epsilon=0.5, group=group)
        assert (row["n_a"], row["n_b"]) == (sum(GROUPS[group]),) * 2
        if is_defined(results, measure, group):
            assert (row["difference"], row["seeds"]) == (0, SEEDS)
        else:
            assert np.isnan(row["difference"])
            assert row["seeds"] == 0
        assert np.isnan([row["low"], row["high"]]).all()  # nothing varies between a folder and itself


@pytest.mark.parametrize("measure", MEASURES)
def test_a_test_is_made_only_of_what_is_defined(results, measure):
    results.resolved["scenario"]["compare"] = {"measure": measure, "quantities": ["toll gap", "utility"]}
    frame = comparisons(results).set_index("quantity")
    binary = "score" in results.predictions
    exists = binary or measure in {"log_loss", "accuracy", "balanced_accuracy"}
    for quantity in ("toll gap", "utility"):
        row = frame.loc[quantity]
        assert (row["reason"] == "") == exists
        assert np.isnan(row["difference"]) != exists
        assert (row["seeds"] == SEEDS) == exists
