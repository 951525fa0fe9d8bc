"""The declared comparisons of strategies, each with its verdict in words."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from fedtoll.formatting import chance, count
from fedtoll.report.digest import Digest
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Cell, Row, Table
from fedtoll.scenarios.measures import MEASURES


def comparison_table(digest: Digest) -> Table | None:
    """Return every comparison of the family with p after Holm and verdict; ``None`` if there is none."""
    frame = digest.comparisons
    if frame.empty:
        return None
    columns = (
        *t.words("Strategy", "Baseline", "Of"),
        *t.numbers("ε", "Seeds", "Difference", "95% interval", "p", "p after Holm"),
        *t.words("Verdict"),
    )
    rows = tuple(_row(row) for _, row in frame.iterrows())
    caption = f"Strategies compared within seeds: a family of {len(frame)}"
    return Table("comparisons", caption, columns, rows, t.csv(frame))


def _row(row: pd.Series[Any]) -> Row:
    cells = (
        t.text(row["strategy"]),
        t.text(row["baseline"]),
        t.text(what(row)),
        t.privacy(row["mechanism"], row["epsilon"]),
        Cell(count(row["seeds"]), float(row["seeds"])),
        t.figure(row["difference"]),
        t.within(row["low"], row["high"]),
        Cell(chance(row["p"]), row["p"]),
        Cell(chance(row["p_holm"]), row["p_holm"]),
        t.text(verdict(row)),
    )
    return Row(cells)


def what(row: pd.Series[Any]) -> str:
    """Name what is compared: ``toll gap, log-loss`` or ``everybody’s utility, log-loss``."""
    measure = MEASURES[row["measure"]].title
    return f"toll gap, {measure}" if row["quantity"] == "toll gap" else f"everybody’s utility, {measure}"


def verdict(row: pd.Series[Any]) -> str:
    """Say in words what a comparison found, no surer than its test; the reason where there is none."""
    if row["reason"]:
        return f"no test: {row['reason']}"
    if math.isnan(row["p_holm"]):
        return "no test"
    if not row["significant"]:
        return "no significant difference"
    if row["quantity"] == "toll gap":
        return "narrower gap" if row["difference"] < 0 else "wider gap"
    return "better utility" if row["difference"] > 0 else "worse utility"
