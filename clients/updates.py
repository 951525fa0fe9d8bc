"""What a client sends of its update if clients are the unit of privacy: clipped, with its share of noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.clients.engines.base import Task
from fedtoll.clients.failures import RejectedError
from fedtoll.clients.noise import noised_array
from fedtoll.scenarios.client_unit import bit_share
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.streams import Purpose, stream

CLIP = "update_clip"
"""The instruction with the clip of a round, if it is adaptive."""

BIT = "within_clip"
"""The metric with the bit of the adaptive clip: 1/2 if the update was within it, −1/2 if not, and noise."""

Arrays = list[NDArray[np.floating]]


def clip(run: Run, instructions: Mapping[str, Any]) -> float | None:
    """Return the bound of a client's update in a round; ``None`` if records are the unit, or without clip.

    Raises
    ------
    RejectedError
        If the instruction is not a number greater than 0, or the run's clip is fixed.
    """
    if run.unit == "record" or run.clip is None:
        if CLIP in instructions:
            raise RejectedError(f"{CLIP}: the run does not clip updates")
        return None
    if run.adaptive_clip is None:
        if CLIP in instructions:
            raise RejectedError(f"{CLIP}: the clip of the run is fixed")
        return run.clip
    bound = float(instructions.get(CLIP, run.clip))
    if not 0 < bound < math.inf:
        raise RejectedError(f"{CLIP} = {bound}: not a number greater than 0")
    return bound


def sent(run: Run, task: Task, parameters: Arrays) -> tuple[Arrays, dict[str, float]]:
    """Return the weights that a client sends, and the bit of the adaptive clip as metrics.

    They are the broadcast weights plus the clipped update and the client's share of the noise. An update that
    is not finite counts as 0, so that one client can neither abort nor dominate the round. A client without
    records sends its share of the noise alone: neither update nor bit.
    """
    bound = task.update_clip
    if bound is None:
        return parameters, {}
    update = [new.astype(np.float64) - old for new, old in zip(parameters, task.parameters, strict=True)]
    clipped, norm = to_norm(update, bound)
    share = (task.plan.noise_share or 0.0) * bound
    if share != 0:
        rng = stream(run.noise_seed, Purpose.UPDATE, task.plan.id, task.round)
        clipped = [noised_array(array, rng.standard_normal(array.shape), share) for array in clipped]
    new = [(old + array).astype(old.dtype) for old, array in zip(task.parameters, clipped, strict=True)]
    if run.adaptive_clip is None:
        return new, {}
    bit, sd = (0.5 if norm <= bound else -0.5) if len(task.labels_N) else 0.0, bit_share(run)
    if sd != 0:
        rng = stream(run.noise_seed, Purpose.UPDATE_BIT, task.plan.id, task.round)
        bit = float(noised_array(np.array([bit]), rng.standard_normal(1), sd)[0])
    return new, {BIT: bit, f"{BIT}.sd": sd}


def to_norm(update: Sequence[NDArray[np.float64]], bound: float) -> tuple[Arrays, float]:
    """Return an update scaled down to a norm over all its parameters, and the norm that it had.

    Examples
    --------
    >>> to_norm([np.array([3.0]), np.array([[4.0]])], 1.0)
    ([array([0.6]), array([[0.8]])], 5.0)
    >>> to_norm([np.array([np.nan])], 1.0)
    ([array([0.])], inf)
    """
    with np.errstate(over="ignore", invalid="ignore"):
        norm = math.sqrt(sum(float(np.square(array).sum()) for array in update))
    if not math.isfinite(norm):
        return [np.zeros_like(array) for array in update], math.inf
    factor = min(1.0, bound / norm) if norm else 1.0
    return [array * factor for array in update], norm
