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


def pairs(x: torch.Tensor) -> torch.Tensor:
    """Return the values of each record two by two, ``[B, pairs, 2]``."""
    even = nn.functional.pad(x, (0, x.shape[1] % 2))
    return even.reshape(len(x), even.shape[1] // 2, 2)


class Sequence(nn.Module):
    """A linear layer over pieces of a record, in a dimension after the batch, where they belong to it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.piece, self.out = nn.Linear(2, 3), nn.Linear(3, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.out(torch.tanh(self.piece(pairs(x))).sum(1))
        return output


class Pieces(nn.Module):
    """The same with the pieces folded into the batch, where Opacus takes each for a record."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.out = nn.Linear(2, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pieces = pairs(x)
        output: torch.Tensor = self.out(pieces.flatten(0, 1)).unflatten(0, pieces.shape[:2]).sum(1)
        return output


class TimeFirst(Pieces):
    """The same with the batch in the second dimension."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.out(pairs(x).transpose(0, 1)).sum(0)
        return output


class Mixed(nn.Module):
    """A linear layer that adds the mean of the batch in training, and drops some inputs."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.out, self.drop = nn.Linear(inputs, outputs), nn.Dropout(0.05)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = x + 5 * x.mean(0) if self.training and len(x) else x
        output: torch.Tensor = self.out(self.drop(mixed))
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
