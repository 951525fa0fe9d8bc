"""FedAdam, Adam at the server (Reddi et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.server_optimizer import Adaptive


@dataclass(frozen=True)
class FedAdam(Adaptive):
    """FedAvg whose server steps with Adam: each coordinate has its own step size.

    m = β₁ m + (1 − β₁) D, v = β₂ v + (1 − β₂) D², w += η m / (√v + τ), from m = 0 and v = τ². Here D =
    Σ_k p_k Δ_k with p_k = n_k / n. No update has one coefficient: the record shows them as undefined (NaN).

    Flower's ``FedAdam`` differs: its v starts at 0 and its η is bias-corrected with one round too many.

    Parameters
    ----------
    server_learning_rate
        η, the step of a coordinate whose m is √v + τ.
    beta1, beta2
        β₁ and β₂, how much is kept of m and v from round to round.
    tau
        τ, how small √v + τ may become: larger values adapt less.

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
