"""Mathematics of the simplex that several strategies share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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


def ascend(point: Weights, step: Weights, there: NDArray[np.bool_]) -> Weights:
    """Return Π(p + s) with only the coordinates that are there moving; the others keep theirs to the bit.

    Those that are there keep their sum, m: they move on the simplex {p ≥ 0, Σp = m}. Who is absent would
    otherwise lose weight to those who are measured, as if the step were 0 there (derived here).

    Examples
    --------
    >>> ascend(np.array([0.4, 0.4, 0.2]), np.array([0.2, 0.4, 0.0]), np.array([True, True, True]))
    array([0.4, 0.6, 0. ])
    >>> ascend(np.array([0.4, 0.4, 0.2]), np.array([0.2, 0.4, 0.0]), np.array([True, True, False]))
    array([0.3, 0.5, 0.2])
    """
    if there.all():
        return project(point + step)
    moved, mass = np.array(point), float(point[there].sum())
    if mass > TOLERANCE:  # else there is nothing to share out
        moved[there] = mass * project((point[there] + step[there]) / mass)
    return moved


def tilt(base: Weights, exponent: Weights) -> Weights:
    """Return p_k ∝ base_k · exp(exponent_k); the largest exponent is taken off first, so none overflows.

    Examples
    --------
    >>> tilt(np.array([0.5, 0.5]), np.array([1000.0, 1000.0 + np.log(3)])).round(6)
    array([0.25, 0.75])
    """
    weights = base * np.exp(exponent - exponent.max())
    return np.asarray(weights / weights.sum())
