"""Mathematics of the simplex that several strategies share."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedtoll.strategies.base import Weights

TOLERANCE = 1e-9
"""How far the sum of weights may be from 1."""


def off_the_simplex(weights: Any, count: int) -> str:
    """Say in a few words why these are not ``count`` weights of 0 or more with the sum 1; "" if they are.

    Examples
    --------
    >>> off_the_simplex(np.array([0.5, 0.500001]), 2)
    'sum 1 instead of 1 (+1e-06)'
    >>> off_the_simplex(np.array([0.25, 0.75]), 2)
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
    off = float(weights.sum()) - 1
    return "" if abs(off) <= TOLERANCE else f"sum {1 + off:.6g} instead of 1 ({off:+.3g})"


def project(point: Weights) -> Weights:
    """Return the Euclidean projection of a point on the simplex {p ≥ 0, Σp = 1}.

    The projection is max(0, point + ν) with the one ν at which the sum is 1; ν follows from the sorted
    values (Held, Wolfe and Crowder 1974; Duchi et al. 2008, figure 1). The largest value is taken off
    first, which changes no projection and keeps the digits of large ones.

    Examples
    --------
    >>> project(np.array([0.5, 0.7, -0.4]))
    array([0.4, 0.6, 0. ])
    """
    point = point - point.max()
    falling = np.sort(point)[::-1]
    shifts = (1.0 - np.cumsum(falling)) / np.arange(1, len(point) + 1)
    kept = np.flatnonzero(falling + shifts > 0)[-1]
    projected = np.maximum(point + shifts[kept], 0.0)
    return np.asarray(projected / projected.sum())


def tilt(base: Weights, exponent: Weights) -> Weights:
    """Return p_k ∝ base_k · exp(exponent_k); the largest exponent is taken off first, so none overflows.

    Examples
    --------
    >>> tilt(np.array([0.5, 0.5]), np.array([1000.0, 1000.0 + np.log(3)])).round(6)
    array([0.25, 0.75])
    """
    weights = base * np.exp(exponent - exponent.max())
    return np.asarray(weights / weights.sum())
