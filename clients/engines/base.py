"""The interface that all engines implement."""

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
        The client's public constants. q, T, B and σ are read from here, never derived from the records.
    round
        From 1.
    parameters
        The broadcast model.
    features_ND, labels_N
        The client's records.
    proximal_mu
        μ of FedProx; the proximal term is added after the noise.
    anchor
        The model that the proximal term pulls towards; by default that of ``parameters``.
    own
        Whether only the client's own model is trained, with batches and noise of their own streams.
    weights_N
        A weight for the loss of every record, applied before clipping: the sensitivity is still the clip,
        and clipping undoes part of a large weight.
    score_weights_N
        A number for every record: that many times the model's probability of class 1 is added to its loss,
        before clipping. Two classes only.
    groups_N
        The code of every record's group, which a client-side mechanism may read.
    mechanism_state
        The state of the client's mechanism after its last round; ``None`` before the first.
    update_clip
        The bound of the whole update where a client is the unit of privacy; engines do not clip it.
    """

    plan: ClientPlan
    round: int
    parameters: Sequence[NDArray[np.floating]]
    features_ND: torch.Tensor
    labels_N: torch.Tensor
    proximal_mu: float = 0.0
    weights_N: torch.Tensor | None = None
    score_weights_N: torch.Tensor | None = None
    groups_N: torch.Tensor | None = None
    mechanism_state: Sequence[float] | None = None
    update_clip: float | None = None
    anchor: Sequence[NDArray[np.floating]] | None = None
    own: bool = False


@dataclass(frozen=True)
class Trained:
    """The result of local training: the new parameters and the number of released steps.

    With a client-side mechanism also its state, and the typical bound on a scaled gradient (the root mean
    square over steps). Both follow from noised numbers alone.
    """

    parameters: list[NDArray[np.floating]]
    steps: int
    mechanism_state: Sequence[float] | None = None
    bound: float | None = None


Job = tuple[Run, Sequence[Task]]
"""A run, and the tasks of its clients in one round."""


class Engine(Protocol):
    """Trains the clients of a cohort for one round, each from the parameters of its task."""

    name: str

    def train(self, run: Run, tasks: Sequence[Task]) -> list[Trained]:
        """Return one result for each task, in the order of the tasks."""
        ...

    def train_together(self, jobs: Sequence[Job]) -> list[list[Trained]]:
        """Return the results of :meth:`train` for each of several runs, with the same bits."""
        ...
