"""The measures of a group's utility, each defined once: for scenarios, claims and the toll."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from fedtoll.scenarios.errors import ScenarioError, nearest

EVERYBODY = "(all)"
"""The name under which the groups table holds all test records together."""

RUN = ["strategy", "mechanism", "epsilon", "seed"]
"""The columns that identify one run, in every table of the results."""


@dataclass(frozen=True)
class Measure:
    """One per-group measure: its column, its title and which way is better.

    Parameters
    ----------
    of
        What a *rate* divides by: ``"n"``, ``"positives"`` or ``"negatives"``; ``""`` where the measure is no
        proportion of records.
    """

    name: str
    title: str
    higher_is_better: bool
    unit: str = ""
    of: str = ""

    @property
    def sign(self) -> int:
        """Return +1 or -1, which turns the measure into a utility (higher is better)."""
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
"""The measures that a toll can be taken of, log-loss first: it is the one that small groups resolve."""


def measure_named(measure: str) -> Measure:
    """Return a measure by its name.

    Raises
    ------
    ScenarioError
        If there is none, with the nearest name.
    """
    if measure not in MEASURES:
        raise ScenarioError(f"unknown measure {measure!r}{nearest(measure, MEASURES)}")
    return MEASURES[measure]


VALUED = ("selection_rate", "collapsed", "below_majority")
"""Measures that a claim can be about although they are no utility: they have a value and no toll."""

FLAGS = ("collapsed", "below_majority")
"""The measures that are 0 or 1: their mean is a share of seeds."""


def _utility(name: str) -> str:
    if name not in MEASURES:
        raise ValueError(f"unknown{nearest(name, MEASURES)}")
    return name


def _measure(name: str) -> str:
    if name not in MEASURES and name not in VALUED:
        raise ValueError(f"unknown{nearest(name, [*MEASURES, *VALUED])}")
    return name


UtilityName = Annotated[str, AfterValidator(_utility)]
"""The name of a measure that a toll can be taken of, as a value of a scenario file."""

MeasureName = Annotated[str, AfterValidator(_measure)]
"""The name of any measure, as a value of a scenario file."""
