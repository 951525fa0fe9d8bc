"""What the commands share: exit codes, and the options that several of them take."""

from __future__ import annotations

from typing import Annotated

import typer

DONE, FAILED, USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130

Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="a built-in scenario or a TOML file")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override a key, e.g. training.rounds=10"),
]
Seeds = Annotated[str | None, typer.Option("--seeds", metavar="A:B", help="seeds A to B-1, e.g. 0:5")]
