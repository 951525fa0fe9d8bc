"""Data sources: every table that a scenario can name.

A source of your own is a :class:`~fedtoll.scenarios.data.base.DataSource` outside
fedtoll. To add one here, write a file such as ``adult.py`` in this folder and list its
:class:`~fedtoll.scenarios.data.source.Source` in :data:`SOURCES`. Looking up a
source loads neither pandas nor records.

Examples
--------
>>> builtin("adult").rows
48842
>>> builtin("adult").attributes["sex"]
('Male', 'Female')
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedtoll.scenarios.data import archive
from fedtoll.scenarios.data.acs import ACS, acs
from fedtoll.scenarios.data.adult import ADULT
from fedtoll.scenarios.data.adult_phd import ADULT_PHD
from fedtoll.scenarios.data.base import DataSource
from fedtoll.scenarios.data.census_income import CENSUS_INCOME
from fedtoll.scenarios.data.compas import COMPAS
from fedtoll.scenarios.data.credit import CREDIT
from fedtoll.scenarios.data.digits import DIGITS
from fedtoll.scenarios.data.law import LAW
from fedtoll.scenarios.data.nesarc import NESARC
from fedtoll.scenarios.data.source import Categorical, Numeric, Source
from fedtoll.scenarios.data.table import Attribute, Table, encode
from fedtoll.scenarios.data.tv16 import TV16, TV16_HARD
from fedtoll.scenarios.errors import ScenarioError, nearest

if TYPE_CHECKING:
    from fedtoll.scenarios.data.config import Data

__all__ = [
    "SOURCES",
    "Attribute",
    "Categorical",
    "DataSource",
    "Numeric",
    "Source",
    "Table",
    "builtin",
    "cached_table",
    "encode",
    "load_table",
    "named",
    "source_of",
]

SOURCES: dict[str, Source] = {
    s.name: s
    for s in (ADULT, ADULT_PHD, CENSUS_INCOME, COMPAS, CREDIT, LAW, TV16, TV16_HARD, NESARC, DIGITS, ACS)
}
"""Every built-in source by name."""


def builtin(name: str) -> Source:
    """Return the declaration of a built-in source.

    Raises
    ------
    ScenarioError
        If there is no source of that name.
    """
    if name not in SOURCES:
        from fedtoll.scenarios.data import plugin

        raise ScenarioError(f"no data source {name!r}{nearest(name, {*SOURCES, *plugin.names()})}")
    return SOURCES[name]


def named(name: str) -> Source:
    """Return the source of a name: built-in, installed by another package, or the path of a plug-in's class.

    Raises
    ------
    ScenarioError
        If there is no source of that name, or it cannot be loaded.
    """
    from fedtoll.scenarios.data import plugin

    if name in SOURCES or (":" not in name and name not in plugin.names()):
        return builtin(name)
    return plugin.plugin_source(name)


def source_of(data: Data) -> Source:
    """Return the source that a scenario's ``[data]`` names or describes. No records are read yet.

    Raises
    ------
    ScenarioError
        If there is no such source, or the user's file cannot be read.
    """
    if data.file:
        from fedtoll.scenarios.data.user_table import user_source

        return user_source(data)
    if data.synthetic is not None:
        from fedtoll.scenarios.data.synthetic import synthetic

        return synthetic(data.synthetic)
    if data.code:
        from fedtoll.scenarios.data.plugin import plugin_source

        return plugin_source(data.code, data)
    if data.source == ACS.name:
        return acs()  # nothing pins its records: each source remembers the checksum of those that it read
    return builtin(data.source)


def load_table(source: Source) -> Table:
    """Return the table of a source, from the cache folder if it is there; else its archive is fetched.

    The arrays are read-only.

    Raises
    ------
    ScenarioError
        If the records cannot be fetched, or are not those that the source declares.
    """
    loaded = encode(archive.frame(source), source)
    check(loaded, source)
    return loaded


def cached_table(source: Source) -> Table | None:
    """Return the table of a source if that needs no network, else ``None``."""
    if source.is_cached is not None:
        cached = source.is_cached()
    else:
        cached = source.archive is None or archive.cache_file(source).exists()
    return load_table(source) if cached else None


def check(table: Table, source: Source) -> None:
    """Compare the number of records, in total and per group, with the declaration.

    Raises
    ------
    ScenarioError
        If a number differs.
    """
    if source.rows and len(table) != source.rows:
        raise ScenarioError(f"data {source.name!r}: {len(table)} records, declared {source.rows}")
    for attribute, groups in source.counts.items():
        found = table.attributes[attribute].counts
        for i, (name, expected) in enumerate(groups.items()):
            if source.rows and found[i] != expected:
                raise ScenarioError(
                    f"data {source.name!r}: {found[i]} records of {attribute} {name!r}, declared {expected}"
                )
