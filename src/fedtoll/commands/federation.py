"""``fedtoll federation``: prepare a federation on machines of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedtoll.console import echo
from fedtoll.options import Command, Set, bare
from fedtoll.scenarios.errors import ScenarioError

federation = typer.Typer(
    invoke_without_command=True, callback=bare, help="Prepare a federation on machines of its own."
)


@federation.command(cls=Command)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new folder.")],
    name: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Built-in scenario or TOML file.")],
    split: Annotated[
        bool,
        typer.Option("--split", help="For a demonstration: split the scenario's records into files."),
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="With --split: the seed that splits.", show_default="the first seed"),
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Name or address of the SuperLink for SuperNodes, which use the first. Repeatable.",
            show_default="127.0.0.1",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the SuperLink.")] = 9092,
    override: Set = None,
) -> None:
    """Write the scripts, certificates and keys of a federation.

    The scenario declares its clients (partition.kind = "declared"), unless --split divides its records.
    """
    from fedtoll.deploy.folder import Place, write
    from fedtoll.deploy.split import divide
    from fedtoll.scenarios import read as scenarios
    from fedtoll.server import plan

    scenario, file = scenarios.read(name, override or ()), scenarios.find(name).name
    plan.check(scenario, file)
    divided = divide(scenario, scenario.seeds[0] if seed is None else seed) if split else None
    if divided is None and scenario.partition.kind != "declared":
        raise ScenarioError(
            f"{file}: partition.kind = {scenario.partition.kind!r}: declare the clients, or give --split"
        )
    if divided is None and seed is not None:
        raise ScenarioError("--seed: only with --split")
    for text in host or ():
        if not text or not text.isascii() or any(c.isspace() or c in "/'\"" for c in text):
            raise ScenarioError(f"--host {text!r}: must be a name or an address")
    place = Place(host or ["127.0.0.1"], port)
    nodes = write(folder, divided.scenario if divided else scenario, place, divided)
    echo(f"{folder / 'server'}: the SuperLink: superlink.sh, then register.sh once, then sweep.sh")
    for client, node in enumerate(nodes):
        echo(f"{folder / node}: for the machine of client {client}: supernode.sh")


@federation.command("check", cls=Command)
def check_records(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The records of one client.")],
    client: Annotated[int, typer.Option(min=0, help="The number of the client.")],
    scenario: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Scenario that declares the client.")
    ] = "scenario.toml",
) -> None:
    """Check the records of one client against a scenario.

    Run it on the client's own machine: what it prints tells about its records.
    """
    from fedtoll.scenarios import holder, read

    declared = read.read(scenario)
    records = holder.read(declared.data, declared.partition, client, file)
    echo(f"{file}: {len(records.table):,} records, as client {client} declares them")
