"""Data sources: every table that a scenario can name.

To add a source, write one file beside ``adult.py`` and name its
:class:`~fedtoll.scenarios.data.declaration.Source` in :data:`SOURCES`.
Looking a source up loads neither pandas nor records.

Examples
--------
>>> source("adult").rows
48842
>>> source("adult").attributes["sex"]
('Male', 'Female')
"""

from __future__ import annotations

import functools

from fedtoll.scenarios.data import archive
from fedtoll.scenarios.data.adult import ADULT
from fedtoll.scenarios.data.declaration import Categorical, Numeric, Source
from fedtoll.scenarios.data.table import Attribute, Table, encode
from fedtoll.scenarios.errors import ScenarioError, nearest

__all__ = ["SOURCES", "Attribute", "Categorical", "Numeric", "Source", "Table", "encode", "load", "source"]

SOURCES: dict[str, Source] = {s.name: s for s in (ADULT,)}
"""Every built-in source by name."""


def source(name: str) -> Source:
    """Return the declaration of a source.

    Raises
    ------
    ScenarioError
        If there is none of that name.
    """
    if name not in SOURCES:
        raise ScenarioError(f"no data source {name!r}{nearest(name, SOURCES)}")
    return SOURCES[name]


@functools.lru_cache(maxsize=4)
def load(name: str) -> Table:
    """Return a source's table, from the cache; the first time ever, its archive is fetched.

    One process loads a table once, and its arrays are read-only.

    Raises
    ------
    ScenarioError
        If there is no such source, if its records cannot be had, or if they
        are not the ones that it declares.
    """
    declared = source(name)
    table = encode(archive.frame(declared), declared)
    check(table, declared)
    return table


def check(table: Table, declared: Source) -> None:
    """Compare the number of records, overall and of every group, with the declared ones.

    Raises
    ------
    ScenarioError
        At the first difference.
    """
    if len(table) != declared.rows:
        raise ScenarioError(f"data {declared.name!r}: {len(table)} records, declared {declared.rows}")
    for attribute, groups in declared.counts.items():
        found = table.attributes[attribute].counts
        for i, (name, expected) in enumerate(groups.items()):
            if found[i] != expected:
                raise ScenarioError(
                    f"data {declared.name!r}: {found[i]} records of {attribute} {name!r}, declared {expected}"
                )
