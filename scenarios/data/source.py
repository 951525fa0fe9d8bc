"""A data source: where its records come from, and every public fact that turns them into a table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CANONICAL_TEST = "canonical_test"
"""The frame's boolean column that marks the rows of the source's own test set, where it has one."""

TRANSFORMS: dict[str, Any] = {"identity": np.asarray, "log1p": np.log1p}
"""What may be done to a numeric column before it is centred and scaled."""


@dataclasses.dataclass(frozen=True)
class Numeric:
    """The public facts of a numeric column: it becomes one feature, (f(x) − centre) / scale.

    Parameters
    ----------
    name
        The column.
    centre, scale
        In the units of the transformed column; ``scale`` is positive.
    transform
        ``f``: ``identity``, or ``log1p`` for amounts of money.
    low, high
        The least and the greatest value that the column can hold, in its own
        units. A record outside them is an error.

    Examples
    --------
    >>> Numeric.bounded("age", 17, 90)
    Numeric(name='age', centre=53.5, scale=36.5, transform='identity', low=17, high=90)
    """

    name: str
    centre: float
    scale: float
    transform: Literal["identity", "log1p"] = "identity"
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.transform not in TRANSFORMS:
            raise ValueError(f"column {self.name!r}: no transform {self.transform!r}")
        if not (self.scale > 0 and math.isfinite(self.scale) and math.isfinite(self.centre)):
            raise ValueError(f"column {self.name!r}: centre must be finite and scale positive")

    @classmethod
    def bounded(
        cls, name: str, low: float, high: float, transform: Literal["identity", "log1p"] = "identity"
    ) -> Numeric:
        """Declare a column by its bounds alone, which are mapped to −1 and 1."""
        bottom, top = (float(TRANSFORMS[transform](bound)) for bound in (low, high))
        return cls(name, (bottom + top) / 2, (top - bottom) / 2, transform, low, high)


@dataclasses.dataclass(frozen=True)
class Categorical:
    """The public vocabulary of a text column: it becomes one 0/1 feature for every value."""

    name: str
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Archive:
    """An archive on the Python package index, pinned by its hash.

    Parameters
    ----------
    project, version
        Its name and version on the index.
    sha256
        Of its file, in hex.
    build
        Whether it is a source distribution, which is not a wheel before it is built.
    python
        A version of Python that it admits, where it does not admit the running one; its code never runs.
    """

    project: str
    version: str
    sha256: str
    build: bool = False
    python: str = ""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """One data source. It is all declaration: importing it loads neither records nor pandas.

    Parameters
    ----------
    name
        What a scenario calls it; also the start of its file's name in the cache.
    title
        One line for people.
    archive
        The hash-pinned archive that holds the records; ``None`` if ``read`` needs none.
    read
        Maps the folder of the unpacked archive to a frame: every column of
        ``columns``, ``label`` and ``counts``, text columns without missing
        values, and perhaps the boolean ``canonical_test``. It must be pure.
    version
        Raised whenever ``read`` changes what it returns.
    fingerprint
        sha256 of the frame that ``read`` returns
        (:func:`fedtoll.scenarios.data.archive.fingerprint`), compared whenever it is loaded: neither a
        damaged file nor another version of a library can change the records unnoticed. Empty if it is
        not known in advance.
    licence, citation
        Of the records.
    rows
        How many records there are; 0 where it is not declared, and then no count is.
    label, positive, classes
        The label's column, its positive value, and all its values; of a binary
        label the positive one is last.
    columns
        The public facts of every feature column.
    counts
        For each sensitive attribute, in order, its groups and how many records
        each has. An attribute is a column of the same name.
    bins
        For an attribute that is a number, the greatest value of every group but the last.
    traps
        What misleads about these records, one sentence each.
    content
        For a source without a fingerprint: returns a string that changes with the records and takes the
        place of the fingerprint in :attr:`checksum`.
    is_cached
        For a source that fetches its own records, from outside the package index: returns whether they are
        in the cache.
    """

    name: str
    title: str
    archive: Archive | None
    read: Callable[[Path], pd.DataFrame]
    version: int
    fingerprint: str
    licence: str
    citation: str
    rows: int
    label: str
    positive: str
    classes: tuple[str, ...]
    columns: tuple[Numeric | Categorical, ...]
    counts: Mapping[str, Mapping[str, int]]
    bins: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    traps: tuple[str, ...] = ()
    content: Callable[[], str] | None = None
    is_cached: Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        if self.positive not in self.classes or (len(self.classes) == 2 and self.classes[1] != self.positive):
            raise ValueError(f"source {self.name!r}: {self.positive!r} must be the last of {self.classes}")
        for attribute, edges in self.bins.items():
            if len(self.counts.get(attribute, ())) != len(edges) + 1 or list(edges) != sorted(set(edges)):
                raise ValueError(f"source {self.name!r}: the bins of {attribute!r} do not match its groups")
        for attribute, groups in self.counts.items():
            if sum(groups.values()) != self.rows:
                raise ValueError(f"source {self.name!r}: the counts of {attribute!r} do not add up to rows")

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        """The public names of the groups of every sensitive attribute."""
        return {attribute: tuple(groups) for attribute, groups in self.counts.items()}

    @property
    def checksum(self) -> str:
        """sha256 (64 hex digits) of everything that determines the table.

        Two sources of the same checksum give the same table to the last bit;
        titles, citations and traps do not count.
        """
        facts = {
            "name": self.name,
            "archive": self.archive and dataclasses.asdict(self.archive),
            "version": self.version,
            "fingerprint": self.content() if self.content else self.fingerprint,
            "label": self.label,
            "classes": self.classes,
            "columns": [[type(column).__name__, dataclasses.asdict(column)] for column in self.columns],
            "attributes": list(self.attributes.items()),
            "bins": {attribute: list(edges) for attribute, edges in self.bins.items()},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
