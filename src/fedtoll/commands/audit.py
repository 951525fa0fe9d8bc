"""``fedtoll audit``: what an attacker can show, beside what privacy claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

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

    from fedtoll.audit.run import prepare, run_audit
    from fedtoll.console import console

    prepared = prepare(name, override or (), seeds, epsilon)
    folder = out or Path("results") / prepared.scenario.name
    err = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("audit", total=prepared.progress_steps)
        content = run_audit(prepared, folder, workers=workers, finished=lambda: bar.advance(task))
    if as_json:
        typer.echo(json.dumps({"folder": str(folder / "audit"), **content}, ensure_ascii=False, indent=1))
    else:
        typer.echo(_text(content))
        typer.echo(f"audit: {folder / 'audit'}")
    if content["broken"]:
        raise typer.Exit(FAILED)


def _text(content: dict[str, Any]) -> str:
    """Return the tables of ``audit.json`` as lines."""
    from fedtoll.audit.attacks import MIN_MEMBERS
    from fedtoll.audit.subject import value, verdict
    from fedtoll.formatting import budget, general, number
    from fedtoll.scenarios.measures import EVERYBODY

    canary = [
        (
            row["strategy"],
            general(value(row["epsilon"])),
            row["group"],
            general(value(row["noise_multiplier"])),
            number(value(row["claim"]), 2),
            number(value(row["bound"]), 2),
            number(value(row["run_claim"]), 2),
            number(value(row["run_bound"]), 2),
        )
        for row in content["canary"]
    ]
    head = ("strategy", "ε", "group", "σ", "ε of a step", "at least", "ε of the run", "at least")
    lines = ["White box: what is claimed, and what an attacker who put the record there can show", ""]
    lines += _aligned([head, *canary], left=(0, 2))
    lines += ["", verdict(content), "", "Membership by group: the attacker's advantage TPR − FPR", ""]
    head = ("strategy", "ε", "attack", "group", "members", "advantage", "95% interval", "at most")
    rows = [
        (
            row["strategy"],
            budget(row["mechanism"], value(row["epsilon"])),
            row["attack"],
            row["group"] or EVERYBODY,
            f"{round(row['members']):,}{' (few)' if row['members'] < MIN_MEMBERS else ''}",
            number(value(row["advantage"])),
            f"{number(value(row['low']))} to {number(value(row['high']))}",
            number(value(row["ceiling"])),
        )
        for row in content["membership"]
        if row["attack"] == "lira"
    ]
    lines += _aligned([head, *rows], left=(0, 2, 3))
    return "\n".join(lines)


def _aligned(rows: list[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:<{w}}" if i in left else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
