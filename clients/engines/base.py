"""The one interface of all engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedtoll.scenarios.run import ClientPlan, Run


@dataclass(frozen=True)
class Task:
    """One client's local training in one round.

    Parameters
    ----------
    plan
        The client's public constants: q, T, B and σ come from here, never from the records held.
    round
        From 1.
    parameters
        The broadcast model.
    features_ND, labels_N
        The records that the client holds.
    proximal_mu
        μ of FedProx; its term is added after the noise.
    weights_N
        A weight for every record's loss. It is applied inside the clip: the sensitivity stays the
        clip, and the clip undoes part of a large weight.
    """

    plan: ClientPlan
    round: int
    parameters: Sequence[NDArray[np.floating]]
    features_ND: torch.Tensor
    labels_N: torch.Tensor
    proximal_mu: float = 0.0
    weights_N: torch.Tensor | None = None


@dataclass(frozen=True)
class Trained:
    """What local training gives: the new parameters, and how many steps were released."""

    parameters: list[NDArray[np.floating]]
    steps: int


class Engine(Protocol):
    """Trains a cohort's clients for one round; each starts from its own task's parameters."""

    name: str

    def train(self, run: Run, tasks: Sequence[Task]) -> list[Trained]:
        """Return one result for each task, in their order."""
        ...
