"""Encode and decode Flower's form of a NumPy array without NumPy's file parser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

STYPE = "numpy.ndarray"
"""Flower's name for an array in NumPy's file format."""


def encoded(parameters: Sequence[NDArray[Any]]) -> ArrayRecord:
    """Return ``ArrayRecord(parameters)`` of C-ordered arrays, computed faster.

    Examples
    --------
    >>> parameters = [np.arange(6.0).reshape(2, 3), np.float32([1])]
    >>> encoded(parameters) == ArrayRecord(parameters)
    True
    """
    record = ArrayRecord()
    for i, array in enumerate(parameters):
        head = _header(array.shape, array.dtype)
        record[str(i)] = Array(str(array.dtype), array.shape, STYPE, head + array.tobytes())
    return record


def decoded(array: Array, shape: tuple[int, ...], precision: np.dtype[Any]) -> NDArray[Any]:
    """Return the values of an array whose bytes have exactly the expected header and length.

    ``np.load`` is ten times slower and ignores bytes after the last number.

    Raises
    ------
    ValueError
        If the array has another shape, dtype, type, length or header.
    """
    if (array.dtype, tuple(array.shape)) != (str(precision), shape):
        raise ValueError(f"{array.dtype}{tuple(array.shape)}, not {precision}{shape}")
    if array.stype != STYPE:
        raise ValueError(f"a {array.stype!r}, not a {STYPE!r}")
    head = _header(shape, precision)
    expected = len(head) + math.prod(shape) * precision.itemsize
    if len(array.data) != expected:
        raise ValueError(f"{len(array.data)} bytes, not {expected}")
    if not array.data.startswith(head):
        raise ValueError(f"its header is not that of {precision}{shape}")
    return np.frombuffer(array.data, precision, offset=len(head)).reshape(shape)


@lru_cache(maxsize=256)
def _header(shape: tuple[int, ...], precision: np.dtype[Any]) -> bytes:
    np.save(buffer := BytesIO(), np.empty(shape, precision))
    return buffer.getvalue()[: -math.prod(shape) * precision.itemsize or None]
