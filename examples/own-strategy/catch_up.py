"""A strategy in one file: weigh clients up whose loss is clearly above average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.scenarios.statistics import MeanLoss
from fedtoll.strategies.base import Report, State, Strategy, Weights, sizes


@dataclass(frozen=True)
class CatchUp(Strategy):
    """p_k ∝ n_k · (1 + boost · max(0, F_k − F̄ − s_k)), where s_k is the standard deviation of F_k's noise."""

    boost: float = 5.0

    @property
    def requests(self) -> tuple[MeanLoss]:
        """Ask every client for its mean loss. It arrives clipped and noised, and is charged to ε."""
        return (MeanLoss(clip=1.0),)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return one weight per report (0 or more, sum 1) and the state for the next round."""
        loss = np.array([r.statistics["mean_loss"].value for r in reports])
        sd = np.array([r.statistics["mean_loss"].sd for r in reports])
        excess = np.maximum(loss - sizes(reports) @ loss - sd, 0.0)
        p = sizes(reports) * (1.0 + self.boost * excess)
        return p / p.sum(), state
