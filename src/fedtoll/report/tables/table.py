"""What a table of the report is: columns that can be sorted, rows of cells, and the same as CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fedtoll.formatting import UNDEFINED, budget, count, interval, number, plus_minus

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a text that begins so


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and the number that its column is sorted by; without one, the text itself is."""

    text: str
    key: float | None = None

    @property
    def sort(self) -> str:
        """The sorting key as the page writes it; empty where there is none or it is undefined."""
        if self.key is None or math.isnan(self.key):
            return ""
        return f"{self.key:.6g}"


@dataclass(frozen=True)
class Column:
    """One column: its name, and whether it holds words (else numbers, at which sorting starts high)."""

    name: str
    words: bool = False


@dataclass(frozen=True)
class Row:
    """One row; its first cell heads it. ``too_few``: its group is too small for a claim."""

    cells: tuple[Cell, ...]
    too_few: bool = False
    everybody: bool = False


@dataclass(frozen=True)
class Table:
    """A table for the page.

    Parameters
    ----------
    id
        Its element on the page, and its file's name when it is downloaded.
    caption, note
        What stands above and beneath it.
    columns, rows
        Its content.
    csv
        The same and more at full precision, as the file that is downloaded.
    """

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    csv: str
    note: str = ""


def words(*names: str) -> tuple[Column, ...]:
    """Return columns of words."""
    return tuple(Column(name, words=True) for name in names)


def numbers(*names: str) -> tuple[Column, ...]:
    """Return columns of numbers."""
    return tuple(Column(name) for name in names)


def text(value: object) -> Cell:
    """Return a cell of words."""
    return Cell(str(value))


def figure(value: float, digits: int = 3) -> Cell:
    """Return a cell of one number."""
    return Cell(number(value, digits), value)


def mean(value: float, se: float, digits: int = 3) -> Cell:
    """Return a cell of a mean and its standard error; sorted by the mean."""
    return Cell(plus_minus(value, se, digits), value)


def within(low: float, high: float, digits: int = 3) -> Cell:
    """Return a cell of an interval; sorted by its lower end."""
    told = interval(low, high, digits)
    return Cell(UNDEFINED if told == "none" else told, low)


def counted(n: float, positives: float) -> Cell:
    """Return a cell of records and positives; of records alone where there are no positives."""
    told = count(n) if pd.isna(positives) else f"{count(n)} ({count(positives)})"
    return Cell(told, float(n))


def privacy(mechanism: str, epsilon: float) -> Cell:
    """Return a cell of a privacy budget; clip-only sorts above every ε, and ∞ above clip-only."""
    key = {"none": 2e300, "clip-only": 1e300}.get(mechanism, epsilon)
    return Cell(budget(mechanism, epsilon), key)


def csv(frame: pd.DataFrame, columns: Sequence[str] | None = None) -> str:
    r"""Write rows as CSV at eight digits; undefined is empty, and no text can run as a formula.

    Examples
    --------
    >>> csv(pd.DataFrame({"group": ["=1+1"], "toll": [0.1], "low": [float("nan")]}))
    "group,toll,low\n'=1+1,0.1,\n"
    """
    frame = frame[list(columns)] if columns is not None else frame
    safe = frame.map(_inert)
    return safe.to_csv(index=False, float_format="%.8g", lineterminator="\n")


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
