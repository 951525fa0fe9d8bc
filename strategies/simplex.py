"""Mathematics of the simplex that several strategies share."""

from __future__ import annotations

import numpy as np

from fedtoll.strategies.base import Weights


def project(point: Weights) -> Weights:
    """Return the Euclidean projection of a point on the simplex {p ≥ 0, Σp = 1}.

    The projection is max(0, point + ν) with the one ν at which the sum is 1; ν follows from the sorted
    values (Held, Wolfe and Crowder 1974; Duchi et al. 2008, figure 1).

    Examples
    --------
    >>> project(np.array([0.5, 0.7, -0.4]))
    array([0.4, 0.6, 0. ])
    """
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
