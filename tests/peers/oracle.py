"""dp-accounting as an oracle of ε: bounds from below and from above, in both directions."""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Any

from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld import privacy_loss_distribution as pld

Kinds = tuple[tuple[float, float, int], ...]
"""σ, q and count of each mechanism."""


@cache
def at_least(kinds: Kinds, delta: float, interval: float) -> float:
    """Return a lower bound of the exact ε: every loss is rounded down to a multiple of ``interval``.

    It loses up to ``interval`` per release.
    """
    composed = None
    for noise, rate, count in kinds:
        if rate == 1:
            one = _rounded_down(noise / math.sqrt(count), 1.0, interval)
        else:
            one = _rounded_down(noise, rate, interval).self_compose(count)
        composed = one if composed is None else composed.compose(one)
    return 0.0 if composed is None else float(composed.get_epsilon_for_delta(delta))


@lru_cache(maxsize=8)  # the counts of one (q, σ) follow each other
def _rounded_down(sigma: float, rate: float, interval: float) -> Any:
    return pld.from_gaussian_mechanism(
        sigma,
        sampling_prob=rate,
        pessimistic_estimate=False,
        use_connect_dots=False,
        value_discretization_interval=interval,
    )


@cache
def at_most(kinds: Kinds, delta: float, interval: float) -> float:
    """Return an upper bound of the exact ε, by dp-accounting's accountant; tight up to its grid."""
    account = PLDAccountant(
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=interval
    )
    for noise, rate, count in kinds:
        release = GaussianDpEvent(noise)
        sampled = release if rate == 1 else PoissonSampledDpEvent(rate, release)
        account.compose(SelfComposedDpEvent(sampled, count))
    return float(account.get_epsilon(delta))
