"""Canaries: crafted records whose clipped gradients are as long as the clip and easy to recognise.

The audit uses the engine that trains the scenario, with its sampling, gradients, clipping and noise. The
attacker sees what one or more steps of a client release, in units of the clip:
(Σ clipped gradients + noise) / C = −B (w′ − w) / (η C).

Shape suffixes: M canaries, P the model's parameters in one vector, S releases, D features, N records.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedtoll.audit.bounds import MIN_CANARY_NORM
from fedtoll.clients import losses, model
from fedtoll.clients.engines import make_engine
from fedtoll.clients.engines.base import Task
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import ClientPlan, Run

MAX_CANARIES = 128
"""The largest number of canaries."""

LOOKS_PER_CALL = 50
"""The largest number of trainings in one call of the engine."""

LARGE = 1000.0
"""The length of a canary, in units of the clip: its gradient is clipped even if its loss is small."""


@dataclass(frozen=True, eq=False)
class Canaries:
    """Crafted records, and what each contributes to a step.

    Parameters
    ----------
    features_MD, labels_M
        The records.
    directions_MP
        The clipped gradient of each, in units of the clip, measured in a step without noise.
    orthogonal
        Whether the gradients are orthogonal, so that one step is an independent observation of each.
    start
        The model parameters for which they were crafted.
    """

    features_MD: torch.Tensor
    labels_M: torch.Tensor
    directions_MP: NDArray[np.float64]
    orthogonal: bool
    start: Sequence[NDArray[np.floating]]

    def __len__(self) -> int:
        return len(self.labels_M)

    def effective(self) -> Canaries:
        """Return the canaries that the model does not ignore."""
        return self._select(np.linalg.norm(self.directions_MP, axis=1) >= MIN_CANARY_NORM, self.orthogonal)

    def longest(self) -> Canaries:
        """Return only the canary with the longest clipped gradient."""
        longest = np.linalg.norm(self.directions_MP, axis=1).argmax()
        return self._select(np.arange(len(self)) == longest, orthogonal=True)

    def _select(self, mask_M: NDArray[np.bool_], orthogonal: bool) -> Canaries:
        return Canaries(*self.records(mask_M), self.directions_MP[mask_M], orthogonal, self.start)

    def records(self, mask_M: NDArray[np.bool_]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features and labels of the canaries that a mask selects."""
        mask = torch.from_numpy(mask_M)
        return self.features_MD[mask], self.labels_M[mask]


def craft(run: Run, client: ClientPlan, federation: Federation | None = None) -> Canaries:
    """Craft canaries for a client of a run.

    Canary j is an outlier in feature j, labelled with the class that the initial model finds least likely.
    For logistic regression the gradients are orthogonal up to the bias.
    """
    table = Federation.of(run, like=federation).table
    start = model.initial(run.model, table.features.shape[1], run.classes, run.precision, run.seed)
    dtype = model.DTYPES[run.precision]
    features_MD = (
        LARGE * max(1.0, run.clip or 1.0) * torch.eye(table.features.shape[1], dtype=dtype)[:MAX_CANARIES]
    )
    module = model.build(run.model, features_MD.shape[1], run.classes, run.precision)
    model.put(module, start)
    module.eval()
    with torch.no_grad():
        labels_M = losses.probabilities(module(features_MD)).argmin(dim=1)
    silent = full_batch(client, noise_multiplier=0.0, steps=1)
    single = [
        Look(silent, run.seed, j + 1, (features_MD[j : j + 1], labels_M[j : j + 1]))
        for j in range(len(features_MD))
    ]
    directions_MP = releases(without_noise(run), single, start)
    unit_MP = normalised(directions_MP)
    cosines = unit_MP @ unit_MP.T
    overlap = np.abs(cosines - np.diag(np.diag(cosines))).max(initial=0.0)
    return Canaries(features_MD, labels_M, directions_MP, bool(overlap < 1e-3), start)


def normalised(directions_MP: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the directions scaled to length 1; a zero direction stays zero."""
    norms_M1 = np.linalg.norm(directions_MP, axis=1, keepdims=True)
    return np.asarray(directions_MP / np.where(norms_M1 > 0, norms_M1, 1.0))


@dataclass(frozen=True, eq=False)
class Look:
    """One training of a client in one round, of which the attacker sees the release.

    Parameters
    ----------
    client
        Gives q, B, T and σ.
    seed, round
        The key of the random draws, with the client's id.
    batch
        The features and labels of the client's records.
    """

    client: ClientPlan
    seed: int
    round: int
    batch: tuple[torch.Tensor, torch.Tensor]


def without_noise(run: Run) -> Run:
    """Return a copy of the run, for engines only, that clips and adds no noise."""
    return run.changed(
        mechanism="clip-only",
        epsilon=math.inf,
        delta=None,
        accountant=None,
        choice=None,
        clients=tuple(c.changed(noise_multiplier=0.0) for c in run.clients),
        statistics=tuple(s.changed(noise_multiplier=0.0) for s in run.statistics),
    )


def full_batch(client: ClientPlan, **update: float) -> ClientPlan:
    """Return a copy of the client that uses all its records in every step, with other values if given."""
    return client.changed(**{"sampling_rate": 1.0, **update})


def releases(
    run: Run,
    looks: Sequence[Look],
    start: Sequence[NDArray[np.floating]],
    onto_PM: NDArray[np.float64] | None = None,
    *,
    last_step: bool = False,
) -> NDArray[np.float64]:
    """Return what trainings of clients release, all from the same parameters, ``[S, P]`` or ``[S, M]``.

    Parameters
    ----------
    run
        Gives the engine, mechanism, learning rate and clip. Its clients are replaced by those of the looks,
        and its seeds too.
    looks
        Successive looks with the same seed must have distinct (client, round).
    start
        The parameters before each training.
    onto_PM
        Directions to project the releases onto, one block of looks at a time. The unprojected releases of an
        MLP would take gigabytes.
    last_step
        Whether to see the last step alone, in place of the sum of all steps. For this the server instructs
        FedProx with μ = 1/η: each step then starts by returning to the broadcast parameters.
    """
    before = _flat(start)
    mu = 1 / run.learning_rate if last_step else 0.0
    blocks = []
    for seed, same in itertools.groupby(looks, key=lambda look: look.seed):
        while block := list(itertools.islice(same, LOOKS_PER_CALL)):
            # The changed run is checked: a plan without noise under dp-sgd, or the reverse, is rejected.
            plans = {look.client.id: look.client for look in block}
            audited = tuple(plans.get(c.id, c) for c in run.clients)
            reseeded = run.changed(seed=seed, noise_seed=seed, clients=audited)
            # A fresh engine: a shared one caches the noise it drew, and no noise is drawn twice here.
            engine = make_engine(run.engine, run.device)
            tasks = [Task(x.client, x.round, start, *x.batch, proximal_mu=mu) for x in block]
            block_SP = np.array([_flat(t.parameters) - before for t in engine.train(reseeded, tasks)])
            normaliser_S1 = np.array([[x.client.batch_size] for x in block])
            block_SP *= -normaliser_S1 / (run.learning_rate * (run.clip or 1.0))
            blocks.append(block_SP if onto_PM is None else block_SP @ onto_PM)
    return np.concatenate(blocks)


def _flat(arrays: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(a, dtype=np.float64).ravel() for a in arrays])
