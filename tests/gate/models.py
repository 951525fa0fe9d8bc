"""A user's own models: one that both engines can train, and one that only Opacus can."""

from __future__ import annotations

import torch
from torch import nn


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
