"""FedAvg (McMahan et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedtoll.strategies.base import Member, Report, State, Strategy, Weights, sizes


@dataclass(frozen=True)
class FedAvg(Strategy):
    """FedAvg: every record has the same weight, so large clients dominate the model.

    p_k = n_k / n. The weights depend on public sizes only, so the strategy requests no statistic and spends
    no privacy on one.

    References
    ----------
    McMahan et al., *Communication-efficient learning of deep networks from
    decentralized data*, AISTATS 2017, algorithm 1.

    Examples
    --------
    >>> reports = [Report(k, n, "g", update=()) for k, n in enumerate([60, 30, 10])]
    >>> FedAvg().weigh(reports, {})[0]
    array([0.6, 0.3, 0.1])
    """

    def public_weights(self, cohort: Sequence[Member]) -> Weights:
        """Return n_k / n."""
        return sizes(cohort)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return n_k / n."""
        return sizes(reports), state
