"""``fedtoll new-scenario``: draft a scenario from a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fedtoll.console import complain, echo
from fedtoll.scenarios.errors import ScenarioError


def new_scenario(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Table: CSV, TSV, Parquet or Feather.")],
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column to predict.")] = None,
    groups: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="COLUMN", help="Sensitive attribute. Repeatable."),
    ] = None,
    positive: Annotated[
        str, typer.Option(metavar="VALUE", help="Positive label.", show_default="the rarer of two")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write.", show_default="FILE with .toml")
    ] = None,
) -> None:
    """Draft a scenario from your own table.

    Types, values and ranges are looked up in the records, so they are not free: no ε covers them. Confirm or
    replace each in the file. Asks for the label and the groups if they are not given.
    """
    from fedtoll.scenarios.atomic import write_bytes
    from fedtoll.scenarios.data.draft import draft
    from fedtoll.scenarios.data.user_file import TableFile

    names = TableFile.at(file).header()
    label = label or _asked("--label", "Column to predict", names)
    chosen = groups or [_asked("--group", "Column of the groups", [n for n in names if n != label])]
    target = out or file.with_name(f"{file.name.split('.')[0]}.toml")
    if target.exists():
        raise ScenarioError(f"{target}: exists already; choose another --out")
    if target.resolve().parent != file.resolve().parent:
        raise ScenarioError(
            f"--out {target}: must be in the folder of {file}, to which data.file is relative"
        )
    drafted = draft(file, label, chosen, positive, target.stem)
    try:
        write_bytes(target, drafted.text.encode())
    except OSError as error:
        raise ScenarioError(f"{target}: cannot be written: {error.strerror or error}") from None
    for column, reason in drafted.left_out.items():
        complain(f"column {column!r} is left out: it {reason}")
    for column in drafted.giving_away:
        complain(
            f"column {column!r} alone predicts nearly every label; leave it out if it is not known before"
        )
    echo(target)
    echo("Its ranges and values were looked up in the records, which is not free: confirm or replace each.")
    echo(f"fedtoll data check {target}")
    echo(f"fedtoll run {target}")


def _asked(option: str, question: str, names: list[str]) -> str:
    """Ask for a column on a terminal; elsewhere say which option names it."""
    known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    if not sys.stdin.isatty():
        raise ScenarioError(f"new-scenario: {option} is needed; columns: {known}")
    return str(typer.prompt(f"{question} ({known})"))
