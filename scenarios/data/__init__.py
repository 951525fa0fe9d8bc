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
from typing import TYPE_CHECKING

from fedtoll.scenarios.data import archive
from fedtoll.scenarios.data.acs import ACS
from fedtoll.scenarios.data.adult import ADULT
from fedtoll.scenarios.data.adult_phd import ADULT_PHD
from fedtoll.scenarios.data.census_income import CENSUS_INCOME
from fedtoll.scenarios.data.compas import COMPAS
from fedtoll.scenarios.data.credit import CREDIT
from fedtoll.scenarios.data.declaration import Categorical, Numeric, Source
from fedtoll.scenarios.data.digits import DIGITS
from fedtoll.scenarios.data.law import LAW
from fedtoll.scenarios.data.nesarc import NESARC
from fedtoll.scenarios.data.table import Attribute, Table, encode
from fedtoll.scenarios.data.tv16 import TV16, TV16_HARD
from fedtoll.scenarios.errors import ScenarioError, nearest

if TYPE_CHECKING:
    from fedtoll.scenarios.data.section import Data

__all__ = [
    "SOURCES",
    "Attribute",
    "Categorical",
    "Numeric",
    "Source",
    "Table",
    "declared",
    "encode",
    "load",
    "source",
    "table",
]

SOURCES: dict[str, Source] = {
    s.name: s
    for s in (ADULT, ADULT_PHD, CENSUS_INCOME, COMPAS, CREDIT, LAW, TV16, TV16_HARD, NESARC, DIGITS, ACS)
}
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


def declared(data: Data, *, afresh: bool = False) -> Source:
    """Return the declaration that a scenario's ``[data]`` names or makes.

    Parameters
    ----------
    data
        The section.
    afresh
        Whether a file that this process knows is looked at again, for it may have been changed.

    Raises
    ------
    ScenarioError
        If there is no such source, or the file that it names cannot be read.
    """
    if data.file:
        from fedtoll.scenarios.data.own import own

        return own(data, afresh=afresh)
    return _declared(data)


@functools.lru_cache(maxsize=8)
def _declared(data: Data) -> Source:
    if data.synthetic is not None:
        from fedtoll.scenarios.data.synthetic import synthetic

        return synthetic(data.synthetic)
    return source(data.source)


def load(name: str) -> Table:
    """Return a built-in source's table."""
    return table(source(name))


@functools.lru_cache(maxsize=4)
def table(declared: Source) -> Table:
    """Return a source's table, from the cache; the first time ever, its archive is fetched.

    One process loads a table once, and its arrays are read-only.

    Raises
    ------
    ScenarioError
        If its records cannot be had, or are not the ones that it declares.
    """
    made = encode(archive.frame(declared), declared)
    check(made, declared)
    return made


def declared_or_cached(declared: Source) -> Table | None:
    """Return a source's table if it can be had without the network."""
    if declared.kept is not None:
        there = declared.kept()
    else:
        there = declared.archive is None or archive.cache_file(declared).exists()
    return table(declared) if there else None


def check(table: Table, declared: Source) -> None:
    """Compare the number of records, overall and of every group, with the declared ones.

    Raises
    ------
    ScenarioError
        At the first difference.
    """
    if declared.rows and len(table) != declared.rows:
        raise ScenarioError(f"data {declared.name!r}: {len(table)} records, declared {declared.rows}")
    for attribute, groups in declared.counts.items():
        found = table.attributes[attribute].counts
        for i, (name, expected) in enumerate(groups.items()):
            if declared.rows and found[i] != expected:
                raise ScenarioError(
                    f"data {declared.name!r}: {found[i]} records of {attribute} {name!r}, declared {expected}"
                )
