"""``fedtoll new-personal-model`` and ``fedtoll check-personal-model``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from fedtoll.commands.strategy import show
from fedtoll.console import echo
from fedtoll.options import Json


def new_personal_model(
    name: Annotated[str, typer.Argument(help="Name of the personal model, e.g. my-model.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the new file.")] = Path(),
) -> None:
    """Write a small working personal model to start from."""
    from fedtoll.clients.personal_models import template

    path, cls = template.write(name, out)
    model = f"{path}:{cls}"
    echo(path)
    echo(shlex.join(["fedtoll", "check-personal-model", model]))
    stated = f"personal.kind={json.dumps(model, ensure_ascii=False)}"
    quick = ["--seeds", "0:3", "--no-tune", "--out", f"results/{name}"]
    echo(shlex.join(["fedtoll", "run", "adult-race", "--set", stated, *quick]))


def check_personal_model(
    name: Annotated[
        str, typer.Argument(metavar="X", help="Personal model: a name, file.py:Class or module:Class.")
    ],
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter, e.g. share=0.3. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the conformance kit on a personal model."""
    from fedtoll.clients.personal_models.conformance import conform
    from fedtoll.clients.personal_models.registry import REGISTRY
    from fedtoll.scenarios.overrides import assignment

    assignments = (assignment(pair, "share=0.3") for pair in override or ())
    path, _ = REGISTRY.resolve(name)
    values = REGISTRY.check(REGISTRY.load(path), {".".join(key): value for key, value in assignments})
    verdicts = conform(REGISTRY.instantiate(path, values))
    show("personal model", name, verdicts, as_json=as_json)
