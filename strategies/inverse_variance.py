"""Inverse-variance weights: the least noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.strategies.base import Report, State, Strategy, Weights, sizes


@dataclass(frozen=True)
class InverseVariance(Strategy):
    """The least privacy noise that weights can give: clients of noisy updates count less.

    p_k ∝ 1 / v_k, with v_k the noise variance of an update.

    It minimises Σ_k p_k² v_k on the simplex, and the minimum is 1 / Σ_k (1 / v_k) (by Cauchy and
    Schwarz). It is **unfair**: v_k = T (η σ_k C / B_k)², so it favours clients that are lax (small σ_k) or
    large. With one sampling rate and one σ, v_k ∝ 1 / n_k² and p_k ∝ n_k²: small groups count less still
    than in FedAvg. It is here to show that end of the trade; ``noise-fair`` lies between the
    ends.

    Clients without noise share all the weight by size, so at ε = ∞ it is FedAvg.

    References
    ----------
    The textbook estimate of a common mean from independent measurements: Hedges and Olkin, *Statistical
    methods for meta-analysis*, Academic Press 1985, chapter 6.

    Examples
    --------
    >>> reports = [Report(k, 100, "g", update=(), noise_variance=v) for k, v in enumerate([1.0, 2.0, 4.0])]
    >>> InverseVariance().weigh(reports, {})[0].round(3)
    array([0.571, 0.286, 0.143])
    """

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return 1 / v_k, normalised; n_k, normalised, over the clients with v_k = 0 if there are any."""
        variance = np.array([r.noise_variance for r in reports], dtype=np.float64)
        exact = variance == 0
        weights = sizes(reports) * exact if exact.any() else variance.min() / variance
        return weights / weights.sum(), state
