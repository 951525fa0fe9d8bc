"""A table of the report: sortable columns, rows of cells, and the CSV file to download."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fedtoll.formatting import UNDEFINED, budget, count, estimate, interval, number
from fedtoll.toll.intervals import half_width

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that starts with one of these


@dataclass(frozen=True)
class Cell:
    """A cell: its text and the number that its column is sorted by. Without a number, the text is the key."""

    text: str
    key: float | None = None

    @property
    def sort(self) -> str:
        """The sort key as the page writes it; empty if there is none or it is undefined."""
        if self.key is None or math.isnan(self.key):
            return ""
        return f"{self.key:.6g}"


@dataclass(frozen=True)
class Column:
    """A column: its name, and whether it holds text; the first click sorts numbers in descending order."""

    name: str
    is_text: bool = False


@dataclass(frozen=True)
class Row:
    """A row, headed by its first cell; ``too_few`` marks a group that is too small for a claim."""

    cells: tuple[Cell, ...]
    too_few: bool = False
    everybody: bool = False


@dataclass(frozen=True)
class Table:
    """A table for the page.

    Parameters
    ----------
    id
        The id of its element on the page, and part of the name of its CSV file.
    caption, note
        The texts above and below it.
    columns, rows
        Its content.
    csv
        The file to download: more columns, with eight digits.
    """

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    csv: str
    note: str = ""


def text_columns(*names: str) -> tuple[Column, ...]:
    """Return text columns."""
    return tuple(Column(name, is_text=True) for name in names)


def number_columns(*names: str) -> tuple[Column, ...]:
    """Return number columns."""
    return tuple(Column(name) for name in names)


def text_cell(value: object) -> Cell:
    """Return a text cell."""
    return Cell(str(value))


def number_cell(value: float, digits: int = 3) -> Cell:
    """Return a cell with a number."""
    return Cell(number(value, digits), value)


def estimate_cell(value: float, low: float, high: float, digits: int = 3) -> Cell:
    """Return a cell with a mean and its 95% interval, sorted by the mean."""
    return Cell(estimate(value, low, high, digits), value)


def mean_cell(value: float, se: float, seeds: float, digits: int = 3) -> Cell:
    """Return a cell with a mean over seeds and its 95% t interval, sorted by the mean."""
    half = float(half_width(se, seeds))
    return estimate_cell(value, value - half, value + half, digits)


def interval_cell(low: float, high: float, digits: int = 3) -> Cell:
    """Return a cell with an interval, sorted by its lower end."""
    text = interval(low, high, digits)
    return Cell(UNDEFINED if text == "none" else text, low)


def n_cell(n: float, positives: float) -> Cell:
    """Return a cell with the number of records and, if known, of positives."""
    text = count(n) if pd.isna(positives) else f"{count(n)} ({count(positives)})"
    return Cell(text, float(n))


def budget_cell(mechanism: str, epsilon: float) -> Cell:
    """Return a cell with a privacy budget; clip-only sorts above every ε, and ∞ above clip-only."""
    key = {"none": 2e300, "clip-only": 1e300}.get(mechanism, epsilon)
    return Cell(budget(mechanism, epsilon), key)


def csv(frame: pd.DataFrame, columns: Sequence[str] | None = None) -> str:
    r"""Return rows as CSV with eight digits; undefined is empty, and no cell can run as a formula.

    Examples
    --------
    >>> csv(pd.DataFrame({"group": ["=1+1"], "toll": [0.1], "low": [float("nan")]}))
    "group,toll,low\n'=1+1,0.1,\n"
    """
    frame = frame[list(columns)] if columns is not None else frame
    safe = frame.map(_escape_formula)
    return safe.to_csv(index=False, float_format="%.8g", lineterminator="\n")


def _escape_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
