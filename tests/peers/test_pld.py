"""Our ε against the exact one over a wide grid: never below it, and never slow.

The oracle is dp-accounting's PLD accountant, which covers both directions. Its optimistic estimate rounds
every loss down to a grid of 1e-4, so it is a lower bound of the exact ε, and ours must not be below it. It
loses up to 1e-4 per release. For many releases ours is compared with the pessimistic estimate, an upper
bound, with a tolerance of .01. Without sampling, the exact ε has a formula, which replaces both.
"""

from __future__ import annotations

import itertools
import math
import time
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld import privacy_loss_distribution as pld
from dp_accounting.pld.privacy_loss_mechanism import GaussianPrivacyLoss

from fedtoll.privacy import accounting
from fedtoll.privacy.accounting import Event, epsilon
from fedtoll.privacy.gaussian import gaussian_epsilon

RATES = (1e-4, 1e-3, 0.01, 0.02, 0.1, 0.3, 1.0)
NOISES = (0.5, 0.7, 1.0, 1.5, 3.0, 10.0)
COUNTS = (1, 10, 100, 1000, 10_000)
DELTAS = (1e-5, 1e-3, 1e-7)
SLOWEST = 5.0
MANY = 100


def homogeneous() -> list[tuple[list[Event], float]]:
    grid = itertools.product(RATES, NOISES, COUNTS)
    return [([Event(s, q, t)], DELTAS[i % 3] if i % 5 == 0 else 1e-5) for i, (q, s, t) in enumerate(grid)]


def mixed() -> list[tuple[list[Event], float]]:
    """Ledgers of several (q, σ, T) and of statistics over all records."""
    rng = np.random.default_rng(7)
    made: list[tuple[list[Event], float]] = []
    for i in range(12):
        events = [
            Event(
                float(rng.choice([0.7, 1.0, 1.5, 3.0])),
                float(rng.choice([1e-3, 0.01, 0.05, 0.2])),
                int(10 ** rng.uniform(0, 3)),
            )
            for _ in range(rng.integers(1, 4))
        ]
        events += [
            Event(float(rng.choice([5.0, 20.0, 100.0])), 1.0, int(rng.integers(1, 60))) for _ in range(i % 3)
        ]
        made.append((events, DELTAS[i % 3]))
    return made


def at_least(events: list[Event], delta: float) -> float:
    """Return a lower bound of the exact ε."""
    parts = []
    for e in events:
        if e.sampling_rate == 1:
            parts.append(optimistic(e.noise_multiplier / math.sqrt(e.count)))
        else:
            parts.append(optimistic(e.noise_multiplier, e.sampling_rate).self_compose(e.count))
    whole = parts[0]
    for other in parts[1:]:
        whole = whole.compose(other)
    return float(whole.get_epsilon_for_delta(delta))


@lru_cache(maxsize=8)  # the counts of one (q, σ) follow each other
def optimistic(sigma: float, rate: float = 1.0) -> Any:
    """Return the PLD of one release, rounded down."""
    return pld.from_gaussian_mechanism(
        sigma, sampling_prob=rate, pessimistic_estimate=False, use_connect_dots=False
    )


def at_most(events: list[Event], delta: float, interval: float) -> float:
    """Return an upper bound of the exact ε, tight up to its grid."""
    account = PLDAccountant(
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=interval
    )
    for e in events:
        release = GaussianDpEvent(e.noise_multiplier)
        sampled = release if e.sampling_rate == 1 else PoissonSampledDpEvent(e.sampling_rate, release)
        account.compose(SelfComposedDpEvent(sampled, e.count))
    return float(account.get_epsilon(delta))


@pytest.fixture(autouse=True)
def _cold():
    """Let no earlier test have computed a curve. In a test, the counts of one (q, σ) share its curve."""
    accounting._curve.cache_clear()


def timed(events: list[Event], delta: float) -> tuple[float, float]:
    """Return ε by RDP and by PRV, which starts from RDP's. Both together must not be slow."""
    accounting._compose.cache_clear()
    start = time.process_time()
    rdp, prv = epsilon(events, delta, "rdp"), epsilon(events, delta, "prv")
    assert time.process_time() - start < SLOWEST, f"{events}"
    return rdp, prv


def exactly(events: list[Event], delta: float) -> float:
    """Return the exact ε of releases without sampling; dp-accounting's δ at this ε must be the given one."""
    mu = math.sqrt(sum(e.count / e.noise_multiplier**2 for e in events))
    exact = gaussian_epsilon(mu, delta)
    theirs = GaussianPrivacyLoss(1 / mu).get_delta_for_epsilon(exact)
    assert theirs == pytest.approx(delta, rel=1e-6) if exact > 0 else theirs <= delta
    return exact


def check(cases: list[tuple[list[Event], float]]) -> int:
    """Compare both accountants with the oracle; return how many cases could be compared."""
    compared = 0
    for events, delta in cases:
        rdp, prv = timed(events, delta)
        assert 0 <= prv <= rdp
        if all(e.sampling_rate == 1 for e in events):
            exact = exactly(events, delta)
            assert prv >= exact * (1 - 1e-9), f"{events}, δ = {delta}: {prv} < {exact}"
            compared += 1
        elif rdp <= 100:
            if sum(e.count for e in events) <= MANY:
                least = at_least(events, delta)
                assert prv >= least * (1 - 1e-6), f"{events}, δ = {delta}: {prv} < {least}"
            else:
                most = at_most(events, delta, 1e-3)  # higher than on a finer grid, and quick
                if prv < most - 0.01:
                    most = at_most(events, delta, 1e-4)
                assert prv >= most - 0.01, f"{events}, δ = {delta}: {prv} < {most}"
            compared += 1
    return compared


@pytest.mark.parametrize("part", range(4))
@pytest.mark.slow
def test_never_below_the_truth_over_a_grid_of_one_mechanism(part):
    cases = [case for i, case in enumerate(homogeneous()) if i // len(COUNTS) % 4 == part]
    assert check(cases) > 40


@pytest.mark.slow
def test_never_below_the_truth_for_ledgers_of_several_mechanisms():
    assert check(mixed()) >= 10


def test_there_are_more_than_two_hundred_cases():
    assert len(homogeneous()) + len(mixed()) > 200


@pytest.mark.parametrize(
    ("events", "delta"),
    [
        ([Event(0.5, 1.0, 2000)], 1e-5),  # took 183 s by PRV
        ([Event(1.0, 0.01, 100_000)], 1e-5),
        ([Event(30.0, 0.5, 100_000)], 1e-9),
        ([Event(1000.0, 1.0, 1_000_000)], 1e-5),
        ([Event(0.21, 1e-4, 1)], 1e-5),
        ([Event(1.0, 0.02, 1000), *(Event(50.0 + i, 1.0, 30) for i in range(20))], 1e-5),
    ],
    ids=str,
)
@pytest.mark.slow
def test_no_call_is_slow(events, delta):
    rdp, prv = timed(events, delta)
    assert 0 < prv <= rdp < math.inf
    if all(e.sampling_rate == 1 for e in events):
        assert prv >= exactly(events, delta) * (1 - 1e-9)
