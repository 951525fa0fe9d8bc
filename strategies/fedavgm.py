"""FedAvgM, federated averaging with server momentum (Hsu et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.strategies.base import Arrays, Report, State, Weights
from fedtoll.strategies.fedavg import FedAvg
from fedtoll.strategies.server_optimizer import check, mean_update


@dataclass(frozen=True)
class FedAvgM(FedAvg):
    """FedAvg with momentum on the server.

    m = β m + D and w += η m, with D = Σ_k p_k Δ_k and p_k = n_k / n, starting from m = 0.

    For a constant D, the model's step per round approaches η / (1 − β) · D: with the defaults ten times
    FedAvg's step; η = 1 − β matches FedAvg's. The recorded coefficient of an update is η p_k, its effect in
    its own round; it contributes again in every later round, weaker by a factor β each time.

    ``nesterov`` looks one step ahead: w += η (D + β m) with the new m, as PyTorch and TensorFlow define it.
    Flower's baseline of the paper and others say that the paper's experiments used it; the paper's text was
    not checked. The coefficient of an update in its own round is then η (1 + β) p_k.

    Flower's ``FedAvgM`` is the same without ``nesterov``. It calls η ``server_learning_rate`` and β
    ``server_momentum``, which is 0 by default. (The paper has η = 1; η is the server learning rate of Reddi
    et al. 2021.)

    Parameters
    ----------
    server_learning_rate
        η, the step size along m.
    momentum
        β, the decay rate of m; β = 0 and η = 1 give FedAvg.
    nesterov
        Whether to use Nesterov's momentum.

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
    nesterov: bool = False

    _later = ("nesterov",)

    def __post_init__(self) -> None:
        check(self.server_learning_rate, momentum=self.momentum)

    def combine(
        self, params: Arrays, reports: Sequence[Report], weights: Weights, state: State
    ) -> tuple[Arrays, State, Weights]:
        """Move every tensor by η m, or η (D + β m); the coefficients are η p_k, or η (1 + β) p_k."""
        moved, memory, own = [], dict(state), self.server_learning_rate
        if self.nesterov:
            own *= 1 + self.momentum
        for i, (old, mean) in enumerate(zip(params, mean_update(reports, weights), strict=True)):
            m = np.asarray(self.momentum * state.get(f"m{i}", np.zeros(old.shape)) + mean)
            ahead = mean + self.momentum * m if self.nesterov else m
            moved.append(np.asarray(old + self.server_learning_rate * ahead, dtype=old.dtype))
            memory[f"m{i}"] = m
        return tuple(moved), memory, own * weights
