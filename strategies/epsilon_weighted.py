"""Weights proportional to the ε spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.strategies.base import Report, State, Strategy, Weights


@dataclass(frozen=True)
class EpsilonWeighted(Strategy):
    """Weights clients in proportion to the ε that they have spent.

    p_k ∝ ε_k, where ε_k is what client k has spent so far.

    This rule is meant for personal budgets (``privacy.epsilon_factor``), where a client with a large ε sends
    a less noisy update. But the noise also depends on the client's size, which ε ignores. If all ε are equal,
    the weights are uniform, the noisiest choice: with 13 clients of one race each on Adult (8 White, 2 Black,
    1 of each other race; v_k ∝ 1 / n_k²), Σ_k p_k² v_k is 12.7 times FedAvg's, and the two smallest clients
    contribute 91% of it (computed in the tests).

    Clients without noise (ε_k = ∞) share the whole weight equally.

    References
    ----------
    The baseline "WeiAvg" in Malekmohammadi, Yu and Cao, *Noise-aware algorithm for heterogeneous
    differentially private federated learning*, ICML 2024, arXiv 2406.03519: weights proportional to the
    clients' budgets. Here they are what was spent so far, which ends at the budgets.

    Examples
    --------
    >>> reports = [Report(k, 100, "g", update=(), epsilon=e) for k, e in enumerate([1.0, 1.0, 8.0])]
    >>> EpsilonWeighted().weigh(reports, {})[0]
    array([0.1, 0.1, 0.8])
    """

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return ε_k, normalised; if the largest ε is ∞ or 0, equal weights for the clients that have it."""
        epsilon = np.array([r.epsilon for r in reports], dtype=np.float64)
        largest = epsilon.max()
        if np.isinf(largest) or largest == 0:
            weights = np.asarray(epsilon == largest, dtype=np.float64)
        else:
            weights = epsilon / largest
        return weights / weights.sum(), state
