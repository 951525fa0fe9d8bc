"""The toll gaps of two strategies: their difference, how sure it is, and whether chance makes as much."""

from __future__ import annotations

import numpy as np

from fedtoll.toll.intervals import Floats, half_width, resolved, share_as_far, signs
from fedtoll.toll.limits import FEW_SEEDS, LEVEL


def gap_swap(a_SG: Floats, b_SG: Floats) -> float:
    """Return the two-sided p-value that two strategies leave the same gap, by swapping them within seeds.

    The statistic is T = gap(mean_s a) − gap(mean_s b), with gap = max − min over groups of *seed means*: it
    is taken anew for each of the 2^S swaps of the strategies' whole vectors within seeds. So the test is
    exact where the two are exchangeable within a seed, and its statistic is the one that is reported.

    Parameters
    ----------
    a_SG, b_SG
        Tolls of either strategy, shape ``[seeds, groups]``, without NaN.

    Returns
    -------
    float
        NaN with five seeds or fewer, which cannot reach .05.
    """
    seeds = len(a_SG)
    if seeds <= FEW_SEEDS:
        return float("nan")
    middle_G = (a_SG + b_SG).mean(axis=0) / 2
    apart_FG = signs(seeds) @ (a_SG - b_SG) / (2 * seeds)
    statistics = np.ptp(middle_G + apart_FG, axis=1) - np.ptp(middle_G - apart_FG, axis=1)
    return share_as_far(statistics)


def gap_difference(a_SG: Floats, b_SG: Floats, alpha: float = LEVEL) -> tuple[float, float, float]:
    """Return T = gap(mean_s a) − gap(mean_s b) and its interval over seeds.

    A gap is the largest difference over all ordered pairs of groups, so T = max_p min_q (a_p − b_q) with p, q
    such pairs. Each a_p − b_q has a t interval over seeds; where the pair that is largest in the mean is far
    above all others, T is one of them and its t interval is that of T. But where groups tie, a gap of means
    is biased upward and that interval covers in as few as 83 of 100. So all pairs that no one-sided t
    test at 5% tells from the largest are candidates, ends are corrected (Bonferroni) for how many there
    are, and low = max_p min_q of the lower, high = max_p min_q of the upper ends. In simulations with the
    tolls of adult-race it covers in 95 to 99%, and in more where both strategies tie.

    Parameters
    ----------
    a_SG, b_SG
        Tolls of either strategy, shape ``[seeds, groups]``, without NaN.
    alpha
        1 − coverage.

    Returns
    -------
    T, low, high
        The ends NaN with one seed, or where seeds show no spread.

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
    apart_PQ = a_SP.mean(axis=0)[:, None] - b_SQ.mean(axis=0)
    a, b = a_SP - a_SP.mean(axis=0), b_SQ - b_SQ.mean(axis=0)
    squares_PQ = (a**2).sum(axis=0)[:, None] + (b**2).sum(axis=0) - 2 * a.T @ b
    se_PQ = resolved(np.sqrt(np.maximum(squares_PQ, 0) / (seeds - 1) / seeds), 1e3 * np.abs(apart_PQ))
    lower_PQ = apart_PQ - half_width(se_PQ, seeds, alpha / a_SP.shape[1])
    upper_PQ = apart_PQ + half_width(se_PQ, seeds, alpha / b_SQ.shape[1])
    return difference, float(lower_PQ.min(axis=1).max()), float(upper_PQ.min(axis=1).max())


def _candidates(x_SG: Floats, level: float = 0.05) -> Floats:
    """Return the ordered pairs of groups that may be largest in the mean: differences, ``[seeds, pairs]``."""
    seeds, groups = x_SG.shape
    first, second = np.nonzero(~np.eye(groups, dtype=bool))
    x_SP = x_SG[:, first] - x_SG[:, second]
    behind_SP = x_SP[:, [x_SP.mean(axis=0).argmax()]] - x_SP
    se_P = behind_SP.std(axis=0, ddof=1) / np.sqrt(seeds)
    return np.asarray(x_SP[:, behind_SP.mean(axis=0) <= half_width(se_P, seeds, 2 * level)])
