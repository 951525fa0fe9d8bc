"""The exact trade-off of one Gaussian release: δ at ε, and ε at δ."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return δ(ε) of testing N(0, 1) against N(μ, 1).

    δ(ε) = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2) (Balle and Wang 2018, theorem 8; Dong, Roth and Su 2022,
    corollary 2.13).

    Examples
    --------
    >>> round(gaussian_delta(1.0, 1.0), 4)
    0.1269
    """
    return float(gaussian_deltas(np.array(epsilon), mu))


def gaussian_deltas(epsilon: NDArray[np.float64], mu: float) -> NDArray[np.float64]:
    """Return :func:`gaussian_delta` at each ε of an array."""
    from scipy.special import log_ndtr, ndtr

    below = np.exp(np.minimum(0.0, epsilon + log_ndtr(-epsilon / mu - mu / 2)))
    return np.asarray(np.maximum(0.0, ndtr(-epsilon / mu + mu / 2) - below))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the exact ε at δ of one Gaussian release with noise multiplier 1/μ.

    Examples
    --------
    >>> gaussian_epsilon(0.0, 1e-5), gaussian_epsilon(math.inf, 1e-5)
    (0.0, inf)
    >>> mu = 2.0
    >>> math.isclose(gaussian_delta(gaussian_epsilon(mu, 1e-5), mu), 1e-5, rel_tol=1e-6)
    True
    """
    from scipy.optimize import brentq

    if math.isinf(mu):
        return math.inf
    if mu <= 0 or gaussian_delta(0.0, mu) <= delta:
        return 0.0
    upper = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    return float(brentq(lambda e: gaussian_delta(e, mu) - delta, 0.0, upper + 1e-9, xtol=1e-12))
