"""Inverse-variance weights, which minimise the privacy noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.strategies.base import Report, State, Strategy, Weights, sizes


@dataclass(frozen=True)
class InverseVariance(Strategy):
    """Minimises the privacy noise in the model: less weight to clients with noisy updates.

    p_k ∝ 1 / v_k, where v_k is the noise variance of an update.

    These weights minimise Σ_k p_k² v_k on the simplex, with the minimum 1 / Σ_k (1 / v_k) (Cauchy–Schwarz).
    They are **unfair**: v_k = T (η σ_k C / B_k)², so they favour clients with weak privacy (small σ_k) and
    large clients. With equal sampling rates and σ, v_k ∝ 1 / n_k² and p_k ∝ n_k²: small groups have even less
    weight than in FedAvg. The strategy marks one end of the trade-off between noise and fairness;
    ``noise-fair`` lies between the two ends.

    Clients without noise share the whole weight by size, so at ε = ∞ the strategy is FedAvg.

    References
    ----------
    The textbook estimator of a common mean from independent measurements: Hedges and Olkin, *Statistical
    methods for meta-analysis*, Academic Press 1985, chapter 6.

    Examples
    --------
    >>> reports = [Report(k, 100, "g", update=(), noise_variance=v) for k, v in enumerate([1.0, 2.0, 4.0])]
    >>> InverseVariance().weigh(reports, {})[0].round(3)
    array([0.571, 0.286, 0.143])
    """

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return 1 / v_k, normalised; if any v_k is 0, n_k over the clients with v_k = 0, normalised."""
        variance = np.array([r.noise_variance for r in reports], dtype=np.float64)
        exact = variance == 0
        weights = sizes(reports) * exact if exact.any() else variance.min() / variance
        return weights / weights.sum(), state
