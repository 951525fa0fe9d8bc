"""FedYogi, Yogi on the server (Reddi et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.server_optimizer import Adaptive


@dataclass(frozen=True)
class FedYogi(Adaptive):
    """FedAvg with Yogi as the server's optimizer: step sizes recover more slowly than Adam's.

    m = β₁ m + (1 − β₁) D, v −= (1 − β₂) D² sign(v − D²), w += η m / (√v + τ), starting from m = 0 and v = τ²,
    where D = Σ_k p_k Δ_k and p_k = n_k / n. v moves towards D² by at most (1 − β₂) D² per round, whereas
    Adam's v moves by a fraction of the distance: after a large D, Yogi's v decreases slowly. No update has a
    single coefficient, so the results record the coefficients as undefined (NaN).

    Flower's ``FedYogi`` differs: its v starts at 0.

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
    optimization*, ICLR 2021, algorithm 2.

    Examples
    --------
    >>> from fedtoll.strategies.base import Report
    >>> reports = [
    ...     Report(k, n, "g", update=(np.array([d]),))
    ...     for k, (n, d) in enumerate([(60, 3.0), (30, 0.0), (10, 2.0)])
    ... ]
    >>> strategy = FedYogi(server_learning_rate=0.3, beta1=0.5, beta2=0.25, tau=1.0)
    >>> weights, state = strategy.weigh(reports, {})
    >>> params, state, coefficients = strategy.combine((np.array([0.0]),), reports, weights, state)
    >>> params, state, coefficients
    ((array([0.1]),), {'m0': array([1.]), 'v0': array([4.])}, array([nan, nan, nan]))
    """

    server_learning_rate: float = 0.01

    def second(self, mean: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return v − (1 − β₂) D² sign(v − D²), which is never below β₂ v."""
        return v - (1 - self.beta2) * mean**2 * np.sign(v - mean**2)
