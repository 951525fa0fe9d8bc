"""Random draws of local training, shared by all engines: Poisson batches and noise streams."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedtoll.clients.engines.base import Task
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.streams import Purpose, sequence, step_streams


def poisson(rng: np.random.Generator, count: int, rate: float) -> NDArray[np.int64]:
    """Return the rows of one Poisson sample: each of ``count`` rows enters with probability ``rate``.

    The gaps between successes of Bernoulli trials are geometric, so the cost depends on the size of the
    sample, not on the number of rows. The sample may be empty.

    Examples
    --------
    >>> poisson(np.random.default_rng(0), 5, 1.0)
    array([0, 1, 2, 3, 4])
    """
    if rate >= 1.0:
        return np.arange(count, dtype=np.int64)
    expected = count * rate
    chunk = int(expected + 6 * math.sqrt(expected) + 8)
    rows = np.cumsum(rng.geometric(rate, chunk)) - 1
    while rows[-1] < count:
        rows = np.concatenate([rows, rows[-1] + np.cumsum(rng.geometric(rate, chunk))])
    return rows[: np.searchsorted(rows, count)].astype(np.int64, copy=False)


def batches(run: Run, task: Task) -> list[NDArray[np.int64]]:
    """Return the sampled rows of each step of a task, from the streams of (client, round, step)."""
    key, count = (task.plan.id, task.round), len(task.labels_N)
    purpose = Purpose.OWN_POISSON if task.own else Purpose.POISSON
    streams = step_streams(run.seed, purpose, *key, steps=task.plan.steps)
    return [poisson(rng, count, task.plan.sampling_rate) for rng in streams]


Key = NDArray[np.uint64]
"""Three words of the state of an SFC64 generator; the fourth, its counter, starts at 1."""


def noise_keys(run: Run, task: Task) -> list[Key]:
    """Return the key with which the noise of each step starts, from (client, round, step)."""
    purpose = Purpose.OWN_NOISE if task.own else Purpose.NOISE
    keyed = sequence(run.noise_seed, purpose, task.plan.id, task.round)
    words = np.asarray(keyed.generate_state(3 * task.plan.steps, np.uint64), dtype=np.uint64)
    return list(words.reshape(task.plan.steps, 3))


def noise_generator() -> np.random.Generator:
    """Return a generator for :func:`begin`. SFC64 is numpy's fastest."""
    return np.random.Generator(np.random.SFC64(0))


def begin(generator: np.random.Generator, key: Key) -> None:
    """Set the state of a generator from a key. As numpy does when it seeds SFC64, discard twelve numbers."""
    words = np.array([*key, 1], dtype=np.uint64)
    generator.bit_generator.state = {
        "bit_generator": "SFC64",
        "state": {"state": words},
        "has_uint32": 0,
        "uinteger": 0,
    }
    generator.bit_generator.random_raw(12, output=False)
