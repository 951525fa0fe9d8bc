"""``fedtoll findings [NAME...]``: published results, reproduced or refuted, claim by claim."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedtoll.console import console
from fedtoll.options import FAILED, Json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

    from fedtoll.findings.front import Point
    from fedtoll.findings.prepare import Prepared
    from fedtoll.findings.run import Finding
    from fedtoll.scenarios.run import Run

PAGE = "findings.html"


def findings(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="findings, or files with claims; else all")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="two seeds and two rounds: runs all and decides nothing")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="by default results/findings")] = None,
    executor: Annotated[
        str, typer.Option(metavar="serial|processes|ray", help="how the runs are spread")
    ] = "processes",
    workers: Annotated[int | None, typer.Option(min=1, help="processes, by default one a core")] = None,
    force: Annotated[bool, typer.Option("--force", help="mix with runs made by other versions")] = False,
    as_json: Json = False,
) -> None:
    """Check published claims on real records; the same command again resumes, and gives the same verdicts."""
    from fedtoll import findings as rooms
    from fedtoll.scenarios.errors import RunError, one_line
    from fedtoll.server import sweep

    sweep.check_options(executor, "local")
    folder = out or Path("results") / ("findings-quick" if quick else "findings")
    prepared = [rooms.prepare(name, quick=quick) for name in rooms.resolve_names(names or [])]
    rooms.check_unique(prepared)
    for one in prepared if not force else ():
        rooms.check_versions(one, folder / one.scenario.name)
    command = shlex.join(["fedtoll", *sys.argv[1:]])
    made, failed = [], {}
    with _progress(prepared) as finished:
        for one in prepared:
            try:
                made.append(
                    rooms.run_finding(
                        one,
                        folder / one.scenario.name,
                        executor=executor,
                        workers=workers,
                        command=command,
                        force=force,
                        finished=finished,
                        waiting=lambda: typer.echo(f"{folder}: in use by another command; waiting", err=True),
                    )
                )
            except RunError as error:  # the other findings are judged all the same
                failed[one.scenario.name] = one_line(str(error))
    for line in failed.values():
        typer.echo(f"fedtoll: failed: {line}", err=True)
    if made:
        page = folder / PAGE
        rooms.write(made, page, command, list(failed))
        _show(made, page, quick, failed, as_json)
    if failed:
        raise typer.Exit(FAILED)


def _show(made: Sequence[Finding], page: Path, quick: bool, failed: dict[str, str], as_json: bool) -> None:
    """Print what became of the findings."""
    from fedtoll import findings as rooms

    if as_json:
        content = {
            "page": str(page),
            "quick": quick,
            "failed": failed,
            "findings": [_plain(f) for f in made],
        }
        typer.echo(json.dumps(content, ensure_ascii=False, indent=1))
        return
    for finding in made:
        console().print(_table(finding))
        for s in finding.survives:
            typer.echo(f"{s.asks}? {s.answer}: {s.why}")
        typer.echo("")
    typer.echo(rooms.report_not_held((f.scenario.name, o) for f in made for o in f.outcomes))
    typer.echo(f"page: {page}")


def _plain(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON can hold it: what is undefined is null."""
    from fedtoll.findings.summary import by_claim

    rows = [
        {key: _number(value) for key, value in asdict(outcome).items() if key != "runs"}
        | {"sides": [{"what": what, "mean": _number(mean)} for what, mean in outcome.sides]}
        for outcome in finding.outcomes
    ]
    return {
        "name": finding.scenario.name,
        "title": finding.scenario.title,
        "folder": str(finding.folder),
        "claims": {c.claim: c.status for c in by_claim((finding.scenario.name, o) for o in finding.outcomes)},
        "tuned": finding.tuned,
        "survives": {
            s.question: {"answer": s.answer, "kept": s.kept, "held": s.held, "why": s.why}
            for s in finding.survives
        },
        "front": [_point(point) for point in finding.front],
        "outcomes": rows,
    }


def _point(point: Point) -> dict[str, Any]:
    rows = asdict(point)
    for key in ("accuracy", "disparity"):
        rows[key] = dict(zip(("mean", "low", "high"), map(_number, rows[key]), strict=True))
    return rows


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(finding: Finding) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from fedtoll.findings import units

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, title_justify="left")
    table.title = Text(f"{finding.scenario.name}: {finding.scenario.title}")
    table.add_column(Text("claim"), no_wrap=True)
    for head in ("setting", "ours", "verdict"):
        table.add_column(Text(head), overflow="fold")
    of = {claim.name: units.figure_unit(claim) for claim in finding.scenario.claim}
    for o in finding.outcomes:
        verdict = o.verdict if o.verdict != "undecided" else f"undecided: {o.why}"
        cells = (o.claim, o.setting, units.format_interval(o.mean, o.low, o.high, of[o.claim]), verdict)
        table.add_row(*(Text(cell) for cell in cells))
    return table


@contextmanager
def _progress(prepared: Sequence[Prepared]) -> Iterator[Callable[[Run], None]]:
    """Show a bar on a terminal; yield what to call after each run."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    err = console(stderr=True)
    columns = (
        TextColumn("findings"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("runs", total=sum(one.runs for one in prepared))
        yield lambda run: bar.advance(task)
