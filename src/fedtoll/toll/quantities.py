"""Differences between groups that comparisons test: each a maximum minus minimum of seed-mean values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll.intervals import Codes, Floats
from fedtoll.toll.tolls import ROW

COLUMNS: dict[str, tuple[str, ...]] = {
    "toll gap": ("toll",),
    "disparity": ("utility",),
    "demographic parity difference": ("selection_rate",),
    "equalised odds difference": ("tpr", "fpr"),
}
"""The values that each quantity compares between groups; of several, the largest difference counts."""

BINARY = {"demographic parity difference", "equalised odds difference"}
"""The quantities that need exactly two classes."""


@dataclass(frozen=True)
class Sides:
    """The values of two strategies in the seeds and groups that both have.

    Parameters
    ----------
    ours, baseline
        Shape ``[seeds, columns]``, without NaN.
    block
        Shape ``[columns]``. Only columns of one block are compared with each other.
    """

    ours: Floats
    baseline: Floats
    block: Codes


def sides(
    quantity: str, ours: pd.DataFrame, baseline: pd.DataFrame, too_few: set[tuple[object, ...]]
) -> Sides | str:
    """Return what a quantity compares, or why it cannot be compared.

    Parameters
    ----------
    quantity
        A key of :data:`COLUMNS`.
    ours, baseline
        Rows of :func:`~fedtoll.toll.tolls.paired`, of one strategy and ε each.
    too_few
        The groups that are left out, by :data:`~fedtoll.toll.tolls.ROW`.

    Returns
    -------
    Sides or str
        Groups that are undefined in every seed are left out, and so are seeds in which a value is undefined.
    """
    parts = [part[part["group"] != EVERYBODY] for part in (ours, baseline)]
    for part in parts:
        if quantity == "toll gap" and part["reference"].isna().all():
            return f"{part['strategy'].iloc[0]}: no run at ε = ∞ with the same seed to take tolls from"
        if quantity in BINARY and part["positives"].isna().all():
            return f"{quantity}: defined for two classes only"
    parts = [part[[key not in too_few for key in map(tuple, part[ROW].to_numpy())]] for part in parts]
    if quantity == "demographic parity difference":
        parts = [part.assign(selection_rate=selection_rates(part)) for part in parts]
    columns = COLUMNS[quantity]
    tables = [
        part.pivot(index="seed", columns="group", values=list(columns)).dropna(axis=1, how="all")  # noqa: PD010
        for part in parts
    ]
    common = tables[0].columns.intersection(tables[1].columns, sort=False)
    block = pd.Categorical(common.get_level_values(0), columns).codes.astype(np.int64)
    if not len(block) or np.bincount(block, minlength=len(columns)).min() < 2:
        return "fewer than two groups with enough records"
    a, b = (table[common].dropna() for table in tables)
    seeds = a.index.intersection(b.index)
    if seeds.empty:
        return f"no seed in which the {quantity} is defined for both"
    return Sides(a.loc[seeds].to_numpy(dtype=float), b.loc[seeds].to_numpy(dtype=float), block)


def selection_rates(rows: pd.DataFrame) -> pd.Series[float]:
    """Return the share of each row's records that are predicted positive, from its TPR and FPR."""
    positives = rows["positives"].astype(float)
    negatives = rows["n"].astype(float) - positives
    selected = (rows["tpr"] * positives).where(positives > 0, 0.0) + (rows["fpr"] * negatives).where(
        negatives > 0, 0.0
    )
    return (selected / rows["n"]).where(rows["n"] > 0)
