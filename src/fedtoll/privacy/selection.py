"""What a choice of constants costs: the best of a random number of private trainings.

Each candidate is drawn uniformly from a public grid and trained on private records; the one with the least
loss on public records wins, and only its constants are used. The best of *K* trainings costs about K times
one training if K is fixed, but hardly more than a few if K is random ("random stopping"). The theorems are of
Papernot and Steinke 2022 (arXiv 2110.03620): theorem 2 for the truncated negative binomial, theorem 6 for the
Poisson distribution. tests/peers/test_selection.py compares them with dp-accounting, and with the exact
divergences of a mechanism with few outputs.

What one client pays composes two parts. The *choice* repeats a mechanism that trains one random candidate m
times: its RDP is at most m times the largest of the candidates' curves, at every order, because which
candidate is drawn is public and independent of the records. The *final training* is that of the winner, which
depends on the records: its RDP is again bounded by the largest curve. So ε is the same whoever wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedtoll.privacy import accounting, calibration_cache
from fedtoll.privacy.accounting import Event
from fedtoll.scenarios.choice import Distribution, Poisson, TruncatedNegativeBinomial
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.run import ClientPlan, Run

_VERSION = 1  # part of the key of cached base budgets; raise it when this arithmetic changes


def selection_rdp(
    rdp: NDArray[np.float64], orders: Sequence[float], distribution: Distribution
) -> NDArray[np.float64]:
    """Return the RDP of the best of a random number of runs, from that of one run.

    Parameters
    ----------
    rdp
        ε(λ): the RDP of one run at each order, infinite where it has no bound. Shape (orders,).
    orders
        λ > 1, in ascending order.
    distribution
        Of the number of runs.

    Returns
    -------
    numpy.ndarray
        ε′(λ) at each order, shape (orders,); where a higher order has a smaller bound, that one, since the
        Rényi divergence increases with the order.

    Notes
    -----
    Papernot and Steinke 2022. Truncated negative binomial (theorem 2), minimised over λ̂:

        ε′(λ) = ε(λ) + (1 + η) [(1 − 1/λ̂) ε(λ̂) + log(1/γ)/λ̂] + log E[K] / (λ − 1)

    Poisson (theorem 6), where one run is (ε̂, δ̂)-differentially private with ε̂ = log(1 + 1/(λ − 1)):

        ε′(λ) = ε(λ) + μ δ̂ + log μ / (λ − 1)

    δ̂ follows from the RDP by Canonne, Kamath and Steinke 2020, proposition 12, or is the total variation,
    which is at most √(1 − e^−KL) (Bretagnolle and Huber 1979), whichever is smaller.
    """
    order = np.asarray(orders, dtype=np.float64)
    if isinstance(distribution, TruncatedNegativeBinomial):
        each = (1 - 1 / order) * rdp - math.log(distribution.gamma) / order
        repeats: NDArray[np.float64] | float = (1 + distribution.eta) * float(np.min(each))
    else:
        repeats = distribution.mean * _delta(rdp, order, np.log1p(1 / (order - 1)))
    bound = rdp + repeats + math.log(distribution.expected) / (order - 1)
    return np.minimum.accumulate(bound[::-1])[::-1]


def _delta(
    rdp: NDArray[np.float64], order: NDArray[np.float64], epsilon: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a bound of δ at each ε, from the RDP at each order."""
    slope, offset = order - 1, (order - 1) * (rdp + np.log1p(-1 / order)) - np.log(order)
    log_delta = np.min(offset - np.multiply.outer(epsilon, slope), axis=1)
    variation = math.sqrt(-math.expm1(-float(np.min(rdp))))
    return np.minimum(np.exp(np.minimum(log_delta, 0.0)), variation)


@dataclass(frozen=True)
class Charge:
    """A choice of constants as one client pays for it.

    Parameters
    ----------
    distribution
        Of the number of candidates.
    trainings
        m, the number of trainings of each candidate.
    schedules
        DP-SGD of the grid's distinct candidates, each over all rounds of one training; the client's own, with
        the chosen constants, first.
    statistics
        The statistics of one training over all rounds, the same for every candidate.
    """

    distribution: Distribution
    trainings: int
    schedules: tuple[Event, ...]
    statistics: tuple[Event, ...] = ()


def charge_of(run: Run, client: ClientPlan, sigma: float | None = None) -> Charge | None:
    """Return what a client pays for its run's choice; ``None`` if nothing was chosen.

    ``sigma`` replaces the noise multiplier of every candidate.
    """
    if run.choice is None:
        return None
    others = run.choice.others[client.id] if run.choice.others else ()
    return Charge(
        run.choice.distribution,
        run.choice.trainings,
        tuple(
            Event(sigma or s.noise_multiplier, s.sampling_rate, s.steps * run.rounds)
            for s in (client, *others)
        ),
        tuple(Event(s.noise_multiplier, 1.0, s.releases(run.rounds)) for s in run.statistics),
    )


@lru_cache(maxsize=4096)
def choice_curve(charge: Charge) -> NDArray[np.float64]:
    """Return the RDP of the choice, at each of ``accounting.ORDERS``."""
    one = largest(charge.schedules) + accounting.rdp_curve(charge.statistics)
    return selection_rdp(charge.trainings * one, accounting.ORDERS, charge.distribution)


def largest(schedules: Sequence[Event]) -> NDArray[np.float64]:
    """Return the largest RDP of the candidates' trainings, at each of ``accounting.ORDERS``."""
    return np.max([accounting.rdp_curve([schedule]) for schedule in schedules], axis=0)


@lru_cache(maxsize=65536)
def epsilon(
    charge: Charge, delta: float, *, steps: int, statistics: tuple[Event, ...] = (), choices: int = 1
) -> float:
    """Return the ε of a choice, and of what its winner has released so far.

    Parameters
    ----------
    charge
        The choice.
    delta
        The δ of (ε, δ)-differential privacy.
    steps
        The number of DP-SGD steps of the winner so far. Any other candidate would have trained for as many
        rounds, and the largest RDP counts.
    statistics
        The statistics released so far.
    choices
        How often the choice was made: 0 for the ε without it.
    """
    curve = steps / charge.schedules[0].count * largest(charge.schedules)
    curve = curve + accounting.rdp_curve(statistics)
    return accounting.converted(curve + (choices * choice_curve(charge) if choices else 0.0), delta)


def base_budget(
    target: float,
    *,
    schedules: Sequence[tuple[float, int]],
    delta: float,
    trainings: int,
    distribution: Distribution,
    statistics: Sequence[Event] = (),
) -> float:
    """Return the largest ε of one training with which a choice and the final training cost ``target``.

    Every candidate is then calibrated to the returned ε, see :func:`fedtoll.privacy.accounting.calibrate`.

    Parameters
    ----------
    target
        The total ε of one client: the choice, and the winner's training with its statistics.
    schedules
        q and the number of DP-SGD steps over all rounds, of each candidate.
    delta
        The δ of (ε, δ)-differential privacy. The accountant is ``rdp``.
    trainings, distribution
        m and the distribution of the number of candidates.
    statistics
        The client's statistics in one training over all rounds.

    Returns
    -------
    float
        Rounded down to five significant digits.

    Raises
    ------
    ScenarioError
        If no noise makes the total as small as ``target``.

    Examples
    --------
    >>> tries = TruncatedNegativeBinomial.with_expected(8.0)
    >>> settings = {"schedules": [(0.02, 300)], "delta": 1e-5, "trainings": 1, "distribution": tries}
    >>> round(base_budget(1.0, **settings), 2)
    0.36
    """
    kinds, others = tuple(sorted(set(schedules))), tuple(statistics)
    return _base_budget(target, kinds, delta, trainings, distribution, others)


@lru_cache(maxsize=4096)
def _base_budget(
    target: float,
    schedules: tuple[tuple[float, int], ...],
    delta: float,
    trainings: int,
    distribution: Distribution,
    statistics: tuple[Event, ...],
) -> float:
    from scipy.optimize import brentq

    key = [
        *("choice", _VERSION, accounting.ORDERS, target, schedules, delta, trainings),
        *(distribution.model_dump_json(), [[e.noise_multiplier, e.sampling_rate, e.count] for e in statistics]),
    ]

    def spent(base: float) -> float:
        """Return the total if each training costs ``base``; infinity if no noise makes it as small."""
        try:
            noised = [
                Event(calibrated(base, rate, count, delta, statistics), rate, count)
                for rate, count in schedules
            ]
        except ScenarioError:
            return math.inf
        charge = Charge(distribution, trainings, tuple(noised), statistics)
        return epsilon(charge, delta, steps=noised[0].count, statistics=statistics)

    cached = calibration_cache.recall(key)
    if cached is not None and 0 < cached <= target and spent(cached) <= target:
        return cached
    if spent(target) <= target:  # less noise is not considered
        return target
    low = target / 2
    while (total := spent(low)) > target:
        if total == math.inf:
            raise ScenarioError(_unpaid(target, delta, trainings, distribution, statistics))
        low /= 1.5
    high = min(target, 2 * low)
    base = math.exp(
        brentq(
            lambda x: math.log(min(spent(math.exp(x)), 1e300) / target),
            *(math.log(low), math.log(high)),
            xtol=1e-5,
        )
    )
    base = _round_down(base)
    while spent(base) > target:
        base = _round_down(base * (1 - 2e-5))
    calibration_cache.remember(key, base)
    return base


def calibrated(base: float, rate: float, count: int, delta: float, statistics: Sequence[Event]) -> float:
    """Return the σ at which one training, with its statistics, costs ``base``."""
    return accounting.calibrate(base, sampling_rate=rate, count=count, delta=delta, others=statistics)


def _unpaid(
    target: float, delta: float, trainings: int, distribution: Distribution, statistics: tuple[Event, ...]
) -> str:
    """Return the error of a budget that is too small for the choice."""
    curve = accounting.rdp_curve(statistics)
    alone = selection_rdp(trainings * curve, accounting.ORDERS, distribution)
    least = accounting.converted(alone + curve, delta)
    with_statistics = " with its statistics" if statistics else ""
    return (
        f"privacy.epsilons: ε = {target:g} cannot pay for the choice of constants at δ = {delta:g}: "
        f"without any training the choice{with_statistics} spends {least:.3g}"
    )


def _round_down(value: float) -> float:
    """Round down to five significant digits."""
    digits = 4 - math.floor(math.log10(value))
    return float(round(math.floor(value * 10**digits * (1 + 1e-12)) / 10**digits, digits))


__all__ = [
    "Charge",
    "Distribution",
    "Poisson",
    "TruncatedNegativeBinomial",
    "base_budget",
    "charge_of",
    "choice_curve",
    "epsilon",
    "selection_rdp",
]
