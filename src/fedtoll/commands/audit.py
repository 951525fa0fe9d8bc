"""``fedtoll audit``: attack a scenario and compare what leaks with the claimed ε."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fedtoll.options import FAILED, Json, Name, Set, Workers


def audit(
    name: Name,
    override: Set = None,
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="A:B", help="Train one target model per seed.")
    ] = "0:20",
    epsilon: Annotated[float | None, typer.Option(help="Attack at this ε only.")] = None,
    out: Annotated[Path | None, typer.Option(help="Results folder.", show_default="results/<name>")] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Attack a scenario to test its privacy claim.

    Prints lower bounds on ε, and the success of membership inference by group. The report in the results
    folder, if there is one, gets a section "Who is exposed".
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from fedtoll.audit.run import prepare, run_audit
    from fedtoll.console import complain, console, echo
    from fedtoll.scenarios.locks import locked

    prepared = prepare(name, override or (), seeds, epsilon)
    folder = out or Path("results") / prepared.scenario.name
    err = console(stderr=True)

    def waiting() -> None:
        complain(f"{folder}: in use by another audit; waiting for it to finish")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, console=err, disable=not err.is_terminal)
    with locked(folder, "audit", waiting), bars as bar:
        task = bar.add_task("audit", total=prepared.progress_steps)
        content = run_audit(prepared, folder, workers=workers, finished=lambda: bar.advance(task))
    if as_json:
        echo(json.dumps({"folder": str(folder / "audit"), **content}, ensure_ascii=False, indent=1))
    else:
        echo(_text(content))
        if prepared.scenario.tune is not None:
            echo("\nThis audits the scenario's own recipe: an audit does not choose constants.\n")
        echo(f"audit: {folder / 'audit'}")
    page = _write_page(folder)
    if not as_json:
        echo(
            f"report: {page}#exposed"
            if page
            else "report: none here yet; fedtoll run writes it, with this audit"
        )
    if content["broken"]:
        raise typer.Exit(FAILED)


def _write_page(folder: Path) -> Path | None:
    """Rebuild the report of a results folder, with the section on its audit; ``None`` if it has none."""
    from fedtoll.commands.report import write_page
    from fedtoll.console import complain
    from fedtoll.report import Digest
    from fedtoll.scenarios.errors import RunError, ScenarioError
    from fedtoll.server.results import load, readable

    if not (folder / "resolved.json").is_file():
        return None
    try:
        digest = Digest(load(folder))
        with readable(folder):
            return write_page(digest)
    except (RunError, ScenarioError) as error:  # the audit itself is written
        complain(f"the report is not rebuilt: {error}")
        return None


def _text(content: dict[str, Any]) -> str:
    """Return the tables of ``audit.json`` as text."""
    from fedtoll.audit.attacks import MIN_MEMBERS
    from fedtoll.audit.subject import VIEWS, by_client, value, verdict
    from fedtoll.formatting import attribute, budget, general, group_label, number
    from fedtoll.report.exposure import most_exposed
    from fedtoll.scenarios.measures import EVERYBODY

    groups = attribute({"scenario": {"data": {"groups": content["settings"]["data"].get("groups")}}})
    views = [v for v in VIEWS if any(row["view"] == v for row in content["canary"])]
    canary_rows = [
        (
            first["strategy"],
            general(value(first["epsilon"])),
            group_label(first["group"] or EVERYBODY, groups),
            general(value(first["noise_multiplier"])),
            *(_claim_and_bound(found.get(view)) for view in views),
        )
        for first, found in by_client(content)
    ]
    header: tuple[str, ...] = ("strategy", "ε", "group", "σ", *views)
    lines = ["White box: the claimed ε / the lower bound that an attacker shows with a planted record", ""]
    lines += _aligned([header, *canary_rows], left=(0, 2))
    least: dict[tuple[str, str], dict[str, Any]] = {}  # the row with the least p-value of a statistic
    for row in content["canary"]:
        key = row["strategy"], row["view"]
        if row["view"] not in VIEWS and value(row["p"]) <= value(least.get(key, {"p": 1.0})["p"]):
            least[key] = row
    if least:
        lines += ["", "One release of a statistic: the claimed ε / the largest lower bound", ""]
        header = ("strategy", "ε", "group", "release", "ε / at least")
        shown = [
            (r["strategy"], general(value(r["epsilon"])), r["group"], r["view"], _claim_and_bound(r))
            for r in least.values()
        ]
        lines += _aligned([header, *shown], left=(0, 2, 3))
    who = most_exposed(content, lambda group: group_label(group, groups))[0]
    lines += [
        "",
        verdict(content),
        "",
        who,
        "",
        "Membership by group: the attacker's advantage TPR − FPR",
        "",
    ]
    header = ("strategy", "ε", "attack", "group", "members", "advantage", "95% interval", "at most")
    membership_rows = [
        (
            row["strategy"],
            budget(row["mechanism"], value(row["epsilon"])),
            row["attack"],
            group_label(row["group"] or EVERYBODY, groups),
            f"{round(row['members']):,}{' (few)' if row['members'] < MIN_MEMBERS else ''}",
            number(value(row["advantage"])),
            f"{number(value(row['low']))} to {number(value(row['high']))}",
            number(value(row["ceiling"])),
        )
        for row in content["membership"]
        if row["attack"] == "lira"
    ]
    lines += _aligned([header, *membership_rows], left=(0, 2, 3))
    return "\n".join(lines)


def _claim_and_bound(row: dict[str, Any] | None) -> str:
    """Return "claim / bound" of a row of ``canary``; empty without a row."""
    from fedtoll.audit.subject import value
    from fedtoll.formatting import number

    return f"{number(value(row['claim']), 2)} / {number(value(row['bound']), 2)}" if row else ""


def _aligned(rows: list[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    """Align columns: those in ``left`` to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:<{w}}" if i in left else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
