"""Operations on the simplex that several strategies share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.base import Weights

TOLERANCE = 1e-9
"""Largest allowed deviation of a sum of weights from 1."""

NOT_FINITE = "not finite"
"""What :func:`simplex_violation` says of weights of which one is NaN or infinite."""


def simplex_violation(weights: Any, count: int) -> str:
    """Return why an array does not hold ``count`` weights ≥ 0 with sum 1, or "" if it does.

    Examples
    --------
    >>> simplex_violation(np.array([0.5, 0.500001]), 2)
    'sum 1 instead of 1 (+1e-06)'
    >>> simplex_violation(np.array([0.25, 0.75]), 2)
    ''
    """
    if not isinstance(weights, np.ndarray):
        return f"a {type(weights).__name__} instead of an array"
    if weights.shape != (count,):
        return f"shape {weights.shape} instead of ({count},)"
    if weights.dtype.kind not in "iuf":
        return f"{weights.dtype} instead of numbers"
    if not np.isfinite(weights).all():
        return NOT_FINITE
    if (weights < 0).any():
        return f"{weights.min():.3g} is negative"
    excess = float(weights.sum()) - 1
    return "" if abs(excess) <= TOLERANCE else f"sum {1 + excess:.6g} instead of 1 ({excess:+.3g})"


def project(point: Weights) -> Weights:
    """Return the Euclidean projection of a point onto the simplex {p ≥ 0, Σp = 1}.

    The projection is max(0, point + ν) for the unique ν at which the sum is 1; ν follows from the sorted
    values (Held, Wolfe and Crowder 1974; Duchi et al. 2008, figure 1). The largest value is subtracted first:
    that leaves the projection unchanged and preserves the precision of large values.

    Examples
    --------
    >>> project(np.array([0.5, 0.7, -0.4]))
    array([0.4, 0.6, 0. ])
    """
    point = point - point.max()
    descending = np.sort(point)[::-1]
    shifts = (1.0 - np.cumsum(descending)) / np.arange(1, len(point) + 1)
    last_positive = np.flatnonzero(descending + shifts > 0)[-1]
    projected = np.maximum(point + shifts[last_positive], 0.0)
    return np.asarray(projected / projected.sum())


def ascend(point: Weights, step: Weights, present: NDArray[np.bool_]) -> Weights:
    """Return Π(p + s), moving only the coordinates that are present; the others stay exactly as they are.

    The coordinates present keep their sum m: they move on the simplex {p ≥ 0, Σp = m}. Otherwise the missing
    ones would lose weight to them, as if their step were 0 (derived here).

    Examples
    --------
    >>> ascend(np.array([0.4, 0.4, 0.2]), np.array([0.2, 0.4, 0.0]), np.array([True, True, True]))
    array([0.4, 0.6, 0. ])
    >>> ascend(np.array([0.4, 0.4, 0.2]), np.array([0.2, 0.4, 0.0]), np.array([True, True, False]))
    array([0.3, 0.5, 0.2])
    """
    if present.all():
        return project(point + step)
    moved, mass = np.array(point), float(point[present].sum())
    if mass > TOLERANCE:  # else there is no weight to distribute
        moved[present] = mass * project((point[present] + step[present]) / mass)
    return moved


def tilt(base: Weights, exponent: Weights) -> Weights:
    """Return p_k ∝ base_k · exp(exponent_k), subtracting the largest exponent first to avoid overflow.

    Examples
    --------
    >>> tilt(np.array([0.5, 0.5]), np.array([1000.0, 1000.0 + np.log(3)])).round(6)
    array([0.25, 0.75])
    """
    weights = base * np.exp(exponent - exponent.max())
    return np.asarray(weights / weights.sum())


def project_box(point: Weights, low: Weights, high: Weights) -> Weights:
    """Return the Euclidean projection of a point onto {low ≤ p ≤ high, Σp = 1}, which must not be empty.

    The projection is clip(point + ν, low, high) for a ν at which the sum is 1. The sum is linear in ν between
    the points where a coordinate reaches a bound.

    Examples
    --------
    >>> project_box(np.array([0.5, 0.7, -0.4]), np.zeros(3), np.full(3, 0.5)).round(3)
    array([0.5, 0.5, 0. ])
    """
    bends = np.concatenate([low - point, high - point])
    order = np.argsort(bends, kind="stable")
    slopes = np.cumsum(np.repeat([1.0, -1.0], len(point))[order])
    bends = bends[order]
    sums = low.sum() + np.concatenate([[0.0], np.cumsum(slopes[:-1] * np.diff(bends))])
    shift = np.interp(1.0, np.maximum.accumulate(sums), bends)
    return np.asarray(np.clip(point + shift, low, high))


def minimise(
    quadratic: NDArray[np.float64], linear: Weights, low: Weights, high: Weights, start: Weights
) -> Weights:
    """Return the p in {low ≤ p ≤ high, Σp = 1} that minimises pᵀ Q p / 2 + cᵀ p.

    Projected gradient descent with Nesterov's acceleration, restarted where the objective would rise (Beck
    and Teboulle 2009; O'Donoghue and Candès 2015). It stops when no coordinate moves by more than 1e-13, or
    after 2,000 steps.

    Parameters
    ----------
    quadratic
        Q, symmetric and positive semidefinite, of shape (K, K).
    linear
        c, of shape (K,).
    low, high
        The bounds, of shape (K,).
    start
        A feasible point to start from.

    Examples
    --------
    >>> even = np.full(2, 0.5)
    >>> minimise(np.diag([3.0, 1.0]), np.zeros(2), np.zeros(2), np.ones(2), even).round(6)
    array([0.25, 0.75])
    """
    longest = float(np.linalg.eigvalsh(quadratic)[-1])
    step = 1.0 / max(longest, 1e-12)
    p = ahead = start
    momentum = 1.0
    for _ in range(2000):
        new = project_box(ahead - step * (quadratic @ ahead + linear), low, high)
        moved = new - p
        if (ahead - new) @ moved > 0:  # uphill: start the momentum anew
            momentum = 1.0
        next_momentum = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / next_momentum * moved
        p, momentum = new, next_momentum
        if np.abs(moved).max() < 1e-13 and np.abs(ahead - p).max() < 1e-13:
            break
    return np.asarray(np.maximum(p, 0.0) / np.maximum(p, 0.0).sum())
