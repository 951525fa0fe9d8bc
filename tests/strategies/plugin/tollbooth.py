"""A strategy in a package of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.strategies.base import Report, State, Strategy, Weights


@dataclass(frozen=True)
class CappedSize(Strategy):
    """No client counts for more than so many records: p_k ∝ min(n_k, cap).

    Parameters
    ----------
    cap
        Records; 1 is uniform, a very large one FedAvg.
    """

    cap: int = 1000

    def __post_init__(self) -> None:
        if self.cap < 1:
            raise ValueError(f"cap = {self.cap}: must be 1 or greater")

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return min(n_k, cap), normalised."""
        counted = np.array([min(r.size, self.cap) for r in reports], dtype=np.float64)
        return counted / counted.sum(), state
