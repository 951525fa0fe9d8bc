"""Random streams, one for each purpose, client, round and step.

Every random number in fedtoll comes from a :class:`numpy.random.SeedSequence`
keyed by its purpose. The split, the partition, the initial weights, the Poisson
masks and the noise therefore depend on the seed alone, not on the strategy, ε,
the executor or the order of replies, and every comparison is paired.

The streams are reproducible on purpose. They serve a simulation and give no
deployable guarantee: whoever knows the seed can subtract the noise.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

import numpy as np


@enum.unique
class Purpose(enum.IntEnum):
    """The purpose of a stream: the first element of its key. Changing a value raises NUMERICS."""

    SPLIT = 1
    PARTITION = 2
    INITIAL_WEIGHTS = 3
    POISSON = 4
    NOISE = 5
    STATISTIC = 6
    LAYOUT = 7
    KEEP = 8
    VALIDATION = 9
    MODULE = 10
    NOISE_SEED = 11
    CHOICE = 12
    OBJECTIVE = 13
    PARTICIPATION = 14
    SUM_NOISE = 20
    SUM_STATISTIC = 21
    CLIENTS = 30
    UPDATE = 31
    UPDATE_BIT = 32
    OWN_POISSON = 40
    OWN_NOISE = 41
    OWN_MODULE = 42
    HELD_OUT = 43
    CALIBRATION = 44
    BATCH_STATISTIC = 50


def sequence(seed: int, purpose: Purpose, *key: int) -> np.random.SeedSequence:
    """Return the seed sequence of one purpose and key, e.g. ``(client, round, step)``."""
    return np.random.SeedSequence(seed, spawn_key=(int(purpose), *key))


def derived_noise_seed(noise_seed: int, seed: int) -> int:
    """Return the seed of one run's noise in a scenario that states ``privacy.noise_seed``.

    It is the first 64 bits of the seed sequence of ``noise_seed`` with the key (``NOISE_SEED``, ``seed``),
    the same on every platform. Seeds therefore stay independent of each other, and so do two noise seeds of
    one seed. Strategies and ε still share the noise of a seed.

    Parameters
    ----------
    noise_seed
        The scenario's ``privacy.noise_seed``.
    seed
        The run's seed.

    Examples
    --------
    >>> len({derived_noise_seed(k, seed) for k in range(10) for seed in range(10)})
    100
    """
    return int(sequence(noise_seed, Purpose.NOISE_SEED, seed).generate_state(1, np.uint64)[0])


def noise_seed(stated: int | None, seed: int) -> int:
    """Return the seed of a private run's noise: the run's own unless the scenario states ``noise_seed``."""
    return seed if stated is None else derived_noise_seed(stated, seed)


def stream(seed: int, purpose: Purpose, *key: int) -> np.random.Generator:
    """Return a new generator for one purpose and key.

    Examples
    --------
    >>> a = stream(0, Purpose.POISSON, 3, 1, 0).random()
    >>> a == stream(0, Purpose.POISSON, 3, 1, 0).random()
    True
    >>> a == stream(0, Purpose.NOISE, 3, 1, 0).random()
    False
    """
    return np.random.Generator(np.random.PCG64(sequence(seed, purpose, *key)))


def step_streams(seed: int, purpose: Purpose, *key: int, steps: int) -> Iterator[np.random.Generator]:
    """Yield one generator for each step of a key, e.g. ``(client, round)``.

    All are the same object, whose 128-bit state is set from the key's seed sequence at each step: draw
    from it before asking for the next. How much a step draws does not affect the next step's stream.

    Examples
    --------
    >>> a, b = [rng.random(2).round(3) for rng in step_streams(0, Purpose.POISSON, 3, 1, steps=2)]
    >>> c, d = [rng.random(1).round(3) for rng in step_streams(0, Purpose.POISSON, 3, 1, steps=2)]
    >>> a[0] == c[0], b[0] == d[0], a[0] == b[0]
    (np.True_, np.True_, np.False_)
    """
    words = sequence(seed, purpose, *key).generate_state(4 * steps, np.uint64).reshape(steps, 4)
    bits = np.random.PCG64(0)
    rng = np.random.Generator(bits)
    for a, b, c, d in words.tolist():
        bits.state = {
            "bit_generator": "PCG64",
            "state": {"state": a << 64 | b, "inc": c << 64 | d | 1},
            "has_uint32": 0,
            "uinteger": 0,
        }
        yield rng


def torch_seeds(seed: int, purpose: Purpose, *key: int, steps: int) -> list[int]:
    """Return a seed for a ``torch.Generator`` at each step of a key.

    Seeds have 32 bits, because torch's Mersenne Twister reads no more.
    """
    return [int(word) for word in sequence(seed, purpose, *key).generate_state(steps, np.uint32)]
