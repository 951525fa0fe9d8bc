"""``fedtoll new-mechanism`` and ``fedtoll check-mechanism``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from fedtoll.commands.strategy import show
from fedtoll.console import echo
from fedtoll.options import Json


def new_mechanism(
    name: Annotated[str, typer.Argument(help="Name of the mechanism, e.g. my-clip.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the new file.")] = Path(),
) -> None:
    """Write a small working client-side mechanism to start from."""
    from fedtoll.clients.clipping import template

    path, cls = template.write(name, out)
    mechanism = f"{path}:{cls}"
    echo(path)
    echo(shlex.join(["fedtoll", "check-mechanism", mechanism]))
    stated = f"client.mechanism={json.dumps(mechanism, ensure_ascii=False)}"
    quick = ["--seeds", "0:3", "--no-tune", "--out", f"results/{name}"]
    echo(shlex.join(["fedtoll", "run", "adult-race", "--set", stated, *quick]))


def check_mechanism(
    name: Annotated[
        str, typer.Argument(metavar="X", help="Mechanism: a name, file.py:Class or module:Class.")
    ],
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter, e.g. rate=0.1. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the conformance kit on a client-side mechanism."""
    from fedtoll.clients.clipping import registry
    from fedtoll.clients.clipping.conformance import conform
    from fedtoll.scenarios.overrides import assignment

    assignments = (assignment(pair, "rate=0.1") for pair in override or ())
    path, _ = registry.resolve(name)
    values = registry.check(registry.load(path), {".".join(key): value for key, value in assignments})
    verdicts = conform(registry.instantiate(path, values))
    show("mechanism", name, verdicts, as_json=as_json)
