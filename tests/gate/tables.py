"""Raw tables: CSV files that differ by one record, and which client holds which records.

The column ``site`` determines the clients. Moving a row from one site to another does not change which rows
train. So two files of equal length that differ in one row are neighbours for the site that loses a record
(remove) and for the site that gets one (add), and identical for all other sites. The public size of a site
is ⌊count / 2⌋ (two folds), however many records its training half has: site B has twice its public size, C a
fifth, E none.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedtoll.scenarios.data import SOURCES, Categorical, Numeric, Source
from fedtoll.scenarios.split import folds

SITES = {"A": (20, 21), "B": (40, 3), "C": (4, 41), "E": (0, 2), "F": (10, 4), "O": (1, 2), "Z": (1, 3)}
"""The numbers of training and test records of every client."""

SIZES = tuple(sum(halves) // 2 for halves in SITES.values())
"""The public sizes: 20, 21, 22, 1, 7, 1, 2."""

HELD = tuple(train for train, _ in SITES.values())
"""The number of training records of each client."""

ROWS = sum(sum(halves) for halves in SITES.values())
SEXES = ("F", "M")
LABELS = ("neg", "pos", "third")
EXTREME = 1e6

MOVES = {
    "outlier": "A",  # a record a million scales away
    "few": "C",  # one of 4 records, at a public size of 22
    "one": "O",  # the only record: the neighbour is empty
    "many": "B",  # one of 40 records, at a public size of 21
    "ordinary": "A",
}
"""By the name of a neighbour, the site that lacks one record of the whole table; site Z has one more."""


def path(classes: int, moved: str = "") -> Path:
    """Return the file of the whole table, or of one of the neighbours in ``MOVES``."""
    file = Path(folder()) / f"{classes}-{moved or 'whole'}.csv"
    if not file.exists():
        frame(classes, moved).to_csv(file, index=False)
    return file


def folder() -> str:
    """Return the folder of the gate's files."""
    return _folder().name


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fedtoll-gate-")


def frame(classes: int, moved: str = "") -> pd.DataFrame:
    """Return the records. Every row has a code of its own; x3 is 0 for all but the outlier."""
    rng = np.random.default_rng(7)
    sex, label = rng.integers(0, 2, ROWS), rng.integers(0, classes, ROWS)
    trains = folds(sex * classes + label, 2) != 0
    site = np.empty(ROWS, dtype=object)
    for half, rows in enumerate((np.flatnonzero(trains), np.flatnonzero(~trains))):
        site[rng.permutation(rows)] = np.repeat(list(SITES), [halves[half] for halves in SITES.values()])
    table = pd.DataFrame({
        "site": site,
        "sex": np.array(SEXES)[sex],
        "code": [f"c{i}" for i in range(ROWS)],
        "x1": rng.uniform(-1, 1, ROWS).round(3),
        "x2": rng.uniform(-1, 1, ROWS).round(3),
        "x3": 0.0,
        "y": np.array(LABELS)[label],
    })  # fmt: skip
    training = {s: np.flatnonzero(trains & (site == s)) for s in SITES}
    outlier = int(training["A"][0])
    table.loc[outlier, ["x1", "x3"]] = EXTREME
    if moved:
        row = outlier if moved == "outlier" else int(training[MOVES[moved]][-1])
        table.loc[row, "site"] = "Z"
        table.loc[row, ["x1", "x2", "x3"]] = 0.5, -0.5, 0.0
    return table


COLUMNS: dict[str, dict[str, Any]] = {
    "code": {"values": [f"c{i}" for i in range(ROWS)]},
    "x1": {"centre": 0.0, "scale": 1.0},
    "x2": {"low": -1.0, "high": 1.0},
    "x3": {"centre": 0.0, "scale": 1.0},
}
"""The public facts about the columns. Feature i of the first column indicates row i."""


def section(classes: int, moved: str, groups: tuple[str, ...], exclude: tuple[str, ...]) -> dict[str, Any]:
    """Return the section ``[data]``: a user's file, or a source for three classes (user files have two)."""
    common = {"groups": list(groups), "exclude": list(exclude)}
    file = path(classes, moved)
    if classes > 2:
        return {**common, "source": _source(classes, file).name}
    own = {
        "label": "y",
        "positive": "pos",
        "negative": ["neg"],
        "columns": COLUMNS,
        "attributes": {"site": {"values": list(SITES)}, "sex": {"values": list(SEXES)}},
    }
    return {**common, "file": str(file), "own": own}


@functools.cache
def _source(classes: int, file: Path) -> Source:
    return Source(
        name=f"gate-{file.stem}",
        title="Records of the gate",
        archive=None,
        read=lambda _: pd.read_csv(file),
        version=1,
        fingerprint="",
        content=lambda: file.stem,
        licence="",
        citation="",
        rows=0,
        label="y",
        positive=LABELS[classes - 1],
        classes=LABELS[:classes],
        columns=(
            Categorical("code", tuple(COLUMNS["code"]["values"])),
            Numeric("x1", 0.0, 1.0),
            Numeric.bounded("x2", -1.0, 1.0),
            Numeric("x3", 0.0, 1.0),
        ),
        counts={"site": dict.fromkeys(SITES, 0), "sex": dict.fromkeys(SEXES, 0)},
    )


def sources() -> dict[str, Source]:
    """Return the sources of fedtoll and of the gate."""
    files = [path(3, moved) for moved in ("", *MOVES)]
    return {**SOURCES, **{s.name: s for s in (_source(3, f) for f in files)}}
