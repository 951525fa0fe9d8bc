"""Delta-FL, the superquantile over clients (Laguel et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.scenarios.statistics import MeanLoss, Statistic
from fedtoll.strategies.base import Report, State, Strategy, Weights, sizes

ROUNDING = 1e-12
"""The relative error that level · n may have: 0.28 · 25 is a little more than 7."""


@dataclass(frozen=True)
class Superquantile(Strategy):
    """Superquantile (Delta-FL): trains on the tail of clients with the highest loss only.

    Clients whose mean loss F_k at the broadcast model is at least the quantile of the losses (of a record
    drawn at random, so weighted by n_k) share the weight by size; the others have none:

        p_k ∝ n_k · 1[F_k ≥ Q_level(F)],   Q_level(F) = the least F_j with Σ_{i: F_i ≤ F_j} n_i ≥ level · n

    This minimises the superquantile (conditional value at risk) of the clients' losses: the mean over the
    worst 1 − ``level`` of the records' clients. ``level = 0`` is FedAvg; close to 1, only the client with the
    highest loss trains, as in the minimax of ``afl``.

    The server receives F̃_k = F_k + N(0, s_k²). A small client's F̃_k is noisy, so it is at times in the tail
    by chance, with a weight that is still in proportion to its size.

    Parameters
    ----------
    level
        The level of the quantile, in [0, 1).
    clip
        Bound on a record's loss in the statistic, in nats.

    References
    ----------
    Laguel, Pillutla, Malick and Harchaoui, *A superquantile approach to federated learning with heterogeneous
    devices*, CISS 2021, and Pillutla, Laguel, Malick and Harchaoui, *Federated learning with superquantile
    aggregation for heterogeneous data*, Machine Learning 2024. The rule is that of the authors' code
    (github.com/krishnap25/simplicial-fl).

    Examples
    --------
    >>> from fedtoll.scenarios.statistics import Estimate
    >>> reports = [
    ...     Report(k, n, "g", update=(), statistics={"mean_loss": Estimate(f, 0.0)})
    ...     for k, (n, f) in enumerate([(60, 0.2), (30, 0.4), (10, 0.6)])
    ... ]
    >>> for level in (0.0, 0.8, 0.95):
    ...     print(Superquantile(level=level).weigh(reports, {})[0])
    [0.6 0.3 0.1]
    [0.   0.75 0.25]
    [0. 0. 1.]
    """

    level: float = 0.5
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.level < 1:
            raise ValueError(f"level = {self.level}: must be 0 or greater and less than 1")
        MeanLoss(self.clip)

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The mean loss, clipped at ``clip``."""
        return (MeanLoss(self.clip),)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return n_k of the clients in the tail, normalised."""
        losses = np.array([r.statistics["mean_loss"].value for r in reports], dtype=np.float64)
        n = np.array([r.size for r in reports], dtype=np.float64)
        reached = np.array([n[losses <= f].sum() for f in losses])
        quantile = losses[reached >= self.level * n.sum() * (1 - ROUNDING)].min()
        weights = sizes(reports) * (losses >= quantile)
        return weights / weights.sum(), state
