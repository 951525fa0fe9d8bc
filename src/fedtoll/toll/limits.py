"""Limits shared by all toll computations, and what they read from a results folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from fedtoll.scenarios.compare import FEW_SEEDS, LEVEL, fedavg_label

__all__ = [
    "FEWEST_OF_CLASS",
    "FEWEST_RECORDS",
    "FEW_SEEDS",
    "LEVEL",
    "ResultsLike",
    "folds_of",
    "price_reference",
    "strategy_names",
    "too_few",
]

FEWEST_RECORDS = 100
"""A group with fewer test records is marked as having too few for a claim."""

FEWEST_OF_CLASS = 20
"""A group with fewer test records of its rarer class, positive or negative, has too few for a claim, too."""


def too_few(n: Any, positives: Any) -> Any:
    """Return whether a group has too few test records for a claim, elementwise.

    Parameters
    ----------
    n
        Test records.
    positives
        Positive ones among them; NaN with more than two classes, where only ``n`` counts.

    Examples
    --------
    >>> too_few(500, 12), too_few(500, 488), too_few(500, 20), too_few(500, float("nan"))
    (True, True, False, False)
    """
    return (n < FEWEST_RECORDS) | (positives < FEWEST_OF_CLASS) | (n - positives < FEWEST_OF_CLASS)


class ResultsLike(Protocol):
    """What the toll and the report read from a results folder (see :mod:`fedtoll.server.results`)."""

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


def folds_of(resolved: dict[str, Any]) -> int:
    """Return the number of disjoint test sets; a seed uses the test set ``seed mod folds``.

    A split without folds counts as one set, because its test records may repeat over seeds.
    """
    split = resolved.get("scenario", {}).get("split", {})
    return int(split["folds"]) if split.get("kind") == "folds" else 1


def strategy_names(resolved: Mapping[str, Any]) -> dict[str, str]:
    """Return the name (entry point or import path) of every strategy of a scenario, by its label."""
    specs = resolved.get("scenario", {}).get("strategies", [])
    return {str(s.get("label", s["name"])): str(s["name"]) for s in specs}


def price_reference(resolved: Mapping[str, Any]) -> str | None:
    """Return the label of the strategy that prices refer to: fedtoll's own FedAvg.

    Parameters
    ----------
    resolved
        The content of ``resolved.json``.

    Returns
    -------
    str or None
        ``None`` if the scenario does not run FedAvg: then prices are undefined.

    Examples
    --------
    >>> price_reference({"scenario": {"strategies": [{"name": "mine.py:fedavg", "label": "fedavg"}]}})
    """
    return fedavg_label(strategy_names(resolved))
