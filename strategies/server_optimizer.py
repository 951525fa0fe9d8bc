"""What the strategies share that step with an optimizer at the server (Reddi et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.base import Arrays, Report, State, Weights
from fedtoll.strategies.fedavg import FedAvg

Moments = dict[str, NDArray[np.float64]]
"""An optimizer's running averages for one tensor of the model, by name."""


@dataclass(frozen=True)
class ServerOptimizer(FedAvg):
    """D = Σ_k p_k Δ_k over public sizes, taken as a descent direction by an optimizer at the server.

    An optimizer states where its moments :attr:`start` and how it makes one :meth:`step`. The memory
    holds each moment of tensor i of the model as an array in double precision: ``m0``, ``v0``, ``m1``, ...

    (Algorithm 2 of the paper weighs clients evenly; public sizes are FedAvg's weights.)

    References
    ----------
    Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan, *Adaptive federated
    optimization*, ICLR 2021, algorithms 1 and 2.
    """

    @property
    def start(self) -> dict[str, float]:
        """The moments' names, and the value of each before the first round."""
        raise NotImplementedError(f"{type(self).__name__} must define start")

    @property
    def share(self) -> float:
        """The coefficient of D in this round's step; not a number where each coordinate has its own."""
        return math.nan

    def step(self, mean: NDArray[np.float64], moments: Moments) -> tuple[NDArray[np.float64], Moments]:
        """Return how far to move one tensor of the model, given D and the moments, and the new moments."""
        raise NotImplementedError(f"{type(self).__name__} must define step(mean, moments)")

    def combine(
        self, params: Arrays, reports: Sequence[Report], weights: Weights, state: State
    ) -> tuple[Arrays, State, Weights]:
        """Move every tensor by the optimizer's step; the coefficients are ``share`` · p_k."""
        moved, memory = [], dict(state)
        for i, old in enumerate(params):
            updates = (r.update[i].astype(np.float64) for r in reports)
            mean = np.asarray(sum(p * u for p, u in zip(weights, updates, strict=True)))
            moments = {
                name: np.asarray(state.get(f"{name}{i}", np.full(old.shape, value)))
                for name, value in self.start.items()
            }
            step, moments = self.step(mean, moments)
            moved.append(np.asarray(old + step, dtype=old.dtype))
            memory |= {f"{name}{i}": np.asarray(value) for name, value in moments.items()}
        return tuple(moved), memory, weights * self.share


@dataclass(frozen=True)
class Adaptive(ServerOptimizer):
    """A step that is scaled by the coordinate's own history: m = β₁ m + (1 − β₁) D, w += η m / (√v + τ).

    v is a running average of D² that each optimizer defines by :meth:`second`. m starts at 0 and v at τ²
    (the paper asks for at least that), without the bias correction of Adam. No update has one
    coefficient, so the record shows every coefficient as undefined (NaN).

    The noise of the updates raises the mean of D² by Σ_k p_k² v_k in every coordinate (v_k is
    ``Report.noise_variance``), so noisier rounds take smaller steps (derived here).

    Parameters
    ----------
    server_learning_rate
        η, the step of a coordinate whose m is √v + τ.
    beta1, beta2
        β₁ and β₂, how much is kept of m and v from round to round.
    tau
        τ, how small √v + τ may become: larger values adapt less.
    """

    server_learning_rate: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        check(self.server_learning_rate, beta1=self.beta1, beta2=self.beta2)
        if not (self.tau > 0 and math.isfinite(self.tau)):
            raise ValueError(f"tau = {self.tau}: must be greater than 0")

    @property
    def start(self) -> dict[str, float]:
        """Return m at 0 and v at τ²."""
        return {"m": 0.0, "v": self.tau**2}

    def second(self, mean: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the new v from D and v."""
        raise NotImplementedError(f"{type(self).__name__} must define second(mean, v)")

    def step(self, mean: NDArray[np.float64], moments: Moments) -> tuple[NDArray[np.float64], Moments]:
        """Return η m / (√v + τ) with the new m and v, and these."""
        m = self.beta1 * moments["m"] + (1 - self.beta1) * mean
        v = self.second(mean, moments["v"])
        return self.server_learning_rate * m / (np.sqrt(v) + self.tau), {"m": m, "v": v}


def check(server_learning_rate: float, **decays: float) -> None:
    """Raise a ValueError unless the learning rate is above 0 and every decay in [0, 1).

    Examples
    --------
    >>> check(0.1, beta1=1.0)
    Traceback (most recent call last):
    ValueError: beta1 = 1.0: must be 0 or greater and less than 1
    """
    if not (server_learning_rate > 0 and math.isfinite(server_learning_rate)):
        raise ValueError(f"server_learning_rate = {server_learning_rate}: must be greater than 0")
    for name, value in decays.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} = {value}: must be 0 or greater and less than 1")
