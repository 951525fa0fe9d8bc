"""The measures: against fairlearn, scikit-learn and formulas written out; undefined is never 0."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as peers
from fairlearn.metrics import (
    MetricFrame,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm

from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.server.evaluate import Auroc, HeldOut, _rates, auroc
from fedtoll.server.trainer import simulate
from tests.server.federation import FEDAVG, single_run

NAMES = ("a", "b", "c")
UNDEFINED = ("tpr", "fpr", "selection_rate", "auroc", "auroc_low", "auroc_high")


def measured(
    codes: Any, labels: Any, scores: Any, names: tuple[str, ...] = NAMES, classes: int = 2
) -> dict[str, dict[str, Any]]:
    """Return the rows of measures by group for given records; scores are P(class 1), or ``[N, C]``."""
    held_out = object.__new__(HeldOut)
    held_out.names, held_out.classes = names, classes
    held_out.codes, held_out.labels = np.asarray(codes, np.int64), np.asarray(labels, np.int64)
    p = np.asarray(scores, np.float64)
    rows = held_out.measure(np.stack([1 - p, p], axis=1) if p.ndim == 1 else p)
    assert [r["group"] for r in rows] == [*names, EVERYBODY]
    return {r["group"]: r for r in rows}


RECORDS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 20)), min_size=2, max_size=60
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(RECORDS)
def test_every_rate_is_fairlearns_and_scikit_learns(records):
    codes, labels, steps = (np.array(x) for x in zip(*records, strict=True))
    scores = 0.02 + 0.048 * steps  # with ties, .5 among them
    ours = measured(codes, labels, scores)
    predicted = (scores >= 0.5).astype(int)
    frame = MetricFrame(
        metrics={
            "accuracy": peers.accuracy_score,
            "tpr": true_positive_rate,
            "fpr": false_positive_rate,
            "selection_rate": selection_rate,
            "n": lambda y, p: len(y),
            "positives": lambda y, p: int(y.sum()),
        },
        y_true=labels,
        y_pred=predicted,
        sensitive_features=np.array(NAMES)[codes],
    )
    fairlearn_rates = {**frame.by_group.to_dict("index"), EVERYBODY: frame.overall.to_dict()}
    for name, row in ours.items():
        members = np.ones(len(codes), bool) if name == EVERYBODY else codes == NAMES.index(name)
        y, s, p = labels[members], scores[members], predicted[members]
        defined = {
            "tpr": y.any(),
            "fpr": not y.all(),
            **dict.fromkeys(("accuracy", "selection_rate"), len(y)),
        }
        for measure, is_defined in defined.items():
            if is_defined:
                assert row[measure] == pytest.approx(fairlearn_rates[name][measure], abs=1e-12)
            else:  # fairlearn returns 0
                assert math.isnan(row[measure])
        assert (row["n"], row["positives"]) == (len(y), y.sum())
        if not len(y):
            assert math.isnan(row["log_loss"])
            continue
        assert row["log_loss"] == pytest.approx(peers.log_loss(y, s, labels=[0, 1]), rel=1e-12)
        if y.any() and not y.all():
            assert row["balanced_accuracy"] == pytest.approx(peers.balanced_accuracy_score(y, p), abs=1e-12)
            assert row["auroc"] == pytest.approx(peers.roc_auc_score(y, s), abs=1e-12)
        else:
            assert math.isnan(row["balanced_accuracy"])
            assert math.isnan(row["auroc"])


def delong(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Auroc:
    """Compute DeLong's interval by definition: every positive against every negative."""
    x, y = scores[positive], scores[~positive]
    beats = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    value = beats.mean()
    variance = beats.mean(axis=1).var(ddof=1) / len(x) + beats.mean(axis=0).var(ddof=1) / len(y)
    half = norm.ppf(0.975) * math.sqrt(variance)
    return Auroc(value, max(0.0, value - half), min(1.0, value + half))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=4, max_size=80))
def test_the_interval_of_the_auroc_is_delongs(records):
    positive = np.array([p for p, _ in records])
    scores = np.array([s / 12 for _, s in records])
    ours = auroc(scores, positive)
    if 2 <= positive.sum() <= len(positive) - 2:
        wanted = delong(scores, positive)
        assert ours.value == pytest.approx(wanted.value, abs=1e-12)
        assert ours.low == pytest.approx(wanted.low, abs=1e-9)
        assert ours.high == pytest.approx(wanted.high, abs=1e-9)
    else:
        assert math.isnan(ours.low)
        assert math.isnan(ours.high)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Two normals .8 apart: AUROC Φ(.8/√2); 95% of 400 intervals, give or take 3.5 standard errors."""
    rng, truth = np.random.default_rng(0), norm.cdf(0.8 / math.sqrt(2))
    positive = np.arange(150) < 60
    covered = 0
    for _ in range(400):
        interval = auroc(rng.normal(size=150) + 0.8 * positive, positive)
        covered += interval.low <= truth <= interval.high
    assert covered / 400 == pytest.approx(0.95, abs=3.5 * math.sqrt(0.95 * 0.05 / 400))


@pytest.mark.parametrize("label", [0, 1])
def test_without_positives_or_negatives_their_rates_are_undefined(label):
    row = measured([0, 0], [label, label], [0.3, 0.8], names=("a",))["a"]
    absent, defined = ("fpr", "tpr") if label else ("tpr", "fpr")
    assert math.isnan(row[absent])
    assert row[defined] == 0.5
    assert math.isnan(row["balanced_accuracy"])
    assert all(math.isnan(row[k]) for k in ("auroc", "auroc_low", "auroc_high"))
    assert row["accuracy"] == row["selection_rate"] == 0.5


def test_an_empty_group_has_no_measures_and_no_flags():
    row = measured([0, 2], [0, 1], [0.2, 0.9])["b"]
    assert (row["n"], row["positives"]) == (0, 0)
    assert not row["collapsed"]
    assert not row["below_majority"]
    others = {k: v for k, v in row.items() if isinstance(v, float)}
    assert set(others) == {"accuracy", "balanced_accuracy", "log_loss", *UNDEFINED}
    assert all(math.isnan(v) for v in others.values())


def test_undefined_measures_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measured([0, 0, 2], [1, 1, 0], [0.1, 0.9, 0.5])


def test_one_of_each_class_has_an_auroc_without_an_interval():
    row = measured([0, 0], [0, 1], [0.2, 0.9], names=("a",))["a"]
    assert row["auroc"] == 1.0
    assert math.isnan(row["auroc_low"])


def test_half_is_predicted_positive():
    assert measured([0, 0], [0, 1], [0.5, np.nextafter(0.5, 0)], names=("a",))["a"]["selection_rate"] == 0.5


def test_a_certain_mistake_costs_nats_but_finitely_many():
    row = measured([0, 0], [1, 0], [0.0, 0.0], names=("a",))["a"]
    assert row["log_loss"] == pytest.approx(-math.log(1e-15) / 2)


def flags(labels: Any, scores: Any) -> tuple[bool, bool]:
    row = measured(np.zeros(len(labels)), labels, scores, names=("a",))["a"]
    return row["collapsed"], row["below_majority"]


GOOD: NDArray[np.float64] = np.r_[np.linspace(0.05, 0.55, 40), np.linspace(0.4, 0.9, 30)]
MOST = np.r_[np.zeros(40), np.ones(30)].astype(int)


def test_a_model_that_tells_classes_apart_is_flagged_by_nothing():
    assert flags(MOST, GOOD) == (False, False)


def test_one_predicted_class_is_collapsed_and_no_better_than_the_majority():
    assert flags(MOST, GOOD * 0.5) == (True, True)  # the same ranks, but always predicts negative
    assert flags(1 - MOST, 1 - GOOD * 0.5) == (True, True)


def test_scores_that_rank_by_chance_are_collapsed():
    rng = np.random.default_rng(3)
    scores = rng.permutation(GOOD)
    interval = auroc(scores, MOST == 1)
    assert interval.low <= 0.5 <= interval.high
    assert flags(MOST, scores)[0]
    assert not flags(MOST, 1 - GOOD)[0]  # worse than chance is not collapsed, and it is below the majority
    assert flags(MOST, 1 - GOOD)[1]


def test_below_majority_includes_equality():
    labels = [0, 0, 0, 1]
    assert flags(labels, [0.1, 0.1, 0.9, 0.9])[1]  # 3 of 4 right, as the majority
    assert not flags(labels, [0.1, 0.1, 0.2, 0.9])[1]


def test_a_group_is_flagged_though_the_whole_is_not():
    rows = measured(
        np.r_[np.zeros(70), np.ones(20)], np.r_[MOST, np.tile([0, 1], 10)], np.r_[GOOD, np.full(20, 0.3)]
    )
    assert (rows["a"]["collapsed"], rows["b"]["collapsed"], rows[EVERYBODY]["collapsed"]) == (
        False,
        True,
        False,
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(3, 5))
def test_more_than_two_classes_have_accuracies_and_no_positive_class(seed, n, classes):
    rng = np.random.default_rng(seed)
    codes, labels = rng.integers(0, 2, n), rng.integers(0, classes, n)
    p = rng.dirichlet(np.ones(classes), n)
    for name, row in measured(codes, labels, p, names=("a", "b"), classes=classes).items():
        members = np.ones(n, bool) if name == EVERYBODY else codes == "ab".index(name)
        assert row["n"] == members.sum()
        assert all(math.isnan(row[k]) for k in UNDEFINED)
        if members.any():
            y, predicted = labels[members], p[members].argmax(axis=1)
            assert row["accuracy"] == pytest.approx(np.mean(y == predicted))
            expected = peers.log_loss(y, p[members], labels=range(classes))
            assert row["log_loss"] == pytest.approx(expected, rel=1e-9)
            if len(set(y)) == classes:
                assert row["balanced_accuracy"] == pytest.approx(peers.balanced_accuracy_score(y, predicted))
            else:
                assert math.isnan(row["balanced_accuracy"])


@pytest.mark.slow
def test_the_tables_of_a_run_agree_with_its_predictions():
    run = single_run(FEDAVG, 2.0)
    tables = simulate(run)
    groups, predictions = tables["groups"], tables["predictions"]
    assert list(groups["round"]) == [0] * 3 + [1] * 3 + [2] * 3
    assert list(groups["group"].unique()) == ["Male", "Female", EVERYBODY]
    last = groups[groups["round"] == run.rounds].set_index("group")
    y, score = predictions["label"], predictions["score"]
    frame = MetricFrame(
        metrics={
            "accuracy": peers.accuracy_score,
            "balanced_accuracy": peers.balanced_accuracy_score,
            "tpr": true_positive_rate,
            "fpr": false_positive_rate,
            "selection_rate": selection_rate,
        },
        y_true=y,
        y_pred=(score >= 0.5).astype(int),
        sensitive_features=predictions["group"],
    )
    fairlearn_rates = pd.concat([frame.by_group, frame.overall.to_frame(EVERYBODY).T])
    for name, row in fairlearn_rates.iterrows():
        for measure, value in row.items():
            assert last.loc[name, measure] == pytest.approx(value, abs=1e-12)
        members = slice(None) if name == EVERYBODY else predictions["group"] == name
        assert last.loc[name, "auroc"] == pytest.approx(peers.roc_auc_score(y[members], score[members]))
        assert last.loc[name, "log_loss"] == pytest.approx(peers.log_loss(y[members], score[members]))
        assert last.loc[name, "n"] == len(y[members])
    assert groups[groups["round"] == 0]["collapsed"].all()  # zeros predict .5 for all


def test_a_groups_share_of_the_weight_is_its_clients():
    run = single_run(FEDAVG)
    tables = simulate(run)
    sizes = {g: sum(c.size for c in run.clients if c.group == g) for g in ("Male", "Female")}
    share = tables["groups"].set_index(["round", "group"])["weight"]
    assert share.loc[0].isna().all()
    for round in (1, 2):
        assert share[round, EVERYBODY] == pytest.approx(1.0)
        for group, size in sizes.items():
            assert share[round, group] == pytest.approx(size / sum(sizes.values()))


def test_of_several_classes_none_is_positive_and_a_group_of_one_class_is_not_judged():
    rows = _rates(np.diag([30, 0, 0]).tolist(), 1.0, Auroc())
    assert math.isnan(rows["positives"])
    assert (rows["collapsed"], rows["below_majority"]) == (False, False)
    mixed = _rates([[20, 0, 0], [10, 0, 0], [0, 0, 0]], 1.0, Auroc())
    assert (mixed["collapsed"], mixed["below_majority"]) == (True, True)
    assert _rates([[30, 0], [0, 0]], 1.0, Auroc())["collapsed"]  # two classes: predicts one, flagged
