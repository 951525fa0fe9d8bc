"""Operations on the simplex that several strategies share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.base import Weights

TOLERANCE = 1e-9
"""Largest allowed deviation of a sum of weights from 1."""


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
        return "not finite"
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
