"""What a ledger guarantees at every δ at once: μ of Gaussian DP, and ρ of zero-concentrated DP.

ε at one δ is one point of a curve δ(ε), and two mechanisms with that point in common may differ elsewhere. μ
describes the whole curve: a mechanism is μ-GDP if no test can tell neighbours apart better than N(0, 1) from
N(μ, 1) (Dong, Roth and Su 2022). Releases over all records are exactly that. Sampled releases are not, and
the central limit theorem gives no bound. Here μ is the smallest whose curve lies above that of the privacy
loss distributions, which are upper bounds, at every δ of a stated range (Gomez et al. 2025, arXiv 2503.10945,
propose to report such a μ with its *regret*, which says how far above; their definition of it is unverified).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.privacy import loss_distribution
from fedtoll.privacy.accounting import Event, kinds
from fedtoll.privacy.gaussian import gaussian_deltas

Floats = NDArray[np.float64]

_POINTS = 10_000  # of the curves that are compared
_FARTHEST = 500.0  # largest ε; e^ε must be representable


LEAST_DELTA = 1e-9
"""The least δ at which μ of sampled releases holds."""


@dataclass(frozen=True)
class GaussianDp:
    """A bound of the whole curve δ(ε) by that of one Gaussian release.

    Parameters
    ----------
    mu
        At every ε ≥ 0, δ(ε) is at most the δ of μ-GDP, or at most ``least_delta``.
    least_delta
        The end of the range. 0 without sampling, where the curves are equal.
    regret
        How far the two curves are apart: the largest [δ_μ(ε) − δ(ε)] / (1 + e^ε), which is the smallest κ
        such that every test that μ-GDP allows, with both error rates raised by κ, is one that the true curve
        allows.
    """

    mu: float
    least_delta: float
    regret: float


def gaussian_dp(events: Sequence[Event], least_delta: float = LEAST_DELTA) -> GaussianDp | None:
    """Return the smallest μ that holds at every δ from ``least_delta`` to 1, or ``None`` if ε is huge there.

    Parameters
    ----------
    events
        All releases of one client.
    least_delta
        The least δ of the range, if any release is sampled.

    Notes
    -----
    Both curves decrease. They are compared at 10,000 points ε_j by requiring δ(ε_j) ≤ δ_μ(ε_(j+1)), so that
    the bound holds between the points, too. Without a limit on δ the only μ is √Σ T/σ², as if nothing were
    sampled, because all T samples contain a record with probability q^T.

    Examples
    --------
    >>> gaussian_dp([Event(2.0, 1.0, 16)])
    GaussianDp(mu=2.0, least_delta=0.0, regret=0.0)
    >>> sampled = gaussian_dp([Event(9.4, 0.328, 2000)])
    >>> round(sampled.mu, 2), round(sampled.regret, 3)
    (1.57, 0.001)
    """
    merged = kinds(events)
    if any(noise == 0 for noise, _, _ in merged):
        return GaussianDp(math.inf, 0.0, 0.0)
    if all(rate == 1 for _, rate, _ in merged):
        return GaussianDp(loss_distribution.total_mu(merged), 0.0, 0.0)
    both = loss_distribution.distributions(merged, least_delta)
    last = max((d.epsilon(least_delta) for d in both), default=math.inf)
    if last > _FARTHEST:
        return None
    points_J = np.linspace(0.0, last, _POINTS)
    delta_J = np.max([d.deltas(points_J) for d in both], axis=0)
    after_J = np.append(points_J[1:], last)

    def holds(mu: float) -> bool:
        return bool((delta_J <= np.maximum(gaussian_deltas(after_J, mu), least_delta)).all())

    low, high = 0.0, loss_distribution.total_mu([(noise, 1.0, count) for noise, _, count in merged])
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    apart_J = (gaussian_deltas(points_J, high) - delta_J) / (1 + np.exp(points_J))
    return GaussianDp(high, least_delta, max(0.0, float(apart_J.max())))


def rho(events: Sequence[Event]) -> float:
    """Return the smallest ρ of zero-concentrated DP: Σ T/(2σ²), whatever the sampling rates.

    Without sampling, a release is 1/(2σ²)-zCDP (Bun and Steinke 2016, proposition 1.6), and ρ adds up. With
    sampling ρ is no smaller: the Rényi divergence at order α, divided by α, is at least
    1/(2σ²) + ln q/(α − 1), which tends to 1/(2σ²), and at most that of the release without sampling.

    Examples
    --------
    >>> rho([Event(2.0, 1.0, 16)]), rho([Event(2.0, 0.01, 16)])
    (2.0, 2.0)
    """
    merged = kinds(events)
    if any(noise == 0 for noise, _, _ in merged):
        return math.inf
    return sum(count / (2 * noise**2) for noise, _, count in merged)
