"""Intervals and exact tests on plain arrays with one row per seed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedtoll.scenarios.compare import DRAWS, EXACT, FEW_SEEDS

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

SKEW_SEEDS = 5
"""With fewer seeds, intervals are t intervals: so few values say next to nothing about skewness."""

_TIE = 1e-9  # relative tolerance: sums of the same numbers in another order count as equal


def half_width(se: ArrayLike, seeds: ArrayLike, alpha: float | Floats = 0.05) -> Any:
    """Return half the width of a t interval over seeds; NaN with one seed.

    Parameters
    ----------
    se
        Standard error of the mean over seeds.
    seeds
        Number of seeds: the degrees of freedom plus one.
    alpha
        1 − coverage.
    """
    from scipy.special import stdtrit  # quantiles of t; scipy.stats wraps it but is slow to import

    freedom = np.asarray(seeds, dtype=float) - 1
    with np.errstate(invalid="ignore"):
        return stdtrit(np.where(freedom > 0, freedom, np.nan), 1 - np.asarray(alpha) / 2) * np.asarray(se)


def t_interval(x: ArrayLike) -> tuple[Any, Any, Any]:
    """Return mean, low and high of the studentised 95% interval over seeds (the first axis); NaN is dropped.

    The estimand is the mean over all seeds that could have been drawn, for *this* table of records and its
    folds. A width of zero does not mean certainty but a measure too coarse to show a difference, so the ends
    are NaN.

    Examples
    --------
    >>> [round(float(v), 3) for v in t_interval([0.10, 0.02, 0.06])]
    [0.06, -0.039, 0.159]
    """
    values = np.asarray(x, dtype=float)
    defined = ~np.isnan(values)
    count = defined.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(defined, values, 0.0).sum(axis=0) / np.where(count > 0, count, np.nan)
        squares = np.where(defined, (values - mean) ** 2, 0.0).sum(axis=0)
        se = np.sqrt(squares / np.where(count > 1, count - 1, np.nan) / count)
    half = half_width(nan_if_zero(se, np.abs(mean)), count)
    return mean, mean - half, mean + half


def seed_interval(x: ArrayLike) -> tuple[Any, Any, Any]:
    """Return mean, low and high of Hall's 95% interval over seeds (the first axis); NaN is dropped.

    The estimand is that of :func:`t_interval`. Tolls of small groups are skewed to the right, so a t interval
    misses large tolls too often; this one reaches further on the side of the long tail (:func:`hall_ends`).
    With fewer than :data:`SKEW_SEEDS` defined values it is the t interval.

    Examples
    --------
    >>> [round(float(v), 3) for v in seed_interval([0.02, 0.03, 0.04, 0.05, 0.06])]  # symmetric: as t
    [0.04, 0.02, 0.06]
    >>> [round(float(v), 3) for v in seed_interval([0.02, 0.03, 0.04, 0.05, 0.21])]
    [0.07, 0.005, 0.393]
    """
    values = np.asarray(x, dtype=float)
    defined = ~np.isnan(values)
    mean, _, high = t_interval(values)
    count = defined.sum(axis=0)
    centred = np.where(defined, values - mean, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        skewness = (centred**3).sum(axis=0) / (centred**2).sum(axis=0) ** 1.5 * np.sqrt(count)
        se = (high - mean) / half_width(1.0, count)
    return mean, *hall_ends(mean, se, half_width(1.0, count), mean_skewness(skewness, count))


def mean_skewness(skewness: ArrayLike, seeds: ArrayLike) -> Any:
    """Return the skewness of a mean over seeds, γ / √n; 0 with fewer than :data:`SKEW_SEEDS` seeds.

    Parameters
    ----------
    skewness
        The moment estimate g₁ = m₃ / m₂^1.5 of the values' skewness.
    seeds
        Number of seeds n.
    """
    n = np.asarray(seeds, dtype=float)
    enough = n >= SKEW_SEEDS
    return np.where(enough, np.asarray(skewness, dtype=float), 0.0) / np.sqrt(np.where(enough, n, 1.0))


def hall_ends(mean: ArrayLike, se: ArrayLike, quantile: ArrayLike, skewness: ArrayLike = 0.0) -> Any:
    """Return the ends of an interval that inverts Hall's (1992) transformation of the t statistic.

    The transformation g(t) = t + b t²/3 + b² t³/27 + b/6 removes the first-order effect of the skewness b of
    the mean on t. It is monotone, so the ends are mean − se · g⁻¹(±quantile), where
    g⁻¹(y) = 3 (c − 1) / b and c³ = 1 + b (y − b/6). With b = 0 this is the t interval.

    Parameters
    ----------
    mean, se
        The mean over seeds and its standard error.
    quantile
        The upper quantile of t, :func:`half_width` for a standard error of 1.
    skewness
        The skewness b of the mean (:func:`mean_skewness`).

    Returns
    -------
    low, high

    Examples
    --------
    >>> [round(float(v), 2) for v in hall_ends(0.0, 1.0, 2.0, 0.0)]
    [-2.0, 2.0]
    >>> [round(float(v), 2) for v in hall_ends(0.0, 1.0, 2.0, 0.3)]
    [-1.66, 2.73]
    """
    b, q = np.asarray(skewness, dtype=float), np.asarray(quantile, dtype=float)

    def inverse(y: Any) -> Any:
        cube_root = np.cbrt(1 + b * (y - b / 6))
        return 3 * (y - b / 6) / (cube_root**2 + cube_root + 1)  # = 3 (c − 1) / b, without dividing by b

    return mean - np.asarray(se) * inverse(q), mean - np.asarray(se) * inverse(-q)


def nan_if_zero(se: Any, scale: Any = 1.0) -> Any:
    """Return standard errors, with NaN where they are zero up to rounding, relative to ``scale``."""
    values = np.asarray(se, dtype=float)
    return np.where(values > 1e-12 * np.maximum(np.asarray(scale, dtype=float), 1e-12), values, np.nan)


def wilson(successes: ArrayLike, n: ArrayLike, alpha: float = 0.05) -> tuple[Any, Any]:
    """Return the Wilson (1927) interval for the rate of one run; its coverage is .91 to .96 for n ≥ 10.

    Parameters
    ----------
    successes, n
        Counts, scalars or arrays of one shape.
    alpha
        1 − coverage.

    Returns
    -------
    low, high
        In the shape of the counts; NaN where n is 0.

    Examples
    --------
    >>> low, high = wilson([19, 0, 0], [20, 10, 0])
    >>> low.round(3), high.round(3)
    (array([0.764, 0.   ,   nan]), array([0.991, 0.278,   nan]))
    """
    from scipy.special import ndtri

    z = ndtri(1 - alpha / 2)
    n = np.asarray(n, dtype=float)
    n = np.where(n > 0, n, np.nan)
    rate = np.asarray(successes, dtype=float) / n
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


@lru_cache(maxsize=32)
def signs(seeds: int) -> Floats:
    """Return sign flips for a number of seeds, shape ``[flips, seeds]``, the identity first.

    Up to :data:`~fedtoll.scenarios.compare.EXACT` seeds these are all flips except mirror images, which
    count the same in a two-sided test (the last sign stays +1). Beyond, they are
    :data:`~fedtoll.scenarios.compare.DRAWS` draws from a fixed stream.
    """
    if seeds <= EXACT:
        codes = np.arange(2 ** (seeds - 1))[:, None] >> np.arange(seeds)
        return np.asarray(1 - 2 * (codes & 1), dtype=np.float64)
    drawn = np.random.default_rng(0).integers(0, 2, (DRAWS, seeds), dtype=np.int8)
    return np.concatenate([np.ones((1, seeds)), 1.0 - 2.0 * drawn.astype(np.float64)])


def permutation_p(statistics: Floats) -> float:
    """Return a permutation test's p-value: the share of statistics at least as far from 0 as the first.

    The first statistic, the observed one, counts too. Over all flips the p-value is exact; over draws it is
    (1 + count) / (1 + draws), which is never below the true level (Phipson and Smyth 2010).
    """
    sizes = np.abs(statistics)
    return float(np.mean(sizes >= sizes[0] * (1 - _TIE)))


def sign_flip(differences: Iterable[float]) -> float:
    """Return the two-sided p-value of a sign-flip permutation test that paired differences centre on 0.

    The test is exact up to 16 seeds and uses 100,000 draws from a fixed stream beyond. Its smallest possible
    p-value for S seeds is 2 / 2^S, .0625 for five. With fewer than six seeds it cannot reject at .05, so NaN
    is returned.

    Parameters
    ----------
    differences
        One paired difference per seed, shape ``(seeds,)``; NaN is dropped.
    """
    x = np.asarray(list(differences), dtype=float)
    x = x[~np.isnan(x)]
    return float("nan") if x.size <= FEW_SEEDS else permutation_p(signs(x.size) @ x)


def holm(p: ArrayLike) -> Floats:
    """Return p-values adjusted over their whole family by Holm's method (1979).

    Parameters
    ----------
    p
        One value per comparison. NaN marks a comparison that could not be tested: it counts as a member of
        the family and stays NaN.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)  # NaN last
    factors = len(values) - np.arange(len(values))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return adjusted
