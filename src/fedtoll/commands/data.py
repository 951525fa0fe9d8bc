"""``fedtoll data``: download data sets, or check the cached ones."""

from __future__ import annotations

from typing import Annotated

import typer

from fedtoll.console import echo
from fedtoll.options import Command, bare
from fedtoll.scenarios.errors import ScenarioError

data = typer.Typer(
    invoke_without_command=True, callback=bare, help="Download data sets, or check the cached ones."
)
Sources = Annotated[list[str], typer.Argument(metavar="NAME...", help='Data sources, or "all" built-in.')]


@data.command(cls=Command)
def fetch(names: Sources) -> None:
    """Download records into the cache.

    Afterwards no command needs a network.
    """
    from fedtoll.scenarios.data import archive, load_table, named

    for name in _sources(names):
        declared = named(name)
        if names == ["all"] and declared.is_cached is not None and not declared.is_cached():
            echo(f"{name}: not part of 'all'; fedtoll data fetch {name} fetches it")
            continue
        records = len(load_table(declared))
        folder = archive.cache_folder() if declared.is_cached else archive.cache_file(declared)
        generated = declared.archive is None and declared.is_cached is None
        echo(f"{name}: {records:,} records, {'generated on each use' if generated else f'in {folder}'}")


@data.command("check", cls=Command)
def check_data(names: Sources) -> None:
    """Check cached records against their declaration.

    Compares every value, and the number of records in every group. A scenario's file checks its own table.
    Of a source of your own (file.py:Class), checks that two calls return the same records.
    """
    from fedtoll.scenarios.data import SOURCES, cached_table, named

    for file in [name for name in names if name.endswith((".toml", ".json"))]:
        _check_scenario(file)
    names = [name for name in names if not name.endswith((".toml", ".json"))]
    for name in _sources(names):
        source = named(name)
        records = cached_table(source)
        if name not in SOURCES:
            cached_table(source)  # raises unless it returns the same records again
        if records is None and names == ["all"]:
            echo(f"{name}: not in the cache")
            continue
        if records is None:
            raise ScenarioError(f"data {name!r} is not in the cache; fedtoll data fetch {name} fetches it")
        echo(f"{name}: {len(records):,} records as declared, {len(records.attributes)} attributes")


def _check_scenario(file: str) -> None:
    """Check the table of a scenario, and print how many records each of its groups has."""
    from fedtoll.scenarios import read
    from fedtoll.scenarios.data import load_table, source_of

    data = read.read(file).data
    source = source_of(data)
    table = load_table(source)
    if data.code:
        load_table(source)  # raises unless it returns the same records again
    groups = table.groups(data.groups)
    echo(f"{file}: {len(table):,} records as declared, {len(table.feature_names)} features")
    for name, records in zip(groups.names, groups.counts, strict=True):
        echo(f"  {name}: {records:,} records")


def _sources(names: list[str]) -> list[str]:
    from fedtoll.scenarios.data import SOURCES

    return list(SOURCES) if names == ["all"] else names
