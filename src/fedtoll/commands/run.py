"""``fedtoll check`` and ``fedtoll run``."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedtoll.commands.report import open_in_browser, show, write_page
from fedtoll.console import complain, console, echo, warn
from fedtoll.options import FAILED, Address, Executor, Force, Json, Name, Open, Seeds, Set, Workers
from fedtoll.scenarios.errors import ScenarioError, one_line


def check(
    name: Name,
    override: Set = None,
    seeds: Seeds = None,
    no_code: Annotated[
        bool,
        typer.Option("--no-code", help="Import no code that is not fedtoll's or Flower's."),
    ] = False,
) -> None:
    """Validate a scenario without training it.

    Needs neither records nor a network. Imports the strategies, models, mechanisms and data sources that the
    scenario names, and so runs their code: use --no-code for a scenario that you do not trust. It lists what
    it does not check.
    """
    from fedtoll.privacy.delta import delta_of
    from fedtoll.scenarios import read as scenarios
    from fedtoll.server import plan

    scenario, file = scenarios.read(name, override or (), seeds), scenarios.find(name).name
    unchecked: list[str] = []
    source = plan.check(scenario, file, unchecked if no_code else None)
    warn(file, delta_of(scenario, 0 if source is None else source.rows))
    runs = len(scenario.strategies) * len(scenario.privacy.epsilons) * len(scenario.seeds)
    tuned = ", and as many with the constants that [tune] chooses" if scenario.tune is not None else ""
    if tuned and scenario.training.start == "public":
        tuned = ", with --no-tune: [tune] would choose by the records of training.start = 'public'"
    echo(f"{file}: valid{', apart from what was not checked' if unchecked else ''}, {runs} runs{tuned}")
    for what in unchecked:
        echo(f"not checked: {one_line(what)}, which is not fedtoll's code")


def run(
    name: Name,
    override: Set = None,
    seeds: Seeds = None,
    out: Annotated[Path | None, typer.Option(help="Results folder.", show_default="results/<name>")] = None,
    executor: Executor = "processes",
    workers: Workers = None,
    address: Address = None,
    grid: Annotated[
        str,
        typer.Option(
            metavar="local|flower|superlink",
            help="Run the clients in this process, in a simulation of `flwr run`, or on SuperNodes.",
        ),
    ] = "local",
    superlink: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="With --grid superlink: a SuperLink that runs already."),
    ] = None,
    root_certificates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --grid superlink: the certificate of its certificate."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="With --grid superlink: without encryption.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=1, help="Stop a run after this time; it has failed, the others go on."
        ),
    ] = None,
    force: Force = False,
    no_tune: Annotated[
        bool, typer.Option("--no-tune", help="Ignore [tune]: run the scenario's own constants only.")
    ] = False,
    no_probe: Annotated[
        bool, typer.Option("--no-probe", help="Without [tune]: do not probe other learning rates.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run and how long it takes, and stop.")
    ] = False,
    open_page: Open = False,
    as_json: Json = False,
) -> None:
    """Run a scenario, or resume it.

    Runs that are already in the results folder are not repeated.
    """
    from fedtoll.scenarios.read import find
    from fedtoll.sweep import run as sweep
    from fedtoll.sweep.submit import Connection

    sweep.check_options(executor, grid, timeout, address)
    connection = None
    if grid == "superlink":
        connection = Connection.of(superlink, root_certificates, insecure)
    elif superlink is not None or root_certificates is not None or insecure:
        raise ScenarioError("--superlink, --root-certificates, --insecure: only with --grid superlink")
    planned = sweep.prepare(name, override or (), seeds, grid, tune=not no_tune)
    warn(find(name).name, planned.warning)
    if dry_run:
        if planned.scenario.partition.kind == "declared":
            raise ScenarioError("--dry-run: trains a few rounds here, but the records are on SuperNodes")
        from fedtoll.sweep.dry_run import preview
        from fedtoll.sweep.probe import with_probe

        if planned.scenario.tune is None and grid == "local" and not no_probe:
            planned = with_probe(planned)

        echo(preview(planned, workers, as_json=as_json))
        return
    from fedtoll.progress import training, tuning
    from fedtoll.report import Digest, warm_up
    from fedtoll.server.results import load, readable
    from fedtoll.server.store import Store
    from fedtoll.sweep.executor import ray_address

    folder = out or Path("results") / planned.scenario.name
    store = Store(folder)
    text = find(name).read_text(encoding="utf-8-sig")
    waiting = f"{folder}: in use by another command; waiting for it to finish"
    with store.lock(lambda: complain(waiting)), ray_address(address):
        failures: list[str] = []
        with tuning(planned) as finished:
            planned = sweep.complete(
                planned,
                store,
                executor=executor,
                workers=workers,
                force=force,
                probe=not no_probe and grid == "local",
                timeout=timeout,
                failed=failures.append,
                finished=finished,
            )
        store.open(planned, text, shlex.join(["fedtoll", *sys.argv[1:]]), force=force)
        stored = sum(store.has(run) for run in planned.all_runs)
        if stored:
            console(stderr=True).print(f"{stored} of {len(planned.all_runs)} runs are stored already")
        with training(planned, store) as finished:
            failures += sweep.execute(
                planned,
                store,
                executor=executor,
                workers=workers,
                grid=grid,
                connection=connection,
                timeout=timeout,
                finished=finished,
            )
        for line in failures:
            complain(f"failed: {line}")
        if not any(store.has(run) for run in planned.runs):
            raise typer.Exit(FAILED)
        warm_up()
        results = load(folder)
        digest = Digest(results)  # computes every figure once, for the page and the terminal
        with readable(folder):
            page = write_page(digest)
    if as_json:
        from fedtoll.server.results import skipped_replies

        content = {
            "folder": str(folder),
            "report": str(page),
            "runs": len(planned.all_runs),
            "failed": failures,
            "skipped": sum(skipped_replies(folder, run) for run in planned.all_runs if store.has(run)),
            "toll": json.loads(results.toll().to_json(orient="records", double_precision=15)),
        }
        echo(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        show(digest)
        echo(f"report: {page}")
    if open_page:
        open_in_browser(page)
    if failures:
        raise typer.Exit(FAILED)
