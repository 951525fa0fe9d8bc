"""Exact binomial tests and intervals for a share of seeds, where a sign-flip test does not apply."""

from __future__ import annotations

import math


def clopper_pearson(ones: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson 1934); NaN where n is 0.

    Examples
    --------
    >>> [tuple(round(v, 3) for v in clopper_pearson(k, 10)) for k in (10, 0, 5)]
    [(0.692, 1.0), (0.0, 0.308), (0.187, 0.813)]
    """
    from scipy import stats

    if n == 0:
        return math.nan, math.nan
    low = 0.0 if ones == 0 else float(stats.beta.ppf(alpha / 2, ones, n - ones + 1))
    high = 1.0 if ones == n else float(stats.beta.ppf(1 - alpha / 2, ones + 1, n - ones))
    return low, high


def binomial_p(ones: int, n: int, bound: float, *, above: bool) -> float:
    """Return the two-sided p-value of a share against a bound: twice the exact binomial tail, at most 1.

    Parameters
    ----------
    ones, n
        The number of flagged seeds, and of all seeds.
    bound
        The share under the null hypothesis.
    above
        Whether the observed share lies above the bound.

    Examples
    --------
    >>> binomial_p(10, 10, 0.5, above=True) == 2 / 2**10, round(binomial_p(10, 10, 0.9, above=True) / 2, 2)
    (True, 0.35)
    """
    from scipy import stats

    share = min(1.0, max(0.0, bound))
    tail = stats.binom.sf(ones - 1, n, share) if above else stats.binom.cdf(ones, n, share)
    return min(1.0, 2 * float(tail))
