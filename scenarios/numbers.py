"""Numbers as JSON and TOML hold them: infinity is the word ``"inf"``, undefined is null."""

from __future__ import annotations

import math
from typing import Any


def write_number(value: Any) -> Any:
    """Return a number as JSON can hold it; anything else is returned as it is.

    Examples
    --------
    >>> [write_number(value) for value in (0.5, math.inf, math.nan, "clip-only")]
    [0.5, 'inf', None, 'clip-only']
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    return value


def read_number(value: Any) -> Any:
    """Return what :func:`write_number` wrote of infinity; anything else is returned as it is.

    Examples
    --------
    >>> [read_number(value) for value in (0.5, "inf", "clip-only")]
    [0.5, inf, 'clip-only']
    """
    return math.inf if value == "inf" else value


def write_numbers(value: Any) -> Any:
    """Return nested dicts and lists with every number as :func:`write_number` returns it.

    Examples
    --------
    >>> write_numbers({"epsilon": math.inf, "rows": (1, math.nan)})
    {'epsilon': 'inf', 'rows': [1, None]}
    """
    if isinstance(value, dict):
        return {key: write_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [write_numbers(item) for item in value]
    return write_number(value)
