"""Models of a user's own: one that both engines train, and one that only Opacus does."""

from __future__ import annotations

import torch
from torch import nn


def tanh(inputs: int, outputs: int) -> nn.Module:
    """A Sequential with an activation that is not ours."""
    return nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.Linear(6, 6), nn.SiLU(), nn.Linear(6, outputs))


class Gated(nn.Module):
    """Two linear layers, one of which gates the other."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(inputs, 6), nn.Linear(inputs, 6)
        self.out = nn.Linear(6, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.out(torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x)))
        return made
