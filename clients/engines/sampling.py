"""Random draws of local training, shared by all engines: Poisson batches and noise streams."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from fedtoll.clients.engines.base import Task
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.streams import Purpose, step_streams, stream


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
    streams = step_streams(run.seed, Purpose.POISSON, *key, steps=task.plan.steps)
    return [poisson(rng, count, task.plan.sampling_rate) for rng in streams]


Key = NDArray[np.uint32]
"""The full state of a Mersenne Twister: 624 words."""


def noise_keys(run: Run, task: Task) -> list[Key]:
    """Return the generator state with which the noise of each step starts, from (client, round, step)."""
    steps = task.plan.steps
    bits = stream(run.noise_seed, Purpose.NOISE, task.plan.id, task.round).bit_generator
    return list(np.asarray(bits.random_raw(312 * steps)).view(np.uint32).reshape(steps, 624))


def begin(generator: torch.Generator, key: Key) -> None:
    """Set the state of a torch generator from a key.

    On a processor ``manual_seed`` uses only 32 bits, so two of some 10,000 steps could well share their
    noise; full states do not collide. On a GPU the seed has 64 bits, which are used.
    """
    if generator.device.type != "cpu":
        generator.manual_seed(int(key[:2].view(np.int64)[0]))
        return
    state = _template().copy()
    state[_WORDS].view(np.uint64)[:] = key
    generator.set_state(torch.from_numpy(state))


_WORDS = slice(24, 24 + 8 * 624)
"""Position of the state's words in the bytes that ``get_state`` returns."""


@lru_cache(maxsize=1)
def _template() -> NDArray[np.uint8]:
    """Return a generator state with all words unused; its layout is checked against numpy's MT19937."""
    generator = torch.Generator()
    generator.manual_seed(0)
    state = generator.get_state().numpy().copy()
    state[8:12].view(np.int32)[0] = 1  # words left before the generator twists
    state[16:24].view(np.uint64)[0] = 0
    words = np.arange(1, 625, dtype=np.uint32) * np.uint32(2654435761)
    state[_WORDS].view(np.uint64)[:] = words
    generator.set_state(torch.from_numpy(state.copy()))
    twister = np.random.MT19937(0)
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    drawn = torch.randint(0, 2**32, (2,), generator=generator, dtype=torch.int64).tolist()
    if drawn != twister.random_raw(4)[1::2].tolist():
        raise RuntimeError(f"torch {torch.__version__} stores its generator's state in an unknown layout")
    return state
