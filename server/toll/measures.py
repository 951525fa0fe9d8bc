"""The measures that a toll can be taken of, and the words and limits that all of the toll shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from fedtoll.scenarios.compare import FEW_SEEDS, LEVEL
from fedtoll.scenarios.errors import ScenarioError, nearest

__all__ = [
    "EVERYBODY",
    "FEWEST_POSITIVES",
    "FEWEST_RECORDS",
    "FEW_SEEDS",
    "LEVEL",
    "MEASURES",
    "RUN",
    "Measure",
    "ResultsLike",
    "folds_of",
    "known",
]

EVERYBODY = "(all)"
"""The name under which the groups table holds all test records together."""

FEWEST_RECORDS = 100
FEWEST_POSITIVES = 20

RUN = ["strategy", "mechanism", "epsilon", "seed"]
"""The columns that name one run, in every table of the results."""


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


class ResultsLike(Protocol):
    """What the toll and the report read of a results folder (see :mod:`fedtoll.server.results`)."""

    @property
    def folder(self) -> Path: ...  # noqa: D102
    @property
    def resolved(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def groups(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def clients(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def rounds(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def ledger(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def predictions(self) -> pd.DataFrame: ...  # noqa: D102


def known(measure: str) -> Measure:
    """Return a measure by its name.

    Raises
    ------
    ScenarioError
        If there is none, with the nearest name.
    """
    if measure not in MEASURES:
        raise ScenarioError(f"unknown measure {measure!r}{nearest(measure, MEASURES)}")
    return MEASURES[measure]


def folds_of(resolved: dict[str, Any]) -> int:
    """Return how many disjoint test sets the seeds go through: ``seed mod folds`` names a seed's one.

    A split that is not into folds counts as one, since its test records may repeat over seeds.
    """
    split = resolved.get("scenario", {}).get("split", {})
    return int(split["folds"]) if split.get("kind") == "folds" else 1
