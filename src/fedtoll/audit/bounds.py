"""Lower bounds of ε from an attacker's errors, and the upper bound that ε puts on any attack.

An (ε, δ)-private mechanism limits every test of "was this record in?". The errors of such a test therefore
bound ε from below, at a stated confidence. The intervals are exact (Clopper and Pearson 1934), not
asymptotic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binom

from fedtoll.toll.shares import upper

_SELECTION_LEVEL = 1e-6  # of the intervals by which a threshold is chosen

LEVEL = 0.05
"""The probability that a bound is wrong, split evenly between the two error rates."""

MIN_CANARY_NORM = 0.9
"""In units of the clip. The model ignores a canary with a shorter clipped gradient, which proves nothing."""


@dataclass(frozen=True)
class Separation:
    """How well one threshold separates two samples.

    Parameters
    ----------
    mu
        The lower bound of μ; at least 0.
    threshold
        Observations above it were classified as "in".
    false_positives, false_negatives
        The errors, each among ``observations``.
    observations
        The observations counted on each side.
    """

    mu: float
    threshold: float
    false_positives: int
    false_negatives: int
    observations: int


def separation(
    out_N: NDArray[np.float64], in_N: NDArray[np.float64], level: float = LEVEL, candidates: int = 400
) -> Separation:
    """Return a lower bound of the μ that separates two samples (Nasr et al. 2023).

    The threshold is chosen on the first half of each sample and its errors are counted on the second half:
    μ ≥ Φ⁻¹(1 − FPR) − Φ⁻¹(FNR), with Clopper–Pearson upper limits of both rates. The choice uses far wider
    limits than the bound, so that no threshold far out in a tail wins by luck.

    Parameters
    ----------
    out_N, in_N
        Independent observations without and with the record, equally many.
    level
        The probability that the bound is wrong.
    candidates
        The number of thresholds tried on the first half.
    """
    half = len(out_N) // 2
    thresholds = np.quantile(
        np.concatenate([out_N[:half], in_N[:half]]), (np.arange(candidates) + 0.5) / candidates
    )
    below_out = np.searchsorted(np.sort(out_N[:half]), thresholds, side="right")
    below_in = np.searchsorted(np.sort(in_N[:half]), thresholds, side="right")
    chosen = float(thresholds[np.argmax(mu_at_least(half - below_out, below_in, half, _SELECTION_LEVEL))])
    n = len(out_N) - half
    wrong_out, wrong_in = int((out_N[half:] > chosen).sum()), int((in_N[half:] <= chosen).sum())
    mu = float(mu_at_least(wrong_out, wrong_in, n, level))
    return Separation(max(0.0, mu), chosen, wrong_out, wrong_in, n)


def mu_at_least(
    false_positives: NDArray[np.int64] | int, false_negatives: NDArray[np.int64] | int, n: int, level: float
) -> NDArray[np.float64]:
    """Return the lower bound of μ, at a level, from the errors among n observations on each side."""
    return np.asarray(
        ndtri(1 - upper(false_positives, n, level / 2)) - ndtri(upper(false_negatives, n, level / 2))
    )


def one_run_epsilon(correct: int, guesses: int, canaries: int, delta: float, level: float = LEVEL) -> float:
    """Return a lower bound of ε from the membership guesses of one run.

    Steinke, Nasr and Jagielski 2023, theorem 5.2: each of m canaries is included by an independent fair coin,
    and v of r guesses are correct. Under (ε, δ)-privacy v barely exceeds a binomial variable with r trials
    and success probability e^ε/(1 + e^ε). The bound is the largest ε that is rejected.

    Parameters
    ----------
    correct, guesses, canaries
        v ≤ r ≤ m.
    delta, level
        δ, and the probability that the bound is wrong.

    Examples
    --------
    >>> one_run_epsilon(25, 50, 100, 1e-5)
    0.0
    >>> round(one_run_epsilon(50, 50, 100, 0.0), 3)  # .05 = (e^ε / (1 + e^ε))^50
    2.785
    """

    def rejected(epsilon: float) -> bool:
        accuracy = 1 / (1 + math.exp(-epsilon))
        tail = float(binom.sf(correct - 1, guesses, accuracy))
        i = np.arange(1, canaries + 1)
        near = binom.cdf(correct - 1, guesses, accuracy) - binom.cdf(correct - i - 1, guesses, accuracy)
        return tail + 2 * canaries * delta * float(np.max(near / i)) < level

    low, high = 0.0, 30.0
    if not rejected(low):
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if rejected(middle) else (low, middle)
    return low


def replaced_ceiling(epsilon: float, delta: float) -> float:
    """Return the largest TPR − FPR of any attack when a fixed number of members is drawn.

    Another record then replaces each one that is left out. A mechanism that is (ε, δ)-private under adding or
    removing a record is (2ε, (1 + e^ε)δ)-private under replacing one: remove the first, then add the second.

    Examples
    --------
    >>> replaced_ceiling(0.5, 0.0) == ceiling(1.0, 0.0), replaced_ceiling(math.inf, 0.0)
    (True, 1.0)
    """
    if epsilon > 250:
        return 1.0
    return ceiling(2 * epsilon, (1 + math.exp(epsilon)) * delta)


def ceiling(epsilon: float, delta: float) -> float:
    """Return the largest TPR − FPR of any test of "was this record added?": (e^ε − 1 + 2δ) / (e^ε + 1).

    Examples
    --------
    >>> round(ceiling(0.5, 1e-5), 4), ceiling(math.inf, 0.0)
    (0.2449, 1.0)
    """
    if math.isinf(epsilon):
        return 1.0
    return min(1.0, (math.expm1(epsilon) + 2 * delta) / (math.exp(epsilon) + 1) if epsilon < 500 else 1.0)
