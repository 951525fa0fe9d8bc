"""The interval for the population, compared with a slow computation over pairs of seeds."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pandas as pd
import pytest

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.toll import joint_intervals
from fedtoll.toll.intervals import seed_interval
from tests.server.fake import adult_race
from tests.toll.population import Components, draw
from tests.toll.tables import INF, FakeResults, at

SOME = Components(seed=0.03, row=0.3, rest=0.2)


def slowly(results: FakeResults, group: str) -> tuple[float, float]:
    """Return a group's toll and standard error, computed row by row over all pairs of seeds."""
    p = results.predictions.assign(loss=-np.log(results.predictions["score"]))
    p = p if group == "(all)" else p[p["group"] == group]
    cells = {m: x.set_index(["seed", "record"])["loss"] for m, x in p.groupby("mechanism")}
    d = (cells["dp-sgd"] - cells["none"]).unstack("seed")  # noqa: PD010
    seeds = d.shape[1]
    means = d.mean()
    covariances, weights, shared = [], [], 0.0
    for s, t in product(d.columns, repeat=2):
        both = d[[s, t]].dropna()
        if s != t and len(both):
            covariances.append(float(np.cov(both[s], both[t])[0, 1]))
            weights.append(len(both) - 1)
            shared += 1 / len(both)
    of_rows = (
        max(np.average(covariances, weights=weights), 0) * shared / (seeds * (seeds - 1)) if weights else 0.0
    )
    return means.mean(), np.sqrt(means.var() / seeds + of_rows)


@pytest.mark.parametrize("folds", [1, 3, 10])
@pytest.mark.parametrize("group", ["g0", "g1", "(all)"])
def test_toll_and_error_are_those_worked_out_slowly(folds, group):
    results = draw(np.random.default_rng(folds), SOME, groups=2, n=8, folds=folds)
    row = at(joint_intervals(results), group=group)
    toll, se = slowly(results, group)
    assert (row["toll"], row["se"]) == pytest.approx((toll, se))
    assert row["low"] < row["toll"] < row["high"]
    assert row["n"] == 8 * min(folds, 10) * (2 if group == "(all)" else 1)
    assert row["seeds"] == 10


def test_with_a_fold_for_every_seed_it_is_the_interval_over_seeds():
    results = draw(np.random.default_rng(0), SOME, groups=1, n=30, folds=10)
    p = results.predictions.assign(loss=-np.log(results.predictions["score"]))
    means = p.groupby(["mechanism", "seed"])["loss"].mean()
    _, low, high = seed_interval(means["dp-sgd"] - means["none"])
    row = at(joint_intervals(results), group="g0")
    assert (row["low"], row["high"]) == pytest.approx((low, high))
    assert high - row["toll"] != pytest.approx(row["toll"] - low)  # corrected for skewness


def test_one_test_set_for_all_seeds_widens_it():
    wide = [
        at(joint_intervals(draw(np.random.default_rng(1), SOME, 1, 30, folds=f)), group="g0") for f in (1, 10)
    ]
    assert wide[0]["se"] > 1.5 * wide[1]["se"]


def test_the_order_of_rows_and_runs_does_not_matter():
    results = draw(np.random.default_rng(2), SOME, groups=3, n=6)
    before = joint_intervals(results).sort_values("group", ignore_index=True)
    results.predictions = results.predictions.sample(frac=1, random_state=0)
    after = joint_intervals(results).sort_values("group", ignore_index=True)
    pd.testing.assert_frame_equal(before, after)


@pytest.mark.parametrize("measure", ["accuracy", "tpr", "fpr", "selection_rate"])
def test_rates_are_means_over_those_they_are_of(measure):
    results = adult_race(seeds=tuple(range(10)), strategies=("fedavg",), records=600)
    row = at(joint_intervals(results, measure), group="Black", epsilon=0.5)
    p = results.predictions.query("group == 'Black'").assign(guess=lambda x: x["score"] >= 0.5)
    p = {"tpr": p[p["label"] == 1], "fpr": p[p["label"] == 0]}.get(measure, p)
    p = p.assign(hit=(p["guess"] == (p["label"] == 1)) if measure == "accuracy" else p["guess"])
    rate = p.groupby(["mechanism", "epsilon", "seed"])["hit"].mean()
    toll = (rate["none", INF] - rate["dp-sgd", 0.5]).mean() * (-1 if measure == "fpr" else 1)
    assert row["toll"] == pytest.approx(toll)


def test_several_classes_have_a_loss_and_no_rate_of_positives():
    results = draw(np.random.default_rng(3), SOME, groups=2, n=10)
    score = results.predictions.pop("score")
    results.predictions = results.predictions.assign(score_0=0.0, score_1=score, score_2=1 - score)
    loss, tpr = joint_intervals(results), joint_intervals(results, "tpr")
    assert at(loss, group="g0")["toll"] == pytest.approx(0.1, abs=0.2)
    assert tpr[["toll", "se", "low", "high"]].isna().all(axis=None)
    assert (tpr["n"] == 0).all()


def test_without_a_reference_a_second_seed_or_spread_there_is_no_interval():
    results = draw(np.random.default_rng(4), SOME, groups=1, n=10)
    predictions = results.predictions
    results.predictions = predictions[predictions["mechanism"] == "dp-sgd"]
    row = at(joint_intervals(results), group="g0")
    assert (row["n"], row["seeds"]) == (50, 0)
    assert row[["toll", "se", "low", "high"]].isna().all()
    results.predictions = predictions[predictions["seed"] == 0]
    assert at(joint_intervals(results), group="g0")[["se", "low", "high"]].isna().all()
    results.predictions = predictions.assign(score=0.7)
    row = at(joint_intervals(results), group="g0")
    assert row["toll"] == 0
    assert row[["se", "low", "high"]].isna().all()
    results.predictions = predictions[predictions["mechanism"] == "none"]
    assert joint_intervals(results).empty


def test_one_row_a_fold_has_a_mean_and_no_interval():
    results = draw(np.random.default_rng(5), SOME, groups=1, n=1)
    row = at(joint_intervals(results), group="g0")
    assert not np.isnan(row["toll"])
    assert row[["se", "low", "high"]].isna().all()


def test_what_is_no_mean_over_records_is_refused():
    with pytest.raises(ScenarioError, match="joint intervals: measure 'auroc' is not a mean over records"):
        joint_intervals(draw(np.random.default_rng(0), SOME, 1, 2), "auroc")


@pytest.mark.slow
def test_a_sweep_of_150_runs_takes_under_two_seconds():
    """Time Adult's test rows with 3 strategies, 5 ε and 10 seeds: 1.5 million predictions."""
    rng = np.random.default_rng(0)
    n, groups = 9_768, np.array(["White", "Black", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other"])
    fold_of = [
        pd.DataFrame(
            {
                "record": f * n + np.arange(n),
                "group": rng.choice(groups, n, p=[0.855, 0.096, 0.031, 0.010, 0.008]),
                "label": rng.integers(0, 2, n),
            }
        )
        for f in range(5)
    ]
    frames = []
    for strategy, epsilon, seed in product("abc", (INF, 8.0, 2.0, 1.0, 0.5), range(10)):
        run = fold_of[seed % 5].assign(score=rng.uniform(size=n))
        for i, value in enumerate((strategy, "none" if epsilon == INF else "dp-sgd", epsilon, seed)):
            run.insert(i, ("strategy", "mechanism", "epsilon", "seed")[i], value)
        frames.append(run)
    results = FakeResults(pd.DataFrame(), {}, pd.concat(frames, ignore_index=True))
    start = time.process_time()
    frame = joint_intervals(results)
    assert time.process_time() - start < 2
    assert len(frame) == 3 * 4 * 6
    assert frame.notna().all(axis=None)
