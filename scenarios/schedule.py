"""Schedules of the server's step: how much of the aggregated update it takes in each round."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import AfterValidator

CONSTANT = "constant"
_INVERSE = re.compile(r"inverse-time\((\d+(?:\.\d+)?)\)")


def _known(value: str) -> str:
    if value in {CONSTANT, "cosine"} or ((match := _INVERSE.fullmatch(value)) and float(match[1]) > 0):
        return value
    raise ValueError(
        "must be 'constant', 'cosine' or 'inverse-time(τ)' with τ > 0 rounds, as inverse-time(5)"
    )


Schedule = Annotated[str, AfterValidator(_known)]
"""``constant``, ``cosine`` or ``inverse-time(τ)``."""


def step(schedule: str, round: int, rounds: int) -> float:
    """Return the share of the aggregated update that the server takes in a round; 1 in the first.

    - ``constant``: 1
    - ``inverse-time(τ)``: 1 / (1 + (t − 1) / τ)
    - ``cosine``: (1 + cos(π (t − 1) / T)) / 2

    Parameters
    ----------
    schedule
        The schedule.
    round, rounds
        The round t, from 1, of T.

    Examples
    --------
    >>> [step("inverse-time(5)", t, 30) for t in (1, 6, 11)]
    [1.0, 0.5, 0.3333333333333333]
    >>> [round(step("cosine", t, 4), 3) for t in (1, 3)]
    [1.0, 0.5]
    """
    if schedule == CONSTANT:
        return 1.0
    if schedule == "cosine":
        return (1 + math.cos(math.pi * (round - 1) / rounds)) / 2
    match = _INVERSE.fullmatch(schedule)
    assert match is not None
    return 1 / (1 + (round - 1) / float(match[1]))
