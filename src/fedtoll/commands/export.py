"""``fedtoll export``: copy what can be shared of a results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedtoll.console import echo
from fedtoll.options import FAILED


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Results folder.")],
    shareable: Annotated[
        Path, typer.Option("--shareable", metavar="OUT", help="The copy; it must not exist.")
    ],
    with_measures: Annotated[
        bool,
        typer.Option(
            "--with-measures",
            help="Copy what was measured on your own records, too. Exact; no ε protects it.",
        ),
    ] = False,
) -> None:
    """Copy what can be shared of a results folder.

    The copy has the scenario, the plan and the ledger. Measures are added if the records are public.
    """
    from fedtoll.sweep.export import export as copy

    runs, left_out = copy(folder, shareable, with_measures=with_measures)
    echo(f"{shareable}: {runs} runs; left out: {', '.join(left_out)}")
    if not runs:
        raise typer.Exit(FAILED)
