"""What a choice of constants costs: the best of a random number of private trainings.

Each candidate is drawn uniformly from a public grid and trained on private records; the one with the least
loss on public records wins, and only its constants are used. The best of *K* trainings costs about K times
one training if K is fixed, but hardly more than a few if K is random ("random stopping"). The theorems are of
Papernot and Steinke 2022 (arXiv 2110.03620): theorem 2 for the truncated negative binomial, theorem 6 for the
Poisson distribution. tests/peers/test_selection.py compares them with dp-accounting, and with the exact
divergences of a mechanism with few outputs.

The theorems cover the release of the winner alone: whoever sees the messages of the candidates' trainings
learns more, namely what all of them release. They hold for independent candidates, see
:func:`fedtoll.scenarios.choice.seeds_of`.

What one client pays composes two parts. The *choice* repeats a mechanism that trains one random candidate m
times: its RDP is at most m times the largest of the candidates' curves, at every order, because which
candidate is drawn is public and independent of the records. The *final training* is that of the winner, which
depends on the records: its RDP is again bounded by the largest curve. So ε is the same whoever wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    order: NDArray[np.float64] = np.asarray(orders, dtype=np.float64)
    if isinstance(distribution, TruncatedNegativeBinomial):
        each = (1 - 1 / order) * rdp - math.log(distribution.gamma) / order
        repeats: NDArray[np.float64] | float = (1 + distribution.eta) * float(np.min(each))
    else:
        repeats = distribution.mean * _delta(rdp, order, np.log1p(1 / (order - 1)))
    bound = rdp + repeats + math.log(distribution.expected) / (order - 1)
    return np.asarray(np.minimum.accumulate(bound[::-1])[::-1])


def _delta(
    rdp: NDArray[np.float64], order: NDArray[np.float64], epsilon: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a bound of δ at each ε, from the RDP at each order."""
    slope, offset = order - 1, (order - 1) * (rdp + np.log1p(-1 / order)) - np.log(order)
    log_delta = np.min(offset - np.multiply.outer(epsilon, slope), axis=1)
    variation = math.sqrt(-math.expm1(-float(np.min(rdp))))
    return np.asarray(np.minimum(np.exp(np.minimum(log_delta, 0.0)), variation))


@dataclass(frozen=True)
class Training:
    """What one client releases in one training over all rounds: DP-SGD and statistics."""

    steps: Event
    statistics: tuple[Event, ...] = ()

    @property
    def events(self) -> tuple[Event, ...]:
        """All releases."""
        return (self.steps, *self.statistics)


@dataclass(frozen=True)
class Charge:
    """A choice of constants as one client pays for it.

    Parameters
    ----------
    distribution
        Of the number of candidates.
    trainings
        m, the number of trainings of each candidate.
    candidates
        The distinct candidates of the grid; that with the chosen constants first.
    """

    distribution: Distribution
    trainings: int
    candidates: tuple[Training, ...]


def charge_of(run: Run, client: ClientPlan, sigma: float | None = None) -> Charge | None:
    """Return what a client pays for its run's choice; ``None`` if nothing was chosen.

    ``sigma`` replaces the noise multiplier of every candidate.
    """
    if run.choice is None:
        return None
    rounds = max(1, run.rounds_of(client))
    own = Training(
        Event(sigma or client.noise_multiplier, client.sampling_rate, client.steps * rounds),
        tuple(Event(s.noise_multiplier, 1.0, s.releases(rounds)) for s in run.statistics),
    )
    others = (
        Training(
            Event(sigma or t.noise_multiplier, t.sampling_rate, t.steps),
            (Event(t.statistic_noise_multiplier, 1.0, t.statistic_releases),) if t.statistic_releases else (),
        )
        for t in run.choice.others_of(client.id)
    )
    return Charge(run.choice.distribution, run.choice.trainings, (own, *others))


@lru_cache(maxsize=4096)
def choice_curve(charge: Charge) -> NDArray[np.float64]:
    """Return the RDP of the choice, at each of ``accounting.ORDERS``."""
    one = largest([candidate.events for candidate in charge.candidates])
    return selection_rdp(charge.trainings * one, accounting.ORDERS, charge.distribution)


def largest(candidates: Sequence[Sequence[Event]]) -> NDArray[np.float64]:
    """Return the largest RDP of some compositions, at each of ``accounting.ORDERS``."""
    return np.asarray(np.max([accounting.rdp_curve(events) for events in candidates], axis=0))


@lru_cache(maxsize=65536)
def epsilon(
    charge: Charge,
    delta: float,
    steps: int | None = None,
    statistics: tuple[Event, ...] | None = None,
    choices: int = 1,
) -> float:
    """Return the ε of a choice, and of what its winner has released so far.

    Parameters
    ----------
    charge
        The choice.
    delta
        The δ of (ε, δ)-differential privacy.
    steps
        The number of DP-SGD steps of the winner so far, by default all. Any other candidate counts as trained
        to the same share of its steps, and the largest RDP counts.
    statistics
        The statistics of the winner so far, by default all. If it should have some but has none, other
        candidates count without theirs, too.
    choices
        How often the choice was made: 0 for the ε without it.
    """
    own, *others = charge.candidates
    steps = own.steps.count if steps is None else steps
    statistics = own.statistics if statistics is None else statistics
    done = accounting.rdp_curve([replace(own.steps, count=steps), *statistics])
    if others and steps:
        silent = own.statistics and not statistics
        events = [(other.steps,) if silent else other.events for other in others]
        done = np.maximum(done, steps / own.steps.count * largest(events))
    return accounting.converted(done + (choices * choice_curve(charge) if choices else 0.0), delta)


Schedule = tuple[float, int, tuple[Event, ...]]
"""q and the number of DP-SGD steps of a candidate, and its statistics, in one training over all rounds."""


def base_budget(
    target: float, schedules: Sequence[Schedule], *, delta: float, trainings: int, distribution: Distribution
) -> float:
    """Return the largest ε of one training with which a choice and the final training cost ``target``.

    Every candidate is then calibrated to the returned ε, see :func:`calibrated`.

    Parameters
    ----------
    target
        The total ε of one client: the choice, and the winner's training with its statistics.
    schedules
        What each candidate of the grid releases.
    delta
        The δ of (ε, δ)-differential privacy. The accountant is ``rdp``.
    trainings, distribution
        m and the distribution of the number of candidates.

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
    >>> base = base_budget(1.0, [(0.02, 300, ())], delta=1e-5, trainings=1, distribution=tries)
    >>> sigma = calibrated(base, (0.02, 300, ()), 1e-5)
    >>> round(base, 2), round(sigma, 2)
    (0.37, 3.65)
    """
    kinds = {(rate, count, tuple(statistics)) for rate, count, statistics in schedules}
    ordered = sorted(kinds, key=lambda s: (*s[:2], [(e.noise_multiplier, e.count) for e in s[2]]))
    return _base_budget(target, tuple(ordered), delta, trainings, distribution)


@lru_cache(maxsize=4096)
def _base_budget(
    target: float, schedules: tuple[Schedule, ...], delta: float, trainings: int, distribution: Distribution
) -> float:
    from scipy.optimize import brentq

    stated = [
        [rate, count, *([e.noise_multiplier, e.sampling_rate, e.count] for e in statistics)]
        for rate, count, statistics in schedules
    ]
    limits = [_VERSION, accounting.ORDERS, target, delta]
    key = ["choice", *limits, trainings, distribution.model_dump(mode="json"), stated]

    def spent(base: float) -> float:
        """Return the total if each training costs ``base``; infinity if no noise makes it as small."""
        try:
            noised = [Training(Event(calibrated(base, s, delta), *s[:2]), s[2]) for s in schedules]
        except ScenarioError:
            return math.inf
        return epsilon(Charge(distribution, trainings, tuple(noised)), delta)

    cached = calibration_cache.recall(key)
    if cached is not None and 0 < cached <= target and spent(cached) <= target:
        return cached
    if spent(target) <= target:  # less noise is not considered
        return target
    low = target / 2
    while (total := spent(low)) > target:
        if total == math.inf:
            raise ScenarioError(_unpaid(target, schedules, delta, trainings, distribution))
        low /= 1.5
    ends = math.log(low), math.log(min(target, 2 * low))
    crossing = brentq(lambda x: math.log(min(spent(math.exp(x)), 1e300) / target), *ends, xtol=1e-5)
    base = _round_down(math.exp(crossing))
    while spent(base) > target:
        base = _round_down(base * (1 - 2e-5))
    calibration_cache.remember(key, base)
    return base


def calibrated(base: float, schedule: Schedule, delta: float) -> float:
    """Return the σ at which one training, with its statistics, costs ``base``."""
    rate, count, statistics = schedule
    return accounting.calibrate(
        base, sampling_rate=rate, count=count, delta=delta, accountant="rdp", others=statistics
    )


def _unpaid(
    target: float, schedules: tuple[Schedule, ...], delta: float, trainings: int, distribution: Distribution
) -> str:
    """Return the error of a budget that is too small for the choice."""
    silent = tuple(Training(Event(1.0, count=0), statistics) for _, _, statistics in schedules)
    least = epsilon(Charge(distribution, trainings, silent), delta)
    with_statistics = " with its statistics" if any(training.statistics for training in silent) else ""
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
    "Training",
    "TruncatedNegativeBinomial",
    "base_budget",
    "calibrated",
    "charge_of",
    "epsilon",
    "selection_rdp",
]
