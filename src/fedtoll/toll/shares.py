"""Exact binomial limits, interval and test for a proportion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def lower(successes: ArrayLike, n: ArrayLike, level: float) -> Any:
    """Return the exact lower confidence limit of a proportion (Clopper and Pearson 1934).

    Parameters
    ----------
    successes, n
        Numbers of successes and trials, scalars or arrays of one shape.
    level
        1 − confidence: the largest probability that the limit lies above the true proportion.
    """
    from scipy.stats import beta

    k, n = np.asarray(successes), np.asarray(n)
    return np.where(k <= 0, 0.0, beta.ppf(level, np.maximum(k, 1e-9), n - k + 1))[()]


def upper(successes: ArrayLike, n: ArrayLike, level: float) -> Any:
    """Return the exact upper confidence limit of a proportion; parameters as in :func:`lower`."""
    from scipy.stats import beta

    k, n = np.asarray(successes), np.asarray(n)
    return np.where(k >= n, 1.0, beta.ppf(1 - level, k + 1, np.maximum(n - k, 1e-9)))[()]


def clopper_pearson(successes: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Return the exact two-sided interval of a proportion at confidence 1 − ``alpha``; NaN if n is 0.

    Examples
    --------
    >>> [tuple(round(v, 3) for v in clopper_pearson(k, 10)) for k in (10, 0, 5)]
    [(0.692, 1.0), (0.0, 0.308), (0.187, 0.813)]
    """
    if n == 0:
        return math.nan, math.nan
    return float(lower(successes, n, alpha / 2)), float(upper(successes, n, alpha / 2))


def against(successes: int, n: int, bound: float, *, above: bool) -> float:
    """Return the p-value of a proportion above (or below) a bound: twice the exact binomial tail, at most 1.

    Parameters
    ----------
    successes, n
        Numbers of successes and trials.
    bound
        The proportion under the null hypothesis, clipped to [0, 1].
    above
        Whether to test for a proportion above the bound (else below it).

    Examples
    --------
    >>> against(10, 10, 0.5, above=True) == 2 / 2**10, round(against(10, 10, 0.9, above=True) / 2, 2)
    (True, 0.35)
    """
    from scipy.stats import binomtest

    share = min(1.0, max(0.0, bound))
    tail = binomtest(successes, n, share, alternative="greater" if above else "less").pvalue
    return min(1.0, 2 * float(tail))
