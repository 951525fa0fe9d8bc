"""Strategies that ask for statistics, tell clients things, and do not look at the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedtoll.scenarios.statistics import (
    ErrorRate,
    GroupConfusion,
    GroupLoss,
    LabelGroupLoss,
    MeanLoss,
    Statistic,
)
from fedtoll.strategies.base import Instructions, State
from fedtoll.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class Everything(FedAvg):
    """FedAvg that asks for every statistic there is."""

    clip: float = 0.5

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """Return one of each."""
        losses = (MeanLoss(self.clip), GroupLoss(self.clip), LabelGroupLoss(self.clip))
        return (*losses, ErrorRate(), GroupConfusion())


@dataclass(frozen=True)
class Tells(FedAvg):
    """FedAvg that tells clients the weights of groups, and μ of FedProx."""

    weights: Sequence[float] = ()
    mu: float = 0.0

    def instructions(self, round: int, state: State) -> Instructions:
        """Return what was given."""
        told: dict[str, float | Sequence[float]] = {"proximal_mu": self.mu} if self.mu else {}
        return {**told, "group_weights": self.weights} if self.weights else told
