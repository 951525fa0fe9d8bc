"""Canaries: records made so that their clipped gradients are as long as the clip and stand out.

Everything goes through the engine that trains the scenario: its sampler, its gradients, its clip, its noise.
What the attacker sees is what a client's step releases, in units of the clip:
(Σ clipped gradients + noise) / C = −B (w′ − w) / (η C).

Shape suffixes: M canaries, P the model's parameters in one vector, S steps, D features, N records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedtoll.audit.bounds import SEEN
from fedtoll.clients import losses, model
from fedtoll.clients.engines import make_engine
from fedtoll.clients.engines.base import Task
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import ClientPlan, Run

MOST = 128
"""Canaries, at most."""

AT_ONCE = 50
"""Steps that one call of the engine takes."""

_LARGE = 1000.0  # of the clip: a gradient so long is clipped whatever its loss


@dataclass(frozen=True, eq=False)
class Canaries:
    """Records, and what each adds to a step.

    Parameters
    ----------
    features_MD, labels_M
        The records.
    directions_MP
        The clipped gradient of each, in units of the clip: found by a step without noise.
    orthogonal
        Whether no two overlap, so that one step is an independent observation of each.
    start
        The parameters at which they were made.
    """

    features_MD: torch.Tensor
    labels_M: torch.Tensor
    directions_MP: NDArray[np.float64]
    orthogonal: bool
    start: Sequence[NDArray[np.floating]]

    def __len__(self) -> int:
        return len(self.labels_M)

    def seen(self) -> Canaries:
        """Return those that the model does not ignore."""
        return self._some(np.linalg.norm(self.directions_MP, axis=1) >= SEEN, self.orthogonal)

    def longest(self) -> Canaries:
        """Return the one alone whose direction is longest."""
        longest = np.linalg.norm(self.directions_MP, axis=1).argmax()
        return self._some(np.arange(len(self)) == longest, orthogonal=True)

    def _some(self, which_M: NDArray[np.bool_], orthogonal: bool) -> Canaries:
        return Canaries(*self.held(which_M), self.directions_MP[which_M], orthogonal, self.start)

    def held(self, which_M: NDArray[np.bool_]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features and labels of some of them."""
        mask = torch.from_numpy(which_M)
        return self.features_MD[mask], self.labels_M[mask]


def canaries(run: Run, client: ClientPlan, federation: Federation | None = None) -> Canaries:
    """Make canaries for a client of a run.

    Record j is far out in feature j, with the label that the first model thinks least likely. For logistic
    regression the gradients are orthogonal, as far as the bias allows.
    """
    table = Federation.of(run, like=federation).table
    start = model.initial(run.model, table.features.shape[1], run.classes, run.precision, run.seed)
    dtype = model.DTYPES[run.precision]
    features_MD = _LARGE * max(1.0, run.clip or 1.0) * torch.eye(table.features.shape[1], dtype=dtype)[:MOST]
    module = model.build(run.model, features_MD.shape[1], run.classes, run.precision)
    model.put(module, start)
    module.eval()
    with torch.no_grad():
        labels_M = losses.probabilities(module(features_MD)).argmin(dim=1)
    every = [(features_MD[j : j + 1], labels_M[j : j + 1]) for j in range(len(features_MD))]
    directions_MP = released(exact(run), whole(client, 0.0), start, every, range(1, len(every) + 1))
    unit_MP = unit(directions_MP)
    cosines = unit_MP @ unit_MP.T
    overlap = np.abs(cosines - np.diag(np.diag(cosines))).max(initial=0.0)
    return Canaries(features_MD, labels_M, directions_MP, bool(overlap < 1e-3), start)


def unit(directions_MP: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return directions of length 1; of a canary that the first model ignores it stays 0."""
    norms_M1 = np.linalg.norm(directions_MP, axis=1, keepdims=True)
    return np.asarray(directions_MP / np.where(norms_M1 > 0, norms_M1, 1.0))


def exact(run: Run) -> Run:
    """Return a run that clips and adds no noise; one that only an engine reads."""
    return run.model_copy(update={"mechanism": "clip-only"})


def whole(client: ClientPlan, noise_multiplier: float | None = None) -> ClientPlan:
    """Return a client that takes all its records in every step."""
    noise = client.noise_multiplier if noise_multiplier is None else noise_multiplier
    return client.model_copy(update={"sampling_rate": 1.0, "noise_multiplier": noise})


def released(
    run: Run,
    client: ClientPlan,
    start: Sequence[NDArray[np.floating]],
    held: Sequence[tuple[torch.Tensor, torch.Tensor]],
    rounds: Sequence[int],
    onto_PM: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return what single steps of a client release, each from the same parameters, ``[S, P]`` or ``[S, M]``.

    Parameters
    ----------
    run, client
        Engine, mechanism, learning rate, clip and seeds; q, B and σ.
    start
        The parameters before each step.
    held
        The features and labels that the client holds at each step.
    rounds
        The round of each step: the key of its draws.
    onto_PM
        What the releases are projected onto, a block of steps at a time: all of an MLP's, as long as its
        parameters, would take gigabytes.
    """
    one = client.model_copy(update={"steps": 1})
    before = _flat(start)
    scale = -client.batch_size / (run.learning_rate * (run.clip or 1.0))
    made = []
    for first in range(0, len(rounds), AT_ONCE):
        # An engine of its own: one keeps the noise that it drew, and here none is drawn twice.
        compute = make_engine(run.engine, run.device)
        block = zip(rounds[first : first + AT_ONCE], held[first : first + AT_ONCE], strict=True)
        tasks = [Task(one, round, start, features, labels) for round, (features, labels) in block]
        block_SP = np.array([_flat(t.parameters) - before for t in compute.train(run, tasks)]) * scale
        made.append(block_SP if onto_PM is None else block_SP @ onto_PM)
    return np.concatenate(made)


def _flat(arrays: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(a, dtype=np.float64).ravel() for a in arrays])
