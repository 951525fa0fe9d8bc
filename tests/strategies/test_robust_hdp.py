"""Robust-HDP: principal component pursuit, and weights by the noise that it finds."""

from __future__ import annotations

import numpy as np
import pytest

from fedtoll.strategies.base import Report
from fedtoll.strategies.robust_hdp import RobustHDP, pursued


def reports(updates, clients=None):
    return [Report(k, 100, "g", update=(u,)) for k, u in zip(clients or range(9), updates, strict=False)]


def noisy(sds, seed=0, size=400):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=size)
    return [common + sd * rng.normal(size=size) for sd in sds]


def test_pursuit_recovers_a_sparse_part():
    rng = np.random.default_rng(0)
    low = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 40))
    sparse = np.where(rng.random((60, 40)) < 0.05, 10 * rng.normal(size=(60, 40)), 0)
    found_low, found_sparse = pursued(low + sparse)
    assert np.abs(found_low - low).max() < 1e-3
    assert np.abs(found_sparse - sparse).max() < 1e-3
    turned = pursued((low + sparse).T)[1]
    assert np.abs(turned.T - found_sparse).max() < 1e-5


def test_weights_fall_with_the_noise():
    sds = np.array([0.5, 1.0, 2.0, 4.0])
    weights, _ = RobustHDP().weigh(reports(noisy(sds)), {})
    assert (np.diff(weights) < 0).all()
    ideal = sds**-2.0 / (sds**-2.0).sum()
    assert np.abs(weights - ideal).max() < 0.2  # the estimate evens weights out


def test_the_estimate_is_made_once_for_each_client():
    strategy = RobustHDP()
    first, state = strategy.weigh(reports(noisy([0.1, 1.0, 1.0])), {})
    again, state = strategy.weigh(reports(noisy([1.0, 1.0, 0.1], seed=1)), state)
    assert again == pytest.approx(first)
    fewer, state = strategy.weigh(reports(noisy([1.0, 1.0], seed=2), [2, 0]), state)
    assert fewer == pytest.approx(first[[2, 0]] / first[[2, 0]].sum())
    _, state = strategy.weigh(reports(noisy([1.0, 1.0, 3.0], seed=3), [0, 1, 5]), state)
    assert state["noise.clients"].tolist() == [0, 1, 2, 5]


def test_the_estimate_is_made_anew_with_more_clients():
    """Under partial participation, the first round of a client may show little of what all have in common."""
    strategy = RobustHDP()
    updates = noisy([0.5] * 5)
    alone, state = strategy.weigh(reports(updates[:1]), {})
    assert alone.tolist() == [1.0]
    together, state = strategy.weigh(reports(updates), state)
    assert together == pytest.approx(strategy.weigh(reports(updates), {})[0])
    assert together.min() > 0.1
    fewer, _ = strategy.weigh(reports(noisy([9.0, 0.5])), state)
    assert fewer == pytest.approx(together[:2] / together[:2].sum())


def test_without_any_noise_and_with_too_much():
    alike = [np.zeros(9)] * 3
    assert RobustHDP().weigh(reports(alike), {})[0].tolist() == [1 / 3] * 3
    huge = RobustHDP().weigh(reports([1e300 * u for u in noisy([0.1, 1.0])]), {})[0]
    assert np.isfinite(huge).all()
    broken = noisy([0.1, 1.0])
    broken[0][3] = np.nan
    assert np.isnan(RobustHDP().weigh(reports(broken), {})[0]).all()


def test_a_large_model_is_estimated_on_some_of_its_weights():
    updates = noisy([0.5, 2.0], size=5000)
    some, few = (RobustHDP(rows=n).weigh(reports(updates), {})[0] for n in (1000, 200))
    assert some == pytest.approx(few, abs=0.1)
    with pytest.raises(ValueError, match="rows = 0: must be 1 or more"):
        RobustHDP(rows=0)
