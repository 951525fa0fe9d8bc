"""``fedtoll check`` and ``fedtoll run``."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedtoll.commands.report import show, write_page
from fedtoll.console import complain, console
from fedtoll.options import FAILED, Executor, Force, Json, Name, Seeds, Set, Workers

if TYPE_CHECKING:
    from fedtoll.scenarios.run import Run
    from fedtoll.server.plan import Plan
    from fedtoll.server.store import Store


def check(name: Name, override: Set = None, seeds: Seeds = None) -> None:
    """Validate a scenario without training it.

    Needs neither records nor a network.
    """
    from fedtoll.scenarios import read as scenarios
    from fedtoll.server import plan

    scenario, file = scenarios.read(name, override or (), seeds), scenarios.find(name).name
    plan.check(scenario, file)
    runs = len(scenario.strategies) * len(scenario.privacy.epsilons) * len(scenario.seeds)
    typer.echo(f"{file}: valid, {runs} runs")


def run(
    name: Name,
    override: Set = None,
    seeds: Seeds = None,
    out: Annotated[Path | None, typer.Option(help="Results folder.", show_default="results/<name>")] = None,
    executor: Executor = "processes",
    workers: Workers = None,
    grid: Annotated[
        str,
        typer.Option(metavar="local|flower", help="Run the clients in this process, or under `flwr run`."),
    ] = "local",
    force: Force = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run and how long it takes, and stop.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a scenario, or resume it.

    Runs that are already in the results folder are not repeated.
    """
    from fedtoll.server import sweep

    sweep.check_options(executor, grid)
    planned = sweep.prepare(name, override or (), seeds, grid)
    if dry_run:
        from fedtoll.server.dry_run import preview

        typer.echo(preview(planned, workers, as_json=as_json))
        return
    from fedtoll.report import Digest, warm_up
    from fedtoll.scenarios.read import find
    from fedtoll.server.results import load
    from fedtoll.server.store import Store

    folder = out or Path("results") / planned.scenario.name
    store = Store(folder)
    text = find(name).read_text(encoding="utf-8")
    with store.lock(lambda: complain(f"{folder}: in use by another command; waiting for it to finish")):
        store.open(planned, text, shlex.join(["fedtoll", *sys.argv[1:]]), force=force)
        with _progress(planned, store) as finished:
            failures = sweep.execute(
                planned, store, executor=executor, workers=workers, grid=grid, finished=finished
            )
        for line in failures:
            complain(f"failed: {line}")
        if len(failures) == len(planned.runs):
            raise typer.Exit(FAILED)
        warm_up()
        results = load(folder)
        digest = Digest(results)  # computes every figure once, for the page and the terminal
        page = write_page(digest)
    if as_json:
        from fedtoll.server.results import skipped_replies

        content = {
            "folder": str(folder),
            "report": str(page),
            "runs": len(planned.runs),
            "failed": failures,
            "skipped": sum(skipped_replies(folder, run) for run in planned.runs if store.has(run)),
            "toll": json.loads(results.toll().to_json(orient="records", double_precision=15)),
        }
        typer.echo(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        show(digest)
        typer.echo(f"report: {page}")
    if failures:
        raise typer.Exit(FAILED)


@contextmanager
def _progress(planned: Plan, store: Store) -> Iterator[Callable[[Run], None]]:
    """Show a progress bar on a terminal; yield the function to call after each run."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from fedtoll.server.results import skipped_replies

    err = console(stderr=True)
    stored = sum(store.has(run) for run in planned.runs)
    if stored:
        err.print(f"{stored} of {len(planned.runs)} runs are stored already")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs,"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task(planned.scenario.name, total=len(planned.runs), completed=stored)
        skipped = 0

        def finished(run: Run) -> None:
            nonlocal skipped
            if skipped_now := skipped_replies(store.folder, run):
                skipped += skipped_now
                bar.update(task, description=f"{planned.scenario.name}, {skipped:,} replies skipped,")
            bar.advance(task)

        yield finished
