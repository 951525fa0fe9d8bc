"""The limits that the whole toll shares, and what it reads of a results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from fedtoll.scenarios.compare import FEW_SEEDS, LEVEL, fedavg_label

__all__ = [
    "FEWEST_POSITIVES",
    "FEWEST_RECORDS",
    "FEW_SEEDS",
    "LEVEL",
    "ResultsLike",
    "folds_of",
    "price_reference",
    "strategy_names",
]

FEWEST_RECORDS = 100
FEWEST_POSITIVES = 20


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


def folds_of(resolved: dict[str, Any]) -> int:
    """Return how many disjoint test sets the seeds go through: ``seed mod folds`` names a seed's one.

    A split that is not into folds counts as one, since its test records may repeat over seeds.
    """
    split = resolved.get("scenario", {}).get("split", {})
    return int(split["folds"]) if split.get("kind") == "folds" else 1


def strategy_names(resolved: dict[str, Any]) -> dict[str, str]:
    """Return the name (entry point or import path) of every strategy of a scenario, by its label."""
    specs = resolved.get("scenario", {}).get("strategies", [])
    return {str(s.get("label", s["name"])): str(s["name"]) for s in specs}


def price_reference(resolved: dict[str, Any]) -> str | None:
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
