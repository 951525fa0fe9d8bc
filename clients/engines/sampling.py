"""Poisson sampling by geometric gaps."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


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
