"""Uniform weights: the unweighted mean of the clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.strategies.base import Member, Report, State, Strategy, Weights


@dataclass(frozen=True)
class Uniform(Strategy):
    """Gives every client the same weight, whatever its size.

    p_k = 1 / K. If every client holds one group, small groups get the weight of large ones. The noise of
    their small batches enters with the same weight, so Σ p_k² v_k grows.

    Examples
    --------
    >>> reports = [Report(k, n, "g", update=()) for k, n in enumerate([60, 30, 10, 4])]
    >>> Uniform().weigh(reports, {})[0]
    array([0.25, 0.25, 0.25, 0.25])
    """

    def public_weights(self, cohort: Sequence[Member]) -> Weights:
        """Return 1 / K."""
        return np.full(len(cohort), 1.0 / len(cohort))

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return 1 / K."""
        return np.full(len(reports), 1.0 / len(reports)), state
