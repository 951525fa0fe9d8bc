"""A fairness reduction that a setting adds to the scenario's strategies: a grid of models of one curator."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedtoll.scenarios.fields import Section

Constraint = Literal["demographic parity", "equalized odds"]

ACCURATE, FAIR = "grid: most accurate", "grid: least disparity"
"""The names of the two models picked from a grid, which claims use in place of a strategy's label."""


class Reduction(Section):
    """A grid search over reweighted models (Agarwal et al. 2018, fairlearn's ``GridSearch``).

    Each of the ``points`` models is trained by DP-SGD with the *whole* ε, so the grid as a whole spends
    ``points`` times as much. Two models are picked on the training records: the most accurate and the one
    with the least disparity. The constraint is about the scenario's groups. Needs a partition with one
    client and a binary label.
    """

    constraint: Constraint
    points: Annotated[int, Field(strict=True, ge=2, le=1000)] = 71
