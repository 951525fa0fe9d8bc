"""Strategies that request statistics or send instructions, and otherwise behave as FedAvg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedtoll.scenarios.statistics import (
    ErrorRate,
    GroupConfusion,
    GroupLoss,
    GroupScore,
    LabelGroupLoss,
    MeanLoss,
    Statistic,
)
from fedtoll.strategies.base import Instructions, State
from fedtoll.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class Everything(FedAvg):
    """FedAvg that requests every statistic."""

    clip: float = 0.5

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """Return one of each."""
        losses = (MeanLoss(self.clip), GroupLoss(self.clip), LabelGroupLoss(self.clip))
        return (*losses, ErrorRate(), GroupConfusion(), GroupScore())


@dataclass(frozen=True)
class Tells(FedAvg):
    """FedAvg that sends clients weights of groups, weights of scores, and FedProx's μ."""

    weights: Sequence[float] = ()
    mu: float = 0.0
    scores: Sequence[float] = ()

    def instructions(self, round: int, state: State) -> Instructions:
        """Return the given weights and μ."""
        by_name = {"group_weights": self.weights, "score_weights": self.scores}
        sent: dict[str, float | Sequence[float]] = {"proximal_mu": self.mu} if self.mu else {}
        return sent | {name: values for name, values in by_name.items() if values}
