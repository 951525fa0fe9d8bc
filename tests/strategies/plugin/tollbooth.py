"""A strategy in its own package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.strategies.base import Report, State, Strategy, Weights


@dataclass(frozen=True)
class CappedSize(Strategy):
    """FedAvg with client sizes capped: p_k ∝ min(n_k, cap).

    Parameters
    ----------
    cap
        Largest size that counts, in records; 1 gives uniform weights, a very large cap FedAvg.
    """

    cap: int = 1000

    def __post_init__(self) -> None:
        if self.cap < 1:
            raise ValueError(f"cap = {self.cap}: must be 1 or greater")

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return min(n_k, cap), normalised."""
        capped = np.array([min(r.size, self.cap) for r in reports], dtype=np.float64)
        return capped / capped.sum(), state
