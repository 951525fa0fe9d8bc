"""Coverage of the intervals in simulations with the variance components of adult-race."""

from __future__ import annotations

import numpy as np
import pytest

from fedtoll.toll import joint_intervals
from fedtoll.toll.gap import gap_interval
from fedtoll.toll.intervals import seed_interval, t_interval
from fedtoll.toll.two_gaps import gap_difference
from tests.toll.population import Components, as_results, differences, rates

ADULT = {  # measured on the library's scenario with 10 seeds, FedAvg at ε = .5, log-loss
    "White": Components(seed=0.013, row=0.161, rest=0.332, mean=0.052),
    "Black": Components(seed=0.105, row=0.408, rest=0.534, mean=0.132),
    "Asian-Pac-Islander": Components(seed=0.103, row=0.834, rest=0.586, mean=0.311),
    "Amer-Indian-Eskimo": Components(seed=0.094, row=0.565, rest=0.472, mean=0.126),
    "Other": Components(seed=0.062, row=0.645, rest=0.510, mean=0.191),
}
RATES = {"seeds": Components(0.3, 0.8, 0.5, 0.3), "rows": Components(0.05, 1.0, 0.3, 0.5)}
"""Variance of rates on the probit scale: mostly between seeds, or mostly between rows."""

SEEDS, FOLDS = 10, 5
CONSECUTIVE = np.arange(SEEDS) % FOLDS
ONE = np.zeros(SEEDS, dtype=int)
GROUPS, TABLES = 100, 20  # repeats: their product, 2,000, gives a standard error of .0049
ERROR = 2.5 * np.sqrt(0.95 * 0.05 / (GROUPS * TABLES))

pytestmark = pytest.mark.slow


def coverage(low: object, high: object, truth: object) -> float:
    """Return the share of intervals that contain the truth; undefined intervals count as misses."""
    return float(np.mean((np.asarray(low) <= truth) & (np.asarray(high) >= truth)))


@pytest.mark.parametrize("interval", [t_interval, seed_interval])
@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("sd", ADULT.values(), ids=ADULT)
def test_an_interval_over_seeds_covers_the_toll_of_this_table(sd, n, interval):
    """Seeds and their folds are drawn at random; consecutive seeds use folds evenly and cover more."""
    rng = np.random.default_rng(n)
    covered: list[float] = []
    consecutive: list[float] = []
    for _ in range(TABLES):
        for fold_S, into in ((rng.integers(0, FOLDS, SEEDS), covered), (CONSECUTIVE, consecutive)):
            drawn, truth = differences(rng, sd, GROUPS, n, fold_S)
            _, low, high = interval(drawn.mean(axis=2))
            into.append(coverage(low, high, truth))
    assert 0.93 <= np.mean(covered) <= 0.97
    assert np.mean(consecutive) >= 0.93


@pytest.mark.parametrize("n", [10, 20, 100])
@pytest.mark.parametrize("sd", RATES.values(), ids=RATES)
def test_so_it_does_for_rates(sd, n):
    rng, covered = np.random.default_rng(n), []
    for _ in range(TABLES):
        drawn, truth, _ = rates(rng, sd, GROUPS, n, rng.integers(0, FOLDS, SEEDS))
        _, low, high = t_interval(drawn.mean(axis=2))
        covered.append(coverage(low, high, truth))
    assert 0.93 <= np.mean(covered) <= 0.97


def joint(drawn_SGN: np.ndarray, fold_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of each group's interval, computed from a table of predictions."""
    frame = joint_intervals(as_results(drawn_SGN, fold_S))
    frame = frame[frame["group"] != "(all)"]
    assert len(frame) == drawn_SGN.shape[1]
    return frame["low"].to_numpy(), frame["high"].to_numpy()


@pytest.mark.parametrize(("fold_S", "n"), [(CONSECUTIVE, 4), (CONSECUTIVE, 20), (ONE, 20), (ONE, 50)])
@pytest.mark.parametrize("name", ["Black", "Asian-Pac-Islander"])
def test_the_joint_interval_covers_the_toll_of_the_population(name, fold_S, n):
    """Holds from 20 test rows in total; an interval over seeds alone covers far less (see below)."""
    rng, covered = np.random.default_rng(n), []
    for _ in range(TABLES):
        drawn, _ = differences(rng, ADULT[name], GROUPS, n, fold_S)
        covered.append(coverage(*joint(drawn, fold_S), ADULT[name].mean))
    assert 0.93 - ERROR <= np.mean(covered) <= 0.97


@pytest.mark.parametrize(("fold_S", "n"), [(CONSECUTIVE, 20), (ONE, 20)])
@pytest.mark.parametrize("sd", RATES.values(), ids=RATES)
def test_so_it_does_for_rates_of_the_population(sd, fold_S, n):
    rng, covered = np.random.default_rng(n), []
    for _ in range(TABLES):
        drawn, _, truth = rates(rng, sd, GROUPS, n, fold_S)
        covered.append(coverage(*joint(drawn, fold_S), truth))
    assert 0.93 - ERROR <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("n", [5, 10])
def test_below_twenty_rows_it_is_conservative(n):
    rng, covered = np.random.default_rng(n), []
    for _ in range(TABLES):
        drawn, _ = differences(rng, ADULT["Other"], GROUPS, n, ONE)
        covered.append(coverage(*joint(drawn, ONE), ADULT["Other"].mean))
    assert np.mean(covered) >= 0.95


def test_an_interval_over_seeds_alone_does_not_cover_the_population():
    rng = np.random.default_rng(0)
    covered: dict[str, list[float]] = {"one test set": [], "folds": []}
    for _ in range(TABLES):
        for name, fold_S in (("one test set", ONE), ("folds", CONSECUTIVE)):
            drawn, _ = differences(rng, ADULT["Other"], GROUPS, 20, fold_S)
            _, low, high = t_interval(drawn.mean(axis=2))
            covered[name].append(coverage(low, high, ADULT["Other"].mean))
    assert np.mean(covered["one test set"]) < 0.6
    assert np.mean(covered["folds"]) < 0.9


TOLLS = np.array([sd.mean for sd in ADULT.values()])
SPREAD = np.array([0.013, 0.088, 0.143, 0.099, 0.077])  # of one seed's toll
KINDS = {  # the strategy's and the baseline's expected tolls
    "apart": (1.2 * TOLLS, TOLLS),
    "the same": (TOLLS, TOLLS),
    "one tied": (np.full(5, 0.2), TOLLS),
    "both tied": (np.full(5, 0.2), np.full(5, 0.2)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [6, 10])
def test_intervals_of_gaps_cover_whether_or_not_groups_tie(kind, seeds):
    """Four fifths of the variance between seeds is shared by the two strategies."""
    rng, repeats = np.random.default_rng(seeds), 1500
    a, b = KINDS[kind]
    truth = np.ptp(a) - np.ptp(b)
    of_gap, of_difference = [], []
    for _ in range(repeats):
        shared, *separate = SPREAD * rng.normal(size=(3, seeds, 5))
        a_SG, b_SG = (
            m + np.sqrt(0.8) * shared + np.sqrt(0.2) * e for m, e in zip((a, b), separate, strict=True)
        )
        low, high = gap_interval(a_SG)
        of_gap.append(low <= np.ptp(a) <= high)
        _, low, high = gap_difference(a_SG, b_SG)
        of_difference.append(low <= truth <= high)
    assert np.mean(of_gap) >= 0.94
    assert np.mean(of_difference) >= 0.94
