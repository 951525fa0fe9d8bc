"""Raw tables: CSV files that differ by one record, and who holds what of them.

One column, ``site``, makes the clients. Which rows train does not change when a row goes from one site to
another, so two files of the same length whose one row differs are neighbours for the site that loses it
(remove) and for the site that gets another (add); for all others they are the same. The public size of a
site is ⌊count / 2⌋ (two folds), whatever its training half holds: site B holds twice as many records as
are declared, C a fifth, E none.
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
"""Every client's records that train, and those that test."""

SIZES = tuple(sum(halves) // 2 for halves in SITES.values())
"""The public sizes: 20, 21, 22, 1, 7, 1, 2."""

HELD = tuple(train for train, _ in SITES.values())
"""How many records each client holds."""

ROWS = sum(sum(halves) for halves in SITES.values())
SEXES = ("F", "M")
LABELS = ("neg", "pos", "third")
EXTREME = 1e6

MOVES = {
    "outlier": "A",  # a record a million scales away
    "few": "C",  # of 4 records where 22 are declared
    "one": "O",  # of the only one: the neighbour is empty
    "many": "B",  # of 40 records where 21 are declared
    "ordinary": "A",
}
"""What distinguishes a neighbour from the whole table: a record that is not at this site but another at Z."""


def path(classes: int, moved: str = "") -> Path:
    """The file of a table: whole, or the neighbour without one record of ``MOVES``."""
    file = Path(_folder().name) / f"{classes}-{moved or 'whole'}.csv"
    if not file.exists():
        frame(classes, moved).to_csv(file, index=False)
    return file


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fedtoll-gate-")


def frame(classes: int, moved: str = "") -> pd.DataFrame:
    """The records. Every row has a code of its own; x3 is 0 but for the outlier."""
    rng = np.random.default_rng(7)
    sex, label = rng.integers(0, 2, ROWS), rng.integers(0, classes, ROWS)
    trains = folds(sex * classes + label, 2) != 0
    site = np.empty(ROWS, dtype=object)
    for half, rows in enumerate((np.flatnonzero(trains), np.flatnonzero(~trains))):
        site[rng.permutation(rows)] = np.repeat(list(SITES), [halves[half] for halves in SITES.values()])
    made = pd.DataFrame({
        "site": site,
        "sex": np.array(SEXES)[sex],
        "code": [f"c{i}" for i in range(ROWS)],
        "x1": rng.uniform(-1, 1, ROWS).round(3),
        "x2": rng.uniform(-1, 1, ROWS).round(3),
        "x3": 0.0,
        "y": np.array(LABELS)[label],
    })  # fmt: skip
    of = {s: np.flatnonzero(trains & (site == s)) for s in SITES}
    outlier = int(of["A"][0])
    made.loc[outlier, ["x1", "x3"]] = EXTREME
    if moved:
        row = outlier if moved == "outlier" else int(of[MOVES[moved]][-1])
        made.loc[row, "site"] = "Z"
        made.loc[row, ["x1", "x2", "x3"]] = 0.5, -0.5, 0.0
    return made


COLUMNS: dict[str, dict[str, Any]] = {
    "code": {"values": [f"c{i}" for i in range(ROWS)]},
    "x1": {"centre": 0.0, "scale": 1.0},
    "x2": {"low": -1.0, "high": 1.0},
    "x3": {"centre": 0.0, "scale": 1.0},
}
"""The public facts: of the first column, feature i is that of row i."""


def section(classes: int, moved: str, groups: tuple[str, ...], exclude: tuple[str, ...]) -> dict[str, Any]:
    """The section ``[data]``: a file of one's own; with three classes a source, for such files have two."""
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
    """fedtoll's sources, and those of the gate beside them."""
    files = [path(3, moved) for moved in ("", *MOVES)]
    return {**SOURCES, **{s.name: s for s in (_source(3, f) for f in files)}}
