"""The draws of local training, shared by all engines: Poisson batches and the seeds of the noise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedtoll.clients.engines.base import Task
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.streams import Purpose, step_streams, torch_seeds


def poisson(rng: np.random.Generator, held: int, rate: float) -> NDArray[np.int64]:
    """Return the rows of one Poisson sample: each of ``held`` rows enters with probability ``rate``.

    The gaps between successes of Bernoulli trials are geometric, so the cost follows the
    sample's size and not the number of rows. May be empty.

    Examples
    --------
    >>> poisson(np.random.default_rng(0), 5, 1.0)
    array([0, 1, 2, 3, 4])
    """
    if rate >= 1.0:
        return np.arange(held, dtype=np.int64)
    expected = held * rate
    chunk = int(expected + 6 * math.sqrt(expected) + 8)
    rows = np.cumsum(rng.geometric(rate, chunk)) - 1
    while rows[-1] < held:
        rows = np.concatenate([rows, rows[-1] + np.cumsum(rng.geometric(rate, chunk))])
    return rows[: np.searchsorted(rows, held)].astype(np.int64, copy=False)


def batches(run: Run, task: Task) -> list[NDArray[np.int64]]:
    """Return the rows of each of a task's steps, from the streams of (client, round, step)."""
    key, held = (task.plan.id, task.round), len(task.labels_N)
    streams = step_streams(run.seed, Purpose.POISSON, *key, steps=task.plan.steps)
    return [poisson(rng, held, task.plan.sampling_rate) for rng in streams]


def noise_seeds(run: Run, task: Task) -> list[int]:
    """Return the seed of the noise of each of a task's steps, from (client, round, step)."""
    key = (task.plan.id, task.round)
    return torch_seeds(run.noise_seed, Purpose.NOISE, *key, steps=task.plan.steps)
