"""Noise-fair weights: a compromise between a fair strategy's weights and little privacy noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fedtoll.strategies.base import Report, State, Weights
from fedtoll.strategies.wrapper import Wrapper


@dataclass(frozen=True)
class NoiseFair(Wrapper):
    """Noise-fair (ours): a fair strategy's weights, shifted towards less privacy noise.

    The weights minimise Σ_k p_k² v_k + κ v̄ ‖p − p*‖² on the simplex, where p* are the weights of the fair
    strategy (the target), v_k is the noise variance of an update and v̄ the mean of v. With κ' = κ v̄, the
    Karush–Kuhn–Tucker conditions give

        p_k = max(0, (κ' p*_k + ν) / (κ' + v_k)),  with the one ν at which Σ_k p_k = 1.

    At ν = 0 the sum is Σ_k κ' p*_k / (κ' + v_k) ≤ Σ_k p*_k = 1. So ν ≥ 0, the maximum never binds, and ν has
    a closed form. With s_k = κ / (κ + v_k / v̄),

        p_k = s_k p*_k + (1 − Σ_j s_j p*_j) · s_k / Σ_j s_j

    Client k keeps the fraction s_k of its target weight, and the remaining weight is distributed in
    proportion to s_k. κ → ∞ gives the target and κ → 0 ``inverse-variance``. Without noise, the weights are
    the target's.

    The target requests its statistics, instructs the clients and updates its state as if it ran alone. If it
    combines updates in its own way (momentum, q-FedAvg), it does so with these weights.

    Parameters
    ----------
    kappa
        κ, the cost of deviating from the target, in units of the mean v.
    target
        The name of the fair strategy. It must be one of fedtoll's own, because a run's hash does not cover
        the source code of others.
    target_parameters
        The target's parameters; those not given have their defaults.

    Examples
    --------
    >>> reports = [Report(k, 100, "g", update=(), noise_variance=v) for k, v in enumerate([0.1, 0.1, 2.8])]
    >>> for kappa in (0.01, 1.0, 100.0):
    ...     print(NoiseFair(kappa=kappa).weigh(reports, {})[0].round(3))
    [0.49  0.49  0.019]
    [0.437 0.437 0.126]
    [0.336 0.336 0.327]
    """

    kappa: float = 1.0
    target: str = "uniform"
    target_parameters: dict[str, bool | int | float | str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not (self.kappa > 0 and math.isfinite(self.kappa)):
            raise ValueError(f"kappa = {self.kappa}: must be greater than 0")
        self.check_target()

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return weights between the target's and those of least noise, and the target's new state."""
        fair, state = super().weigh(reports, state)
        variance = np.array([r.noise_variance for r in reports], dtype=np.float64)
        if not variance.any():
            return fair, state
        s = self.kappa / (self.kappa + variance / variance.mean())
        rest = max(0.0, 1.0 - float(s @ fair))
        weights = s * fair + rest * (s / s.sum())
        return weights / weights.sum(), state
