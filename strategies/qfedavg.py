"""q-FedAvg (Li et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.scenarios.statistics import MeanLoss, Statistic
from fedtoll.strategies.base import Arrays, Report, State, Strategy, Weights, sizes
from fedtoll.strategies.simplex import tilt


@dataclass(frozen=True)
class QFedAvg(Strategy):
    """q-FedAvg: more weight to clients with a high loss, by a power q of their loss.

    q-FedAvg minimises Σ_k p⁰_k F_k^{q+1} / (q + 1), where F_k is the loss at w^t. With g_k = −L Δ_k, L = 1/η
    (η of the clients' SGD) and p⁰_k = n_k / n,

        w ← w − Σ_k p⁰_k F_k^q g_k / h,   h = Σ_k p⁰_k (q F_k^{q−1} ‖g_k‖² + L F_k^q)

    h is the paper's bound on the objective's curvature, so a large q or large updates give short steps. The
    recorded weights are p⁰_k F_k^q, normalised. The coefficients are a_k = p⁰_k F_k^q L / h, whose sum is at
    most 1. (The paper samples clients with probability p⁰_k; with all clients in every round, p⁰_k becomes a
    factor.)

    Under noise of variance v_k in each of the d coordinates of Δ_k, E‖g_k‖² = ‖E g_k‖² + L² d v_k, so noise
    alone would shorten the step. L² d v_k is therefore subtracted, and the result truncated at 0 (derived
    here; unbiased if the truncation does not bind).

    The server receives F̃_k = F_k + N(0, s_k²) and clamps it to at least ``floor``. For q ≥ 1 the mean of the
    clamped F̃_k^q exceeds F_k^q (if ``clip`` does not bind): at q = 1 only because of the floor; at q = 2
    because E[F̃_k²] = F_k² + s_k², part of which the floor removes (an even power turns a very negative F̃_k
    into a high loss). For s_k = 1.4 F_k the mean is 1.2 F_k at q = 1, and 2.7 F_k² at q = 2 (3 F_k² without
    the floor). The bias is largest for small clients, whose s_k is largest, and is not corrected.

    Parameters
    ----------
    q
        The power of the loss; 0 gives FedAvg.
    clip
        Bound on a record's loss in the statistic, in nats; F̃_k is clamped to at most ``clip``.
    floor
        Lower bound of F̃_k, which noise can make negative.

    References
    ----------
    Li, Sanjabi, Beirami and Smith, *Fair resource allocation in federated learning*, ICLR 2020,
    algorithm 2.

    Examples
    --------
    >>> from fedtoll.scenarios.statistics import Estimate
    >>> reports = [
    ...     Report(k, 100, "g", (np.array([d]),), {"mean_loss": Estimate(f, 0.0)})
    ...     for k, (f, d) in enumerate([(0.2, 0.0), (0.4, 0.0), (0.6, 0.6)])
    ... ]
    >>> weights, state = QFedAvg(q=1.0).weigh(reports, {})
    >>> weights.round(3)
    array([0.167, 0.333, 0.5  ])
    >>> QFedAvg(q=1.0).combine((np.array([0.0]),), reports, weights, state)[2].round(3)
    array([0.128, 0.256, 0.385])
    """

    q: float = 1.0
    clip: float = 4.0
    floor: float = 0.01

    def __post_init__(self) -> None:
        if not (self.q >= 0 and math.isfinite(self.q)):
            raise ValueError(f"q = {self.q}: must be 0 or greater")
        MeanLoss(self.clip)
        if not 0 < self.floor <= self.clip:
            raise ValueError(f"floor = {self.floor}: must be greater than 0 and at most clip = {self.clip}")

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The mean loss, clipped at ``clip``."""
        return (MeanLoss(self.clip),)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return p⁰_k F_k^q, normalised."""
        return tilt(sizes(reports), self.q * np.log(self._losses(reports))), state

    def combine(
        self, params: Arrays, reports: Sequence[Report], weights: Weights, state: State
    ) -> tuple[Arrays, State, Weights]:
        """Return w + Σ_k a_k Δ_k and a_k, from the weights: in a_k the sum of p⁰_k F_k^q cancels."""
        L = np.array([1.0 / r.learning_rate for r in reports])
        g2 = L**2 * np.array([_squared_norm(r) for r in reports])
        h = float(np.sum(weights * (self.q * g2 / self._losses(reports) + L)))
        return super().combine(params, reports, weights * L / h, state)

    def _losses(self, reports: Sequence[Report]) -> Weights:
        """Return F̃_k, clamped to [floor, clip]."""
        losses = np.array([r.statistics["mean_loss"].value for r in reports], dtype=np.float64)
        return np.clip(losses, self.floor, self.clip)


def _squared_norm(report: Report) -> float:
    """Return max(0, ‖Δ_k‖² − d v_k)."""
    squared = sum(float(np.sum(np.square(array, dtype=np.float64))) for array in report.update)
    return max(0.0, squared - report.noise_variance * sum(array.size for array in report.update))
