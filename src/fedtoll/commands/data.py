"""``fedtoll data``: fetch records, or check those in the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from fedtoll.scenarios.errors import ScenarioError

data = typer.Typer(no_args_is_help=True, help="Fetch records, or check those that are there.")
Sources = Annotated[list[str], typer.Argument(metavar="NAME...", help='data sources, or "all"')]


@data.command()
def fetch(names: Sources) -> None:
    """Fetch records into the cache, once; later there is no need for a network."""
    from fedtoll.scenarios.data import archive, builtin, load_table

    for name in _sources(names):
        declared = builtin(name)
        if names == ["all"] and declared.kept is not None and not declared.kept():
            typer.echo(f"{name}: comes from outside the package index; fedtoll data fetch {name} fetches it")
            continue
        records = len(load_table(declared))
        folder = archive.cache_folder() if declared.kept else archive.cache_file(declared)
        made = declared.archive is None and declared.kept is None
        typer.echo(f"{name}: {records:,} records, {'made anew each time' if made else f'in {folder}'}")


@data.command("check")
def check_data(names: Sources) -> None:
    """Check the records of the cache against what is declared: every value, and every group's count."""
    from fedtoll.scenarios.data import builtin, cached_table

    for name in _sources(names):
        records = cached_table(builtin(name))
        if records is None and names == ["all"]:
            typer.echo(f"{name}: not in the cache")
            continue
        if records is None:
            raise ScenarioError(f"data {name!r} is not in the cache; fedtoll data fetch {name} fetches it")
        typer.echo(f"{name}: {len(records):,} records as declared, {len(records.attributes)} attributes")


def _sources(names: list[str]) -> list[str]:
    from fedtoll.scenarios.data import SOURCES

    return list(SOURCES) if names == ["all"] else names
