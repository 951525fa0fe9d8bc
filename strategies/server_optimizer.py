"""Shared code of the strategies with a server optimizer (Reddi et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.base import Arrays, Report, State, Weights
from fedtoll.strategies.fedavg import FedAvg


def mean_update(reports: Sequence[Report], weights: Weights) -> tuple[NDArray[np.float64], ...]:
    """Return the weighted mean update D = Σ_k p_k Δ_k of every tensor, in double precision.

    Examples
    --------
    >>> reports = [Report(k, 1, "g", update=(np.array([d]),)) for k, d in enumerate([1.0, 4.0])]
    >>> mean_update(reports, np.array([0.75, 0.25]))
    (array([1.75]),)
    """
    return tuple(
        np.asarray(sum(p * u.astype(np.float64) for p, u in zip(weights, updates, strict=True)))
        for updates in zip(*(r.update for r in reports), strict=True)
    )


@dataclass(frozen=True)
class Adaptive(FedAvg):
    """Base class of adaptive server optimizers: m = β₁ m + (1 − β₁) D, w += η m / (√v + τ).

    D = Σ_k p_k Δ_k with weights from public sizes. (Algorithm 2 of the paper weights clients evenly.) v is a
    running average of D², which each optimizer defines in ``second``. m starts at 0 and v at τ² (the paper
    asks for at least τ²), without Adam's bias correction. The state holds m and v of the model's tensor i as
    arrays in double precision: ``m0``, ``v0``, ``m1``, ... No update has a single coefficient, so the results
    record the coefficients as undefined (NaN).

    Noise in the updates raises the mean of D² by Σ_k p_k² v_k in every coordinate (v_k is
    ``Report.noise_variance``), so noisier rounds take smaller steps (derived here).

    Parameters
    ----------
    server_learning_rate
        η, the step size: how far a coordinate moves if its m equals √v + τ.
    beta1, beta2
        β₁ and β₂, the decay rates of m and v.
    tau
        τ, the lower bound of √v + τ; larger values adapt less.

    References
    ----------
    Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan, *Adaptive federated
    optimization*, ICLR 2021, algorithms 1 and 2.
    """

    server_learning_rate: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        check(self.server_learning_rate, beta1=self.beta1, beta2=self.beta2)
        if not (self.tau > 0 and math.isfinite(self.tau)):
            raise ValueError(f"tau = {self.tau}: must be greater than 0")

    def second(self, mean: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the new v, given D and the old v."""
        raise NotImplementedError(f"{type(self).__name__} must define second(mean, v)")

    def combine(
        self, params: Arrays, reports: Sequence[Report], weights: Weights, state: State
    ) -> tuple[Arrays, State, Weights]:
        """Move every coordinate by η m / (√v + τ); the coefficients are undefined."""
        moved, memory = [], dict(state)
        for i, (old, mean) in enumerate(zip(params, mean_update(reports, weights), strict=True)):
            m = self.beta1 * state.get(f"m{i}", np.zeros(old.shape)) + (1 - self.beta1) * mean
            v = self.second(mean, state.get(f"v{i}", np.full(old.shape, self.tau**2)))
            step = self.server_learning_rate * m / (np.sqrt(v) + self.tau)
            moved.append(np.asarray(old + step, dtype=old.dtype))
            memory |= {f"m{i}": np.asarray(m), f"v{i}": np.asarray(v)}
        return tuple(moved), memory, np.full(len(reports), math.nan)


def check(server_learning_rate: float, **decays: float) -> None:
    """Raise a ValueError unless the learning rate is positive and every decay rate lies in [0, 1).

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
