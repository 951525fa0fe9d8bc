"""The table of comparisons between strategies, each with its verdict."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from fedtoll.formatting import count, p_value
from fedtoll.report.digest import Digest
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Cell, Row, Table
from fedtoll.scenarios.compare import LEVEL
from fedtoll.scenarios.measures import MEASURES

_VERDICTS = {"toll gap": ("narrower gap", "wider gap"), "disparity": ("less disparity", "more disparity")}


def comparison_table(digest: Digest) -> Table | None:
    """Return every comparison with its p after Holm and its verdict; ``None`` without comparisons."""
    frame = digest.comparisons
    if frame.empty:
        return None
    columns = (
        *t.text_columns("Strategy", "Baseline", "Quantity"),
        *t.number_columns("ε", "Seeds", "Difference", "95% interval", "p", "p after Holm"),
        *t.text_columns("Verdict"),
    )
    rows = tuple(_row(row) for _, row in frame.iterrows())
    caption = f"Comparisons of strategies, within seeds ({len(frame)})"
    return Table("comparisons", caption, columns, rows, t.csv(frame))


def _row(row: pd.Series[Any]) -> Row:
    cells = (
        t.text_cell(row["strategy"]),
        t.text_cell(row["baseline"]),
        t.text_cell(quantity_label(row)),
        t.budget_cell(row["mechanism"], row["epsilon"]),
        Cell(count(row["seeds"]), float(row["seeds"])),
        t.number_cell(row["difference"]),
        t.interval_cell(row["low"], row["high"]),
        Cell(p_value(row["p"]), row["p"]),
        Cell(p_value(row["p_holm"]), row["p_holm"]),
        t.text_cell(verdict(row)),
    )
    return Row(cells)


def quantity_label(row: pd.Series[Any]) -> str:
    """Return the name of what is compared: ``toll gap, log-loss`` or ``everybody’s utility, log-loss``."""
    quantity, measure = row["quantity"], MEASURES[row["measure"]].title
    if quantity == "utility":
        return f"everybody’s utility, {measure}"
    return f"{quantity}, {measure}" if quantity in {"toll gap", "disparity"} else str(quantity)


def verdict(row: pd.Series[Any]) -> str:
    """Return the verdict of a comparison's test, or why there was no test.

    A test may reject although the interval includes 0: then the strategies differ, but it is not shown that
    this quantity does. The verdict says so.
    """
    if row["reason"]:
        return f"no test: {row['reason']}"
    if math.isnan(row["p_holm"]):
        return "no test"
    if not row["significant"]:
        contradicts = row["p_holm"] <= LEVEL
        return "no significant difference" + (": interval includes 0" if contradicts else "")
    if row["quantity"] == "utility":
        return "better utility" if row["difference"] > 0 else "worse utility"
    lower, higher = _VERDICTS.get(row["quantity"], ("smaller difference", "larger difference"))
    return lower if row["difference"] < 0 else higher
