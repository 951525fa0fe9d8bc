"""Test and interval for the difference between the toll gaps of two strategies."""

from __future__ import annotations

import numpy as np

from fedtoll.toll.intervals import Floats, half_width, nan_if_zero, permutation_p, signs
from fedtoll.toll.limits import FEW_SEEDS, LEVEL


def gap_swap(a_SG: Floats, b_SG: Floats) -> float:
    """Return the two-sided p-value of a test that two strategies have the same gap, by swaps within seeds.

    The statistic is T = gap(mean_s a) − gap(mean_s b), where gap = max − min over groups of *seed means*. It
    is recomputed for each of the 2^S swaps of the two strategies' vectors of tolls within seeds. The test is
    therefore exact if the strategies are exchangeable within a seed, and its statistic is the one reported.

    Parameters
    ----------
    a_SG, b_SG
        Tolls of the two strategies, shape ``[seeds, groups]``, without NaN.

    Returns
    -------
    float
        NaN with five seeds or fewer, which cannot reach .05.
    """
    seeds = len(a_SG)
    if seeds <= FEW_SEEDS:
        return float("nan")
    middle_G = (a_SG + b_SG).mean(axis=0) / 2
    half_difference_FG = signs(seeds) @ (a_SG - b_SG) / (2 * seeds)
    statistics = np.ptp(middle_G + half_difference_FG, axis=1) - np.ptp(middle_G - half_difference_FG, axis=1)
    return permutation_p(statistics)


def gap_difference(a_SG: Floats, b_SG: Floats, alpha: float = LEVEL) -> tuple[float, float, float]:
    """Return T = gap(mean_s a) − gap(mean_s b) and its interval over seeds.

    A gap is the largest difference over all ordered pairs of groups, so T = max_p min_q (a_p − b_q), where p
    and q are such pairs. Each a_p − b_q has a t interval over seeds. If one pair's mean is far above all
    others, T is that pair's difference and has its t interval. If groups tie, however, a gap of means is
    biased upward, and the coverage of that interval can fall to 83%. The candidates are therefore all pairs
    that a one-sided t test at 5% does not distinguish from the largest. The ends are corrected (Bonferroni)
    for their number, and low = max_p min_q of the lower ends, high = max_p min_q of the upper ends. In
    simulations with the tolls of adult-race the coverage is 95 to 99%, and higher if groups tie under both
    strategies.

    Parameters
    ----------
    a_SG, b_SG
        Tolls of the two strategies, shape ``[seeds, groups]``, without NaN.
    alpha
        1 − coverage.

    Returns
    -------
    T, low, high
        The ends are NaN with one seed or if the seeds show no spread.

    Examples
    --------
    >>> a, b = np.array([[0.1, 0.3], [0.1, 0.5]]), np.array([[0.1, 0.2], [0.2, 0.1]])
    >>> round(gap_difference(a, b)[0], 3)
    0.3
    """
    seeds = len(a_SG)
    difference = float(np.ptp(a_SG.mean(axis=0)) - np.ptp(b_SG.mean(axis=0)))
    if seeds < 2:
        return difference, float("nan"), float("nan")
    a_SP, b_SQ = _candidates(a_SG), _candidates(b_SG)
    mean_PQ = a_SP.mean(axis=0)[:, None] - b_SQ.mean(axis=0)
    a, b = a_SP - a_SP.mean(axis=0), b_SQ - b_SQ.mean(axis=0)
    squares_PQ = (a**2).sum(axis=0)[:, None] + (b**2).sum(axis=0) - 2 * a.T @ b
    se_PQ = nan_if_zero(np.sqrt(np.maximum(squares_PQ, 0) / (seeds - 1) / seeds), 1e3 * np.abs(mean_PQ))
    lower_PQ = mean_PQ - half_width(se_PQ, seeds, alpha / a_SP.shape[1])
    upper_PQ = mean_PQ + half_width(se_PQ, seeds, alpha / b_SQ.shape[1])
    return difference, float(lower_PQ.min(axis=1).max()), float(upper_PQ.min(axis=1).max())


def _candidates(x_SG: Floats, level: float = 0.05) -> Floats:
    """Return the differences of the group pairs whose mean may be the largest, shape ``[seeds, pairs]``."""
    seeds, groups = x_SG.shape
    first, second = np.nonzero(~np.eye(groups, dtype=bool))
    x_SP = x_SG[:, first] - x_SG[:, second]
    behind_SP = x_SP[:, [x_SP.mean(axis=0).argmax()]] - x_SP
    se_P = behind_SP.std(axis=0, ddof=1) / np.sqrt(seeds)
    return np.asarray(x_SP[:, behind_SP.mean(axis=0) <= half_width(se_P, seeds, 2 * level)])
