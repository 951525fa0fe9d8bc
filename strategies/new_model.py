"""The new model of a round, in the precision of the current one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.errors import DivergedError, RunError
from fedtoll.strategies.base import Arrays


def partly(current: Arrays, new: Sequence[NDArray[Any]], share: float) -> list[NDArray[Any]]:
    """Return the model that is this share of the way from the current model to the new one."""
    if share == 1:
        return list(new)
    return [
        (old + share * (array.astype(np.float64) - old)).astype(old.dtype)
        for old, array in zip(current, new, strict=True)
    ]


def like(current: Arrays, new: Sequence[Any], what: str) -> list[NDArray[np.floating]]:
    """Return ``new`` in the precision of ``current``; raise if it is not finite or its shapes differ."""
    expected = [array.shape for array in current]
    if (shapes := [np.shape(array) for array in new]) != expected:
        raise RunError(f"{what} of shapes {shapes} instead of {expected}")
    with np.errstate(over="ignore"):
        model = [np.asarray(array, dtype=old.dtype) for array, old in zip(new, current, strict=True)]
    if not all(np.isfinite(array).all() for array in model):
        raise DivergedError(f"{what} that is not finite")
    return model
