"""Random streams: one for each purpose, client, round and step.

Every random number in fedtoll comes from :class:`numpy.random.SeedSequence`
keyed by what the number is for, so that the split, the partition, the
initial weights, the Poisson masks and the noise depend on the seed alone:
neither the strategy, nor ε, nor the executor, nor the order of replies can
change them, and every comparison is paired.

The streams are reproducible on purpose. They make a simulation, not a
deployable guarantee: who knows the seed can subtract the noise.
"""

from __future__ import annotations

import enum

import numpy as np


class Purpose(enum.IntEnum):
    """What a stream is for; the first element of its key. Values are part of NUMERICS."""

    SPLIT = 1
    PARTITION = 2
    INITIAL_WEIGHTS = 3
    POISSON = 4
    NOISE = 5
    STATISTIC = 6


def sequence(seed: int, purpose: Purpose, *key: int) -> np.random.SeedSequence:
    """Return the seed sequence for one purpose and key, e.g. ``(client, round, step)``."""
    return np.random.SeedSequence(seed, spawn_key=(int(purpose), *key))


def stream(seed: int, purpose: Purpose, *key: int) -> np.random.Generator:
    """Return a fresh generator for one purpose and key.

    Examples
    --------
    >>> a = stream(0, Purpose.POISSON, 3, 1, 0).random()
    >>> a == stream(0, Purpose.POISSON, 3, 1, 0).random()
    True
    >>> a == stream(0, Purpose.NOISE, 3, 1, 0).random()
    False
    """
    return np.random.Generator(np.random.PCG64(sequence(seed, purpose, *key)))


def torch_seed(seed: int, purpose: Purpose, *key: int) -> int:
    """Return a 63-bit seed for a ``torch.Generator`` of one purpose and key."""
    return int(sequence(seed, purpose, *key).generate_state(1, np.uint64)[0] >> np.uint64(1))
