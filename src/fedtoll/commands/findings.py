"""``fedtoll findings [NAME...]``: check published claims against real records."""

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

from fedtoll.console import complain, console, echo
from fedtoll.options import FAILED, Address, Executor, Force, Json, Workers

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
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]", help="Findings, or TOML files with claims; all findings by default."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run two seeds and two rounds only; every verdict is undecided.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Results folder.", show_default="results/findings")
    ] = None,
    executor: Executor = "processes",
    workers: Workers = None,
    address: Address = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Check published claims against real records.

    The same command again resumes, and gives the same verdicts.
    """
    import fedtoll.findings as package
    from fedtoll.scenarios.errors import RunError, one_line
    from fedtoll.sweep import run as sweep
    from fedtoll.sweep.executor import ray_address

    sweep.check_options(executor, "local", address=address)
    folder = out or Path("results") / ("findings-quick" if quick else "findings")
    prepared = [package.prepare(name, quick=quick) for name in package.resolve_names(names or [])]
    package.check_unique(prepared)
    for planned in prepared if not force else ():
        package.check_versions(planned, folder / planned.scenario.name)
    command = shlex.join(["fedtoll", *sys.argv[1:]])
    judged, failed = [], {}
    with _progress(prepared) as finished, ray_address(address):
        for planned in prepared:
            try:
                judged.append(
                    package.run_finding(
                        planned,
                        folder / planned.scenario.name,
                        executor=executor,
                        workers=workers,
                        command=command,
                        force=force,
                        finished=finished,
                        waiting=lambda: complain(f"{folder}: in use by another command; waiting"),
                    )
                )
            except RunError as error:  # judge the other findings nevertheless
                failed[planned.scenario.name] = one_line(str(error))
    for line in failed.values():
        complain(f"failed: {line}")
    if judged:
        page = folder / PAGE
        package.write(judged, page, command, list(failed))
        _show(judged, page, quick, failed, as_json)
    if failed:
        raise typer.Exit(FAILED)


def _show(judged: Sequence[Finding], page: Path, quick: bool, failed: dict[str, str], as_json: bool) -> None:
    """Print the verdicts, as tables or as JSON."""
    import fedtoll.findings as package

    if as_json:
        content = {
            "page": str(page),
            "quick": quick,
            "failed": failed,
            "findings": [_plain(f) for f in judged],
        }
        echo(json.dumps(content, ensure_ascii=False, indent=1))
        return
    if quick:
        echo("Two seeds and two rounds: a check that every finding runs. No claim is decided.")
        for finding in judged:
            echo(_line(finding))
        echo(f"page: {page}")
        return
    for finding in judged:
        console().print(_table(finding))
        for s in finding.survives:
            echo(f"{s.text}? {s.answer}: {s.why}")
        echo()
    echo(package.report_not_held((f.scenario.name, o) for f in judged for o in f.outcomes))
    echo(f"page: {page}")


def _line(finding: Finding) -> str:
    """Return one line on a quick run."""
    claims = len({o.claim for o in finding.outcomes})
    settings = len({o.setting for o in finding.outcomes})
    many = f"{claims} claim{'s' * (claims != 1)} in {settings} setting{'s' * (settings != 1)}"
    return f"{finding.scenario.name}: ran, {many} undecided"


def _plain(finding: Finding) -> dict[str, Any]:
    """Return a finding for JSON, with null for undefined numbers."""
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
    for header in ("setting", "ours", "verdict"):
        table.add_column(Text(header), overflow="fold")
    unit = {claim.name: units.figure_unit(claim) for claim in finding.scenario.claim}
    for o in finding.outcomes:
        verdict = o.verdict if o.verdict != "undecided" else f"undecided: {o.why}"
        cells = (o.claim, o.setting, units.format_interval(o.mean, o.low, o.high, unit[o.claim]), verdict)
        table.add_row(*(Text(cell) for cell in cells))
    return table


@contextmanager
def _progress(prepared: Sequence[Prepared]) -> Iterator[Callable[[Run], None]]:
    """Show a progress bar on a terminal; yield the function to call after each run."""
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
        task = bar.add_task("runs", total=sum(planned.runs for planned in prepared))
        yield lambda run: bar.advance(task)
