"""Which runs train together: those of one seed that share their batches, as many as fit in the cache."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run

MOST = 16
"""The maximum number of runs that train together. Larger groups gain little."""

CACHE = 2**20
"""Bytes that the models of a group's clients may take, so that they stay in the processor's cache.

In step, every run's models are read and written at each step. An MLP of 8,866 parameters with 20 clients
takes 700 KB a run and is a tenth slower in a group of 15 than alone; logistic regression is faster.
"""


def groups(
    runs: Sequence[Run], federation: Federation | None, workers: int, *, alone: bool = False
) -> list[list[int]]:
    """Return the positions of the runs that train together, in the order of their seeds.

    There are at least twice as many groups as workers, if there are as many runs.

    Parameters
    ----------
    runs
        Grouping changes no result. A run trains alone if its strategy or model is not fedtoll's own code,
        which may fork, or if its engine trains one client after another.
    federation
        The records of the runs, or ``None`` to resolve them from the first.
    workers
        Number of runs or groups that train at once.
    alone
        Whether every run trains alone, because each has a time limit.
    """
    alike: dict[Any, list[int]] = {}
    for position in sorted(range(len(runs)), key=lambda i: runs[i].seed):
        key = position if alone else _shared(runs[position], position)
        alike.setdefault(key, []).append(position)
    found = []
    for positions in alike.values():
        most = 1 if len(positions) == 1 else _most(runs[positions[0]], federation)
        most = max(1, min(most, -(-len(runs) // (2 * workers))))
        parts = -(-len(positions) // most)  # of nearly equal size
        ends = [part * len(positions) // parts for part in range(parts + 1)]
        found += [positions[start:end] for start, end in itertools.pairwise(ends)]
    return found


def _shared(run: Run, position: int) -> Any:
    """Return what runs have in common if they can train together."""
    if run.engine != "cohort" or run.strategy.digest or run.model_digest:
        return position
    clients = tuple((c.id, c.size, c.sampling_rate, c.steps) for c in run.clients)
    # A run without noise may join the others.
    noise_seed = run.noise_seed if run.mechanism == "dp-sgd" else run.seed
    return run.seed, noise_seed, run.precision, run.device, run.model, run.classes, clients


def _most(run: Run, federation: Federation | None) -> int:
    """Return how many runs fit in the cache."""
    from fedtoll.clients import model

    features = Federation.of(run, like=federation).table.features.shape[1]
    module = model.build(run.model, features, run.classes, run.precision)
    one = sum(p.numel() * p.element_size() for p in module.parameters()) * len(run.clients)
    return max(1, min(MOST, CACHE // one))
