"""FedYogi, Yogi at the server (Reddi et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.server_optimizer import Adaptive


@dataclass(frozen=True)
class FedYogi(Adaptive):
    """As FedAdam, but with Yogi: step sizes recover more slowly after large updates.

    m = β₁ m + (1 − β₁) D, v −= (1 − β₂) D² sign(v − D²), w += η m / (√v + τ), from m = 0 and v = τ². Here D =
    Σ_k p_k Δ_k with p_k = n_k / n. v moves towards D² by at most (1 − β₂) D² a round, where Adam's v moves by
    a share of the distance: after a large D it comes down slowly. No update has one coefficient: the record
    shows them as undefined (NaN).

    Flower's ``FedYogi`` differs: its v starts at 0.

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
