"""FedAvgM, federated averaging with momentum at the server (Hsu et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.server_optimizer import Moments, ServerOptimizer, check


@dataclass(frozen=True)
class FedAvgM(ServerOptimizer):
    """Momentum: m = β m + D and w += η m, with D = Σ_k p_k Δ_k and p_k = n_k / n.

    A constant D moves the model by η / (1 − β) · D a round in the long run: at the defaults ten times
    FedAvg's step, and η = 1 − β keeps FedAvg's pace. The coefficient of an update is η p_k, that of its
    own round; it enters every later round again, β times weaker each time.

    Flower's ``FedAvgM`` is the same; there η is ``server_learning_rate`` and β ``server_momentum``, 0 by
    default. (The paper has η = 1; η is the server's learning rate of Reddi et al. 2021.)

    Parameters
    ----------
    server_learning_rate
        η, how far to go along m.
    momentum
        β, how much of m is kept; with β = 0 and η = 1 this is FedAvg.

    References
    ----------
    Hsu, Qi and Brown, *Measuring the effects of non-identical data distribution for federated visual
    classification*, arXiv:1909.06335, 2019, section 4.2.

    Examples
    --------
    >>> from fedtoll.strategies.base import Report
    >>> reports = [
    ...     Report(k, n, "g", update=(np.array([d]),))
    ...     for k, (n, d) in enumerate([(60, 1.0), (30, 0.0), (10, 4.0)])
    ... ]
    >>> strategy, params, state = FedAvgM(momentum=0.5), (np.array([0.0]),), {}
    >>> for _ in range(3):
    ...     weights, state = strategy.weigh(reports, state)
    ...     params, state, coefficients = strategy.combine(params, reports, weights, state)
    ...     print(params[0], state["m0"], coefficients)
    [1.] [1.] [0.6 0.3 0.1]
    [2.5] [1.5] [0.6 0.3 0.1]
    [4.25] [1.75] [0.6 0.3 0.1]
    """

    server_learning_rate: float = 1.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check(self.server_learning_rate, momentum=self.momentum)

    @property
    def start(self) -> dict[str, float]:
        """Return m at 0."""
        return {"m": 0.0}

    @property
    def share(self) -> float:
        """Return η."""
        return self.server_learning_rate

    def step(self, mean: NDArray[np.float64], moments: Moments) -> tuple[NDArray[np.float64], Moments]:
        """Return η m with the new m, and this."""
        m = self.momentum * moments["m"] + mean
        return self.server_learning_rate * m, {"m": m}
