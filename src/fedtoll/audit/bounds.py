"""From counted errors to bounds of ε, and from ε to a ceiling on any attack.

A mechanism that is (ε, δ)-private limits every test of "was this record in?". So errors that were counted
bound ε from below, at a confidence: exactly (Clopper and Pearson 1934), and without asymptotics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import binom

from fedtoll.toll.shares import upper

_CAREFUL = 1e-6

LEVEL = 0.05
"""The chance that a bound is wrong: half of it for each of the two error rates."""


SEEN = 0.9
"""Of the clip: a canary whose clipped gradient is shorter is ignored by the model, and shows nothing."""


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the δ(ε) of a test of N(0, 1) against N(μ, 1).

    δ(ε) = Φ(−ε/μ + μ/2) − e^ε Φ(−ε/μ − μ/2) (Dong, Roth and Su 2022, corollary 2.13).

    Examples
    --------
    >>> round(gaussian_delta(1.0, 1.0), 4)
    0.1269
    """
    below = math.exp(min(0.0, epsilon + float(log_ndtr(-epsilon / mu - mu / 2))))
    return max(0.0, float(ndtr(-epsilon / mu + mu / 2)) - below)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the exact ε at δ of one Gaussian release of noise multiplier 1/μ.

    Examples
    --------
    >>> gaussian_epsilon(0.0, 1e-5), gaussian_epsilon(math.inf, 1e-5)
    (0.0, inf)
    >>> mu = 2.0
    >>> math.isclose(gaussian_delta(gaussian_epsilon(mu, 1e-5), mu), 1e-5, rel_tol=1e-6)
    True
    """
    if math.isinf(mu):
        return math.inf
    if mu <= 0 or gaussian_delta(0.0, mu) <= delta:
        return 0.0
    most = mu**2 / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    return float(brentq(lambda e: gaussian_delta(e, mu) - delta, 0.0, most + 1e-9, xtol=1e-12))


@dataclass(frozen=True)
class Separation:
    """How well one threshold tells two samples apart.

    Parameters
    ----------
    mu
        The lower bound of μ; not below 0.
    threshold
        What was called "in" lies above it.
    false_positives, false_negatives, observations
        Errors, each among so many observations.
    """

    mu: float
    threshold: float
    false_positives: int
    false_negatives: int
    observations: int


def separation(
    out_N: NDArray[np.float64], in_N: NDArray[np.float64], level: float = LEVEL, candidates: int = 400
) -> Separation:
    """Return a lower bound of the μ that tells two samples apart (Nasr et al. 2023).

    The threshold is chosen on the first half of each sample, and its errors are counted on the second:
    μ ≥ Φ⁻¹(1 − FPR) − Φ⁻¹(FNR) with Clopper–Pearson upper limits of both rates. The choice is made with far
    wider limits than the bound, so that no threshold wins by a few lucky errors far out in a tail.

    Parameters
    ----------
    out_N, in_N
        Independent observations without and with the record, as many of each.
    level
        The chance that the bound is wrong.
    candidates
        How many thresholds are tried on the first half.
    """
    half = len(out_N) // 2
    tried = np.quantile(
        np.concatenate([out_N[:half], in_N[:half]]), (np.arange(candidates) + 0.5) / candidates
    )
    below_out = np.searchsorted(np.sort(out_N[:half]), tried, side="right")
    below_in = np.searchsorted(np.sort(in_N[:half]), tried, side="right")
    chosen = float(tried[np.argmax(mu_at_least(half - below_out, below_in, half, _CAREFUL))])
    n = len(out_N) - half
    wrong_out, wrong_in = int((out_N[half:] > chosen).sum()), int((in_N[half:] <= chosen).sum())
    mu = float(mu_at_least(wrong_out, wrong_in, n, level))
    return Separation(max(0.0, mu), chosen, wrong_out, wrong_in, n)


def mu_at_least(
    false_positives: NDArray[np.int64] | int, false_negatives: NDArray[np.int64] | int, n: int, level: float
) -> NDArray[np.float64]:
    """Return the lower bound of μ from so many errors among n observations a side, at a level."""
    return np.asarray(
        ndtri(1 - upper(false_positives, n, level / 2)) - ndtri(upper(false_negatives, n, level / 2))
    )


def one_run_epsilon(correct: int, guesses: int, canaries: int, delta: float, level: float = LEVEL) -> float:
    """Return the lower bound of ε from the guesses of one run.

    Steinke, Nasr and Jagielski 2023, theorem 5.2: of m canaries each was put in by a coin of its own, r
    guesses were made and v were right. Under (ε, δ)-privacy v exceeds a binomial of r and e^ε/(1 + e^ε) by
    little; the bound is the largest ε that is refuted.

    Parameters
    ----------
    correct, guesses, canaries
        v ≤ r ≤ m.
    delta, level
        δ, and the chance that the bound is wrong.

    Examples
    --------
    >>> one_run_epsilon(25, 50, 100, 1e-5)
    0.0
    >>> round(one_run_epsilon(50, 50, 100, 0.0), 3)  # .05 = (e^ε / (1 + e^ε))^50
    2.785
    """

    def refuted(epsilon: float) -> bool:
        right = 1 / (1 + math.exp(-epsilon))
        chance = float(binom.sf(correct - 1, guesses, right))
        i = np.arange(1, canaries + 1)
        nearly = binom.cdf(correct - 1, guesses, right) - binom.cdf(correct - i - 1, guesses, right)
        return chance + 2 * canaries * delta * float(np.max(nearly / i)) < level

    low, high = 0.0, 30.0
    if not refuted(low):
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def replaced_ceiling(epsilon: float, delta: float) -> float:
    """Return the largest TPR − FPR of an attack on memberships of which a fixed number is drawn.

    There a record that is out has another in its place. Whoever is (ε, δ)-private for adding and removing is
    (2ε, (1 + e^ε)δ)-private for replacing: the way leads over the records without either.

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
