"""FedMGDA+, federated learning as multi-objective optimisation (Hu et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.strategies.base import Arrays, Report, State, Strategy, Weights, sizes
from fedtoll.strategies.server_optimizer import check
from fedtoll.strategies.simplex import minimise


@dataclass(frozen=True)
class FedMGDA(Strategy):
    """FedMGDA+: moves in the direction that is best for the client it serves least.

    With u_k = Δ_k / ‖Δ_k‖, the weights solve

        min_λ ‖Σ_k λ_k u_k‖²   over the simplex, with |λ_k − λ⁰_k| ≤ ``radius``

    and w += η Σ_k λ_k u_k. Without the box (``radius = 1``), the step d has the same scalar product with all
    u_k of positive weight and a larger one with the others: it maximises the least gain, to first order.
    λ⁰_k = n_k / n here, so ``radius = 0`` weights by size; with ``normalise = false`` too, it is FedAvg (at
    η = 1). (Public code has λ⁰ = 1 / K.)

    **Noise makes clients look different.** In d coordinates, the noise of two updates is nearly orthogonal,
    and for orthogonal u_k the solution is λ_k = 1 / K: where noise dominates, this is ``uniform`` within the
    box, the noisiest choice. And a step has length η where all agree, whatever the clients' learning rate: a
    large η oscillates, a small one does not arrive. With ``normalise``, choose η with the same care as a
    learning rate, or let it fall with ``training.server_schedule``. (Public code starts at 1; on
    ``adult-race`` without noise, everybody's log-loss is .336 at .3, .399 at 1 and .848 at 3.)

    It needs no statistics. A client's claim about its loss cannot deceive it, though an update that points
    away from all others gets much weight.

    Parameters
    ----------
    radius
        ε of the paper: how far a weight may be from n_k / n.
    server_learning_rate
        η, the length of a step on which all clients agree.
    normalise
        Whether updates are divided by their length first. (Without it, the method is FedMGDA.)

    References
    ----------
    Hu, Shaloudegi, Zhang and Yu, *Federated learning meets multi-objective optimization*, IEEE Transactions
    on Network Science and Engineering 2022 (arXiv:2006.11489). The problem is that of public code
    (github.com/huawei-noah/Federated-Learning), except for λ⁰.

    Examples
    --------
    >>> reports = [
    ...     Report(k, 50, "g", update=(np.array(u),))
    ...     for k, u in enumerate([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    ... ]
    >>> strategy = FedMGDA(radius=1.0, server_learning_rate=1.0)
    >>> weights, _ = strategy.weigh(reports, {})
    >>> weights.round(3)
    array([0.5, 0.5, 0. ])
    >>> strategy.combine((np.zeros(2),), reports, weights, {})[0][0].round(3)
    array([0.5, 0.5])
    """

    radius: float = 0.1
    server_learning_rate: float = 0.3
    normalise: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.radius <= 1:
            raise ValueError(f"radius = {self.radius}: must be between 0 and 1")
        check(self.server_learning_rate)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return the weights of the shortest combination of the updates."""
        flat = np.stack([np.concatenate([np.ravel(u) for u in r.update]) for r in reports]).astype(np.float64)
        scaled = flat * self._scale(reports)[:, None]
        start = sizes(reports)
        low, high = np.maximum(start - self.radius, 0.0), np.minimum(start + self.radius, 1.0)
        gram = scaled @ scaled.T
        return minimise(gram, np.zeros(len(start)), low, high, start), state

    def combine(
        self, params: Arrays, reports: Sequence[Report], weights: Weights, state: State
    ) -> tuple[Arrays, State, Weights]:
        """Return w + η Σ_k λ_k u_k; the coefficients are η λ_k / ‖Δ_k‖."""
        coefficients = self.server_learning_rate * weights * self._scale(reports)
        return super().combine(params, reports, coefficients, state)

    def _scale(self, reports: Sequence[Report]) -> Weights:
        """Return 1 / ‖Δ_k‖, and 0 for a client that did not move; 1 without ``normalise``."""
        if not self.normalise:
            return np.ones(len(reports))
        lengths = np.sqrt(
            [sum(float(np.sum(np.square(u, dtype=np.float64))) for u in r.update) for r in reports]
        )
        return np.divide(1.0, lengths, out=np.zeros(len(reports)), where=lengths > 0)
