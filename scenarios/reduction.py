"""A fairness reduction beside the scenario's own strategies: a grid of models of one curator."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedtoll.scenarios.fields import Section

Constraint = Literal["demographic parity", "equalized odds"]

ACCURATE, FAIR = "grid: most accurate", "grid: least disparity"
"""What claims call the two models that are picked from a grid; they stand where a strategy's label does."""


class Reduction(Section):
    """A grid search over reweighted models (Agarwal et al. 2018, fairlearn's ``GridSearch``), in a setting.

    Each of ``points`` models is trained by DP-SGD at the *whole* ε, so the grid spends ``points`` times. Two
    are picked, on the training records: the most accurate, and the one of least disparity. Needs a partition
    of one client and a binary label. The groups of the scenario are the constraint's.
    """

    constraint: Constraint
    points: Annotated[int, Field(strict=True, ge=2, le=1000)] = 71
