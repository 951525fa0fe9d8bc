"""A user's own models: one that both engines can train, one that only Opacus can, and a personal one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fedtoll.clients.personal_models.base import Model, PersonalModel, mixed


def tanh(inputs: int, outputs: int) -> nn.Module:
    """Return a Sequential with an activation that fedtoll's own models do not use."""
    return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, outputs))


class Gated(nn.Module):
    """A linear layer that is gated by another."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(inputs, 6), nn.Linear(inputs, 6)
        self.out = nn.Linear(6, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.out(torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x)))
        return output


@dataclass(frozen=True)
class Halfway(PersonalModel):
    """Steps begin halfway between both models, pulled to the server's; others train the own model alone.

    The client is scored by a model halfway between its own and the server's.
    """

    strength: float
    steps: int

    @property
    def pull(self) -> float:
        return self.strength

    @property
    def own_steps(self) -> int:
        return self.steps

    def begin(self, sent: Model, kept: Model) -> Model:
        return mixed(sent, kept, 0.5)

    def score(self, kept: Model, sent: Model) -> Model:
        return mixed(sent, kept, 0.5)
