"""Run a whole scenario: tune, train, store and load its runs. Called by the command line and by users."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from fedtoll.cluster.ray_executor import check_address
from fedtoll.scenarios import read as scenarios
from fedtoll.scenarios.errors import RunError, ScenarioError, nearest
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run
from fedtoll.server import executor as executors
from fedtoll.server import plan as plans
from fedtoll.server.results import Results, load
from fedtoll.server.store import Store
from fedtoll.sweep import cache
from fedtoll.sweep.converged import converged
from fedtoll.sweep.probe import with_probe
from fedtoll.sweep.submit import Connection
from fedtoll.sweep.tune import tune as choose

GRIDS = ("local", "flower", "superlink")


def prepare(
    name: str,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    grid: str = "local",
    like: Federation | None = None,
    tune: bool = True,
) -> plans.Plan:
    """Read a scenario and plan its runs for a grid, without training or writing anything.

    The table of the federation ``like`` is shared if the records are the same. Without ``tune``, the section
    ``[tune]`` is ignored.

    Raises
    ------
    ScenarioError
        In one line, for any mistake in the scenario.
    """
    scenario = scenarios.read(name, overrides, seeds)
    if not tune:
        scenario = scenario.model_copy(update={"tune": None})
    file = scenarios.find(name).name
    if grid != "local" and scenario.tune is not None:
        raise ScenarioError(
            f"{file}: [tune]: needs --grid local or --no-tune; `flwr run` reads constants from the file"
        )
    if grid != "superlink" and scenario.partition.kind == "declared":
        raise ScenarioError(
            f"{file}: partition.kind = 'declared': clients are SuperNodes; needs --grid superlink"
        )
    return plans.plan(scenario, file, separate=grid != "local", like=like)


def complete(
    planned: plans.Plan,
    store: Store,
    *,
    executor: str = "processes",
    workers: int | None = None,
    force: bool = False,
    probe: bool = True,
    timeout: float | None = None,
    failed: Callable[[str], object] | None = None,
    finished: Callable[[Run], None] = lambda run: None,
) -> plans.Plan:
    """Return the plan with the constants that ``[tune]`` chose, or with a probe if there is no ``[tune]``.

    The plan also gets the loss of a converged central model, with which the report compares ε = ∞.

    Parameters
    ----------
    planned, store
        The scenario's plan, and its results folder, which keeps the losses of the candidates.
    executor, workers
        How candidates are distributed.
    force
        Accept candidates that were trained with other versions of the libraries.
    probe
        Whether to probe other learning rates if nothing is tuned and a probe is cheap.
    timeout
        Seconds after which a candidate's run is stopped and has failed; no limit by default.
    failed
        Called with one line for each run of a candidate that failed; what it says is also in ``errors/``. By
        default, the first failure ends tuning.
    finished
        Called for each run of a candidate.

    Raises
    ------
    ScenarioError
        If anything stored in the folder is of other library versions; nothing is trained then.
    RunError
        If all candidates of a strategy diverged or failed, or one fails without ``failed``.
    """
    if not force and any((store.folder / "runs").glob("*/run.json")):
        store.check_versions()
    resolved = store.resolved()
    if planned.scenario.tune is not None:
        folder = cache.open_folder(store.folder / "tuning", resolved, force=force)

        def note(run: Run, line: str, trace: str) -> None:
            file = store.fail(run, trace or f"{line}\n")
            assert failed is not None
            failed(f"a candidate of {run.label}: {line} ({'traceback' if trace else 'noted'} in {file})")

        def done(run: Run) -> None:
            (store.folder / "errors" / f"{run.hash}.txt").unlink(missing_ok=True)
            finished(run)

        planned = choose(
            planned,
            folder,
            executor=executor,
            workers=workers,
            timeout=timeout,
            failed=None if failed is None else note,
            finished=done,
        )
    elif probe:
        planned = with_probe(planned)
    folder = cache.open_folder(store.folder / "converged", resolved, force=force)
    if (loss := converged(planned, folder)) is not None:
        planned = dataclasses.replace(planned, facts={**planned.facts, "converged": loss})
    return planned


def execute(
    planned: plans.Plan,
    store: Store,
    *,
    executor: str = "processes",
    workers: int | None = None,
    grid: str = "local",
    connection: Connection | None = None,
    timeout: float | None = None,
    finished: Callable[[Run], None] = lambda run: None,
) -> list[str]:
    """Train all runs that are not stored yet; return one line for each that failed."""
    if grid != "local":
        from fedtoll.server import superlink

        connect = connection.open if connection is not None else None
        return superlink.execute(planned, store, timeout=timeout, finished=finished, connect=connect)
    return executors.execute(
        planned.all_runs,
        store,
        executor=executor,
        workers=workers,
        federation=planned.federation,
        timeout=timeout,
        finished=finished,
    )


def check_options(executor: str, grid: str, timeout: float | None = None, address: str | None = None) -> None:
    """Raise ``ScenarioError`` if the executor or grid is unknown, or an option does not go with it."""
    for option, value, known in (("executor", executor, executors.EXECUTORS), ("grid", grid, GRIDS)):
        if value not in known:
            raise ScenarioError(f"{option} {value!r} is unknown{nearest(value, known)}")
    if timeout is not None and grid == "local" and executor == "serial":
        raise ScenarioError("--timeout: the executor 'serial' cannot stop a run; use processes")
    if address is not None:
        if executor != "ray" or grid != "local":
            used = f"--executor {executor}" if grid == "local" else f"--grid {grid}"
            raise ScenarioError(f"--address {address}: {used} has no cluster; needs --executor ray")
        check_address(address, "--address")


def run(
    scenario: str,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    executor: str = "processes",
    workers: int | None = None,
    address: str | None = None,
    force: bool = False,
    tune: bool = True,
    probe: bool = True,
) -> Results:
    """Run a scenario and return its results; calling it again resumes.

    Parameters
    ----------
    scenario
        A built-in name or the path of a TOML file.
    out
        The results folder, by default ``results/<name>``.
    overrides
        ``"key=value"`` with TOML literals, e.g. ``["training.rounds=10"]``.
    seeds
        A range such as ``"0:10"`` that replaces the scenario's seeds.
    executor, workers
        ``serial``, ``processes`` or ``ray``, and the number of workers. No worker runs the calling script
        again, so a script needs no ``if __name__ == "__main__"``; notebooks and pipes work too.
    address
        For ``ray``: ``HOST:PORT`` of a cluster's head node, by default that of the environment variable
        ``RAY_ADDRESS``, else a Ray is started on this machine.
    force
        Accept stored runs that were made with other versions of the libraries.
    tune
        Whether to choose constants as ``[tune]`` says; without, only the scenario's own recipe is run.
    probe
        Whether to probe other learning rates if nothing is tuned and a probe is cheap.

    Raises
    ------
    ScenarioError
        If the scenario has a mistake.
    RunError
        If a run, or a run of a candidate, failed; the others are stored.

    Warns
    -----
    UserWarning
        If δ is large for the number of records.
    """
    check_options(executor, "local", address=address)
    planned = prepare(scenario, overrides, seeds, tune=tune)
    if planned.warning:
        warnings.warn(planned.warning, UserWarning, stacklevel=2)
    folder = Path(out) if out is not None else Path("results") / planned.scenario.name
    store = Store(folder)
    text = scenarios.find(scenario).read_text(encoding="utf-8")
    lines: list[str] = []
    with store.lock(), executors.ray_address(address):
        planned = complete(
            planned, store, executor=executor, workers=workers, force=force, probe=probe, failed=lines.append
        )
        store.open(planned, text, f"fedtoll.run({scenario!r})", force=force)
        if failures := execute(planned, store, executor=executor, workers=workers):
            raise RunError(f"{len(failures)} of {len(planned.all_runs)} runs failed: {failures[0]}")
        if lines:
            raise RunError(f"{len(lines)} runs of candidates failed: {lines[0]}")
        return load(folder)
