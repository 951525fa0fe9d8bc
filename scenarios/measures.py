"""The per-group measures of utility, as scenarios, claims and the toll name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from fedtoll.scenarios.errors import ScenarioError, nearest

EVERYBODY = "(all)"
"""The name of the row for all test records in the groups table."""

RUN = ["strategy", "mechanism", "epsilon", "seed"]
"""The columns that identify one run, in every table of the results."""


@dataclass(frozen=True)
class Measure:
    """One per-group measure.

    Parameters
    ----------
    name
        Its column in the groups table.
    title
        Its name for people.
    higher_is_better
        Whether a greater value is a greater utility.
    unit
        Its unit, if it has one.
    of
        The denominator of a *rate*: ``"n"``, ``"positives"`` or ``"negatives"``; ``""`` for a measure that is
        not a proportion of records.
    """

    name: str
    title: str
    higher_is_better: bool
    unit: str = ""
    of: str = ""

    @property
    def sign(self) -> int:
        """The factor, +1 or -1, that turns the measure into a utility (higher is better)."""
        return 1 if self.higher_is_better else -1


MEASURES: dict[str, Measure] = {
    m.name: m
    for m in (
        Measure("log_loss", "log-loss", False, "nats"),
        Measure("tpr", "true-positive rate", True, of="positives"),
        Measure("accuracy", "accuracy", True, of="n"),
        Measure("balanced_accuracy", "balanced accuracy", True),
        Measure("auroc", "area under the ROC curve", True),
        Measure("fpr", "false-positive rate", False, of="negatives"),
    )
}
"""The measures that have a toll; log-loss comes first because it resolves differences in small groups."""


def measure_named(measure: str) -> Measure:
    """Return the measure of a name.

    Raises
    ------
    ScenarioError
        If there is no such measure; the line suggests the nearest name.
    """
    if not isinstance(measure, str) or measure not in MEASURES:
        raise ScenarioError(f"unknown measure {measure!r}{nearest(str(measure), MEASURES)}")
    return MEASURES[measure]


VALUED = ("selection_rate", "collapsed", "below_majority")
"""Measures that a claim may use although they are not utilities: they have a value but no toll."""

FLAGS = ("collapsed", "below_majority")
"""The measures that are 0 or 1; their mean is a share of seeds."""


def _utility(name: str) -> str:
    if name not in MEASURES:
        raise ValueError(f"unknown{nearest(name, MEASURES)}")
    return name


def _measure(name: str) -> str:
    if name not in MEASURES and name not in VALUED:
        raise ValueError(f"unknown{nearest(name, [*MEASURES, *VALUED])}")
    return name


UtilityName = Annotated[str, AfterValidator(_utility)]
"""The name of a measure that has a toll, as a value in a scenario file."""

MeasureName = Annotated[str, AfterValidator(_measure)]
"""The name of any measure, as a value in a scenario file."""
