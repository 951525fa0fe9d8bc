"""FedAdam, Adam on the server (Reddi et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.server_optimizer import Adaptive


@dataclass(frozen=True)
class FedAdam(Adaptive):
    """FedAvg with Adam as the server's optimizer: each coordinate has its own step size.

    m = β₁ m + (1 − β₁) D, v = β₂ v + (1 − β₂) D², w += η m / (√v + τ), starting from m = 0 and v = τ², where
    D = Σ_k p_k Δ_k and p_k = n_k / n. No update has a single coefficient, so the results record the
    coefficients as undefined (NaN).

    Flower's ``FedAdam`` differs: its v starts at 0, and its bias correction of η counts one round too many.

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
    ...     for k, (n, d) in enumerate([(60, 1.0), (30, 0.0), (10, 4.0)])
    ... ]
    >>> strategy = FedAdam(beta1=0.5, beta2=0.75, tau=1.0)
    >>> weights, state = strategy.weigh(reports, {})
    >>> params, state, coefficients = strategy.combine((np.array([0.0]),), reports, weights, state)
    >>> params, state, coefficients
    ((array([0.025]),), {'m0': array([0.5]), 'v0': array([1.])}, array([nan, nan, nan]))
    """

    def second(self, mean: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return β₂ v + (1 − β₂) D²."""
        return self.beta2 * v + (1 - self.beta2) * mean**2
