"""Lower bounds of ε from an attacker's errors, and the upper bound that ε puts on any attack.

An (ε, δ)-private mechanism limits every test of "was this record in?". The errors of such a test therefore
bound ε from below, at a stated confidence. The intervals are exact (Clopper and Pearson 1934), not
asymptotic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from fedtoll.privacy.gaussian import gaussian_delta, gaussian_epsilon
from fedtoll.toll.shares import upper

_SELECTION_LEVEL = 1e-6  # of the intervals by which a threshold is chosen

LEVEL = 0.05
"""The probability that a bound is wrong, split evenly between the two error rates."""

MIN_CANARY_NORM = 0.9
"""In units of the clip. The model ignores a canary with a shorter clipped gradient, which proves nothing."""


def sampled_epsilon(rate: float, mu: float, delta: float) -> float:
    """Return the exact ε at δ of one Gaussian release over a Poisson sample, for adding or removing a record.

    With the record, the release is (1 − q) N(0, 1) + q N(μ, 1); without it, N(0, 1). For ε ≥ 0 the largest
    excess P[with] − e^ε P[without] of any event is q δ(ε′), with e^ε′ = 1 + (e^ε − 1)/q and δ of
    :func:`gaussian_delta`. The opposite excess is a δ(ε″) with a = 1 − e^ε(1 − q) and e^ε″ = q e^ε / a, if
    a is positive: no larger, because e^ε″ ≥ e^ε′ and a ≤ q.

    Parameters
    ----------
    rate, mu, delta
        q, 1/σ and δ.

    Examples
    --------
    >>> math.isclose(sampled_epsilon(1.0, 1.0, 1e-5), gaussian_epsilon(1.0, 1e-5), rel_tol=1e-6)
    True
    >>> sampled_epsilon(0.02, 1.0, 1e-5) < gaussian_epsilon(1.0, 1e-5)
    True
    """

    def excess(epsilon: float) -> float:
        return rate * gaussian_delta(math.log1p(math.expm1(epsilon) / rate), mu) - delta

    if rate <= 0 or mu <= 0 or excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, gaussian_epsilon(mu, delta) + 1e-9, xtol=1e-12))


Lower = Callable[[Any, Any, int, float], NDArray[np.float64]]
"""A lower bound of a parameter, from the false positives, false negatives, observations and level."""


@dataclass(frozen=True)
class Claim:
    """What a mechanism claims about telling its outputs with a record from those without it.

    Parameters
    ----------
    parameter
        The claimed μ of two Gaussians, or the claimed q of a Poisson sample.
    at_least
        The lower bound of this parameter that errors show.
    epsilon
        The exact ε of a parameter.
    """

    parameter: float
    at_least: Lower
    epsilon: Callable[[float], float]

    def p_value(self, false_positives: int, false_negatives: int, n: int) -> float:
        """Return the smallest level at which the errors contradict the claim; 1 if none does.

        If the claim holds, it is at most p with probability at most p, because the limits of both rates hold
        together with probability 1 − p (Clopper and Pearson 1934).
        """

        def contradicts(log_level: float) -> bool:
            level = math.exp(log_level)
            return bool(self.at_least(false_positives, false_negatives, n, level) > self.parameter)

        low, high = math.log(1e-300), 0.0
        if not contradicts(high):
            return 1.0
        while high - low > 1e-3:
            middle = (low + high) / 2
            low, high = (low, middle) if contradicts(middle) else (middle, high)
        return math.exp(high)


def gaussian(mu: float, delta: float) -> Claim:
    """Return the claim of a Gaussian release: N(0, 1) without the record, N(μ, 1) with it."""
    return Claim(mu, mu_at_least, lambda found: gaussian_epsilon(found, delta))


def sampled(rate: float, mu: float, delta: float) -> Claim:
    """Return the claim of a Gaussian release over a Poisson sample; σ = 1/μ is taken as stated."""

    def at_least(fp: Any, fn: Any, n: int, level: float) -> NDArray[np.float64]:
        return rate_at_least(fp, fn, n, level, mu)

    return Claim(rate, at_least, lambda found: sampled_epsilon(min(1.0, found), mu, delta))


@dataclass(frozen=True)
class Separation:
    """How well one threshold separates two samples.

    Parameters
    ----------
    parameter
        The lower bound of the claim's parameter; at least 0.
    threshold
        Observations above it were classified as "in".
    false_positives, false_negatives
        The errors, each among ``observations``.
    observations
        The observations counted on each side.
    """

    parameter: float
    threshold: float
    false_positives: int
    false_negatives: int
    observations: int


def separation(
    out_N: NDArray[np.float64],
    in_N: NDArray[np.float64],
    level: float = LEVEL,
    candidates: int = 400,
    at_least: Lower | None = None,
) -> Separation:
    """Return a lower bound of the parameter that separates two samples (Nasr et al. 2023).

    The threshold is chosen on the first half of each sample and its errors are counted on the second half.
    The choice uses far wider limits than the bound, so that no threshold far out in a tail wins by luck.

    Parameters
    ----------
    out_N, in_N
        Independent observations without and with the record, equally many.
    level
        The probability that the bound is wrong.
    candidates
        The number of thresholds tried on the first half.
    at_least
        The bound, by default :func:`mu_at_least`.
    """
    at_least = at_least or mu_at_least
    half = len(out_N) // 2
    thresholds = np.quantile(
        np.concatenate([out_N[:half], in_N[:half]]), (np.arange(candidates) + 0.5) / candidates
    )
    below_out = np.searchsorted(np.sort(out_N[:half]), thresholds, side="right")
    below_in = np.searchsorted(np.sort(in_N[:half]), thresholds, side="right")
    chosen = float(thresholds[np.argmax(at_least(half - below_out, below_in, half, _SELECTION_LEVEL))])
    n = len(out_N) - half
    wrong_out, wrong_in = int((out_N[half:] > chosen).sum()), int((in_N[half:] <= chosen).sum())
    found = float(at_least(wrong_out, wrong_in, n, level))
    return Separation(max(0.0, found), chosen, wrong_out, wrong_in, n)


def mu_at_least(
    false_positives: NDArray[np.int64] | int, false_negatives: NDArray[np.int64] | int, n: int, level: float
) -> NDArray[np.float64]:
    """Return the lower bound μ ≥ Φ⁻¹(1 − FPR) − Φ⁻¹(FNR) from errors among n observations on each side."""
    return np.asarray(
        ndtri(1 - upper(false_positives, n, level / 2)) - ndtri(upper(false_negatives, n, level / 2))
    )


def rate_at_least(
    false_positives: NDArray[np.int64] | int,
    false_negatives: NDArray[np.int64] | int,
    n: int,
    level: float,
    mu: float,
) -> NDArray[np.float64]:
    """Return the lower bound of the sampling rate q, for a known μ, from errors among n observations.

    No test of N(0, 1) against (1 − q) N(0, 1) + q N(μ, 1) has FNR < (1 − q)(1 − FPR) + q Φ(Φ⁻¹(1 − FPR) − μ):
    their likelihood ratio increases, so thresholds are the best tests (Neyman and Pearson 1933).
    """
    fpr, fnr = upper(false_positives, n, level / 2), upper(false_negatives, n, level / 2)
    gain = (1 - fpr) - ndtr(ndtri(1 - fpr) - mu)
    shown = 1 - fpr - fnr
    return np.asarray(np.divide(shown, gain, out=np.zeros_like(gain * shown), where=gain > 1e-12))


def one_run_p_value(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Return the p-value of (ε, δ)-privacy from the membership guesses of one run.

    Steinke, Nasr and Jagielski 2023, theorem 5.2: each of m canaries is included by an independent fair coin,
    and v of r guesses are correct. Under (ε, δ)-privacy v barely exceeds a binomial variable with r trials
    and success probability e^ε/(1 + e^ε).

    Parameters
    ----------
    correct, guesses, canaries
        v ≤ r ≤ m.
    epsilon, delta
        The claim.

    Examples
    --------
    >>> round(one_run_p_value(50, 50, 100, 0.0, 0.0) * 2**50, 6)
    1.0
    >>> one_run_p_value(50, 50, 100, 8.0, 1e-5) > 0.9
    True
    """
    accuracy = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, accuracy))
    i = np.arange(1, canaries + 1)
    near = binom.cdf(correct - 1, guesses, accuracy) - binom.cdf(correct - i - 1, guesses, accuracy)
    return min(1.0, tail + 2 * canaries * delta * float(np.max(near / i)))


def one_run_epsilon(correct: int, guesses: int, canaries: int, delta: float, level: float = LEVEL) -> float:
    """Return the largest ε that the membership guesses of one run reject, a lower bound at a level.

    Parameters
    ----------
    correct, guesses, canaries, delta
        As in :func:`one_run_p_value`.
    level
        The probability that the bound is wrong.

    Examples
    --------
    >>> one_run_epsilon(25, 50, 100, 1e-5)
    0.0
    >>> round(one_run_epsilon(50, 50, 100, 0.0), 3)  # .05 = (e^ε / (1 + e^ε))^50
    2.785
    """

    def rejected(epsilon: float) -> bool:
        return one_run_p_value(correct, guesses, canaries, epsilon, delta) < level

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
