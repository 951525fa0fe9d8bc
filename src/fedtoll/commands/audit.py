"""``fedtoll audit``: what an attacker can show, beside what privacy claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedtoll.options import FAILED, Json, Name, Set


def audit(
    name: Name,
    override: Set = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="A:B", help="one target model a seed, e.g. 0:20")
    ] = "0:20",
    epsilon: Annotated[float | None, typer.Option(help="this ε in place of the scenario's")] = None,
    out: Annotated[Path | None, typer.Option(help="results folder, by default results/<name>")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes, by default one a core")] = None,
    as_json: Json = False,
) -> None:
    """Attack a scenario's mechanism and models: lower bounds of ε, and membership inference by group."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from fedtoll.console import console
    from fedtoll.server.audit.conduct import conduct, prepare
    from fedtoll.server.audit.words import text

    prepared = prepare(name, override or (), seeds, epsilon)
    folder = out or Path("results") / prepared.scenario.name
    err = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("audit", total=prepared.pieces)
        content = conduct(prepared, folder, workers=workers, finished=lambda: bar.advance(task))
    if as_json:
        typer.echo(json.dumps({"folder": str(folder / "audit"), **content}, ensure_ascii=False, indent=1))
    else:
        typer.echo(text(content))
        typer.echo(f"audit: {folder / 'audit'}")
    if content["broken"]:
        raise typer.Exit(FAILED)
