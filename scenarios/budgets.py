"""Which mechanism a privacy budget of a scenario means, and which budget a mechanism has."""

from __future__ import annotations

import math
from typing import Literal

from fedtoll.scenarios.fields import CLIP_ONLY

Mechanism = Literal["none", "clip-only", "dp-sgd"]
"""``none``: neither clipping nor noise; ``clip-only``: clipping, still ε = ∞; ``dp-sgd``: both."""


def mechanism_of(epsilon: float | str) -> Mechanism:
    """Return the mechanism of a privacy budget.

    Examples
    --------
    >>> [mechanism_of(epsilon) for epsilon in (math.inf, "clip-only", 0.5)]
    ['none', 'clip-only', 'dp-sgd']
    """
    return "clip-only" if epsilon == CLIP_ONLY else "none" if epsilon == math.inf else "dp-sgd"


def budget_of(mechanism: str, epsilon: float) -> float | Literal["clip-only"]:
    """Return the privacy budget that a scenario states for a mechanism: what ``mechanism_of`` takes.

    Examples
    --------
    >>> budget_of("none", math.inf), budget_of("clip-only", math.inf), budget_of("dp-sgd", 0.5)
    (inf, 'clip-only', 0.5)
    """
    return "clip-only" if mechanism == CLIP_ONLY else math.inf if mechanism == "none" else float(epsilon)
