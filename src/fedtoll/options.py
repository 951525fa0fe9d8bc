"""Exit codes, the command class, and the options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import click
import typer
from typer.core import TyperCommand

SETTINGS: dict[str, Any] = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}
"""How click shows help; commands inherit it."""

DONE, FAILED, USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130

Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="Built-in scenario or TOML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the scenario, e.g. training.rounds=10. Repeatable.",
    ),
]
Seeds = Annotated[str | None, typer.Option("--seeds", metavar="A:B", help="Seeds A to B-1, e.g. 0:5.")]
Executor = Annotated[
    str,
    typer.Option("--executor", metavar="serial|processes|ray", help="How to run the trainings in parallel."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, show_default="one per core", help="Number of worker processes."),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="With --executor ray: the head node of a cluster.",
        show_default="RAY_ADDRESS, else a Ray is started here",
    ),
]
Open = Annotated[bool, typer.Option("--open", help="Open the report in a browser at the end.")]
Force = Annotated[
    bool, typer.Option("--force", help="Resume even if the stored runs used other library versions.")
]


def bare(context: typer.Context) -> None:
    """Print the help of a group of commands if none of them is named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


class _Formatter(click.HelpFormatter):
    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        r"""Write a definition list without the backslash that typer puts before ``[`` (``\[required]``).

        Typer escapes brackets for rich markup, also where the markup is switched off.
        """
        super().write_dl([(term, text.replace("\\[", "[")) for term, text in rows], col_max, col_spacing)


class _Context(click.Context):
    formatter_class = _Formatter


class Command(TyperCommand):
    """A command of fedtoll: typer's, with help that a plain terminal can show."""

    context_class = _Context
