"""``fedtoll new-strategy`` and ``fedtoll check-strategy``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedtoll.console import echo
from fedtoll.options import FAILED, Json

if TYPE_CHECKING:
    from fedtoll.scenarios.verdicts import Verdict


def new_strategy(
    name: Annotated[str, typer.Argument(help="Name of the strategy, e.g. my-strategy.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the new file.")] = Path(),
) -> None:
    """Write a small working strategy to start from."""
    from fedtoll.strategies import template

    path, cls = template.write(name, out)
    strategy = f"{path}:{cls}"
    strategies = f'strategies=[{{name="fedavg"}}, {{name={json.dumps(strategy, ensure_ascii=False)}}}]'
    echo(path)
    echo(shlex.join(["fedtoll", "check-strategy", strategy]))
    quick = ["--seeds", "0:3", "--out", f"results/{name}"]
    echo(shlex.join(["fedtoll", "run", "adult-race", "--set", strategies, *quick]))


def check_strategy(
    name: Annotated[
        str, typer.Argument(metavar="X", help="Strategy: a name, file.py:Class or module:Class.")
    ],
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter, e.g. t=5.0. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the conformance kit on a strategy."""
    from fedtoll.scenarios.overrides import assignment

    assignments = (assignment(pair, "t=5.0") for pair in override or ())
    verdicts = _verdicts(name, {".".join(path): value for path, value in assignments})
    show("strategy", name, verdicts, as_json=as_json)


def show(kind: str, name: str, verdicts: Sequence[Verdict], *, as_json: bool) -> None:
    """Print what a conformance kit found of a strategy or mechanism; exit with 1 if a property fails."""
    from dataclasses import asdict

    if as_json:
        content = {kind: name, "verdicts": [asdict(v) for v in verdicts]}
        echo(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        labels = {"passed": "ok", "failed": "FAILED", "shown": "shown"}
        width = max(len(v.property) for v in verdicts)
        for v in verdicts:
            echo(f"{labels[v.outcome]:<6}  {v.property:<{width}}  {v.words}")
    if any(v.outcome == "failed" for v in verdicts):
        raise typer.Exit(FAILED)


def _verdicts(name: str, parameters: dict[str, Any]) -> list[Verdict]:
    from fedtoll.strategies import registry
    from fedtoll.strategies.base import Strategy
    from fedtoll.strategies.conformance import conform

    path, _ = registry.resolve(name)
    cls = registry.load(path)
    if issubclass(cls, Strategy):
        return conform(registry.build(path, parameters))
    from fedtoll.scenarios.verdicts import Verdict
    from fedtoll.server.adapter import check_flower

    check_flower(cls, parameters)
    note = (
        "the kit tests fedtoll's own interface; checked only that it takes these parameters and can run here"
    )
    return [Verdict("Flower strategy", "shown", note)]
