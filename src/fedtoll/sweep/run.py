"""Run a whole scenario: plan, tune, train and store its runs, for the command line and ``fedtoll.run``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from fedtoll.cluster.ray_executor import check_address
from fedtoll.scenarios import read as scenarios
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server import plan as plans
from fedtoll.server.store import Store
from fedtoll.sweep import cache
from fedtoll.sweep import executor as executors
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
    return plan_for(scenario, scenarios.find(name).name, grid, like, tune)


def plan_for(
    scenario: Scenario,
    file: str,
    grid: str = "local",
    like: Federation | None = None,
    tune: bool = True,
) -> plans.Plan:
    """Plan the runs of a scenario for a grid, as :func:`prepare` does; error lines begin with ``file``."""
    if not tune:
        scenario = scenario.model_copy(update={"tune": None})
    if grid != "local" and scenario.tune is not None:
        raise ScenarioError(
            f"{file}: [tune]: needs --grid local or --no-tune; `flwr run` reads constants from the file"
        )
    if scenario.tune is not None and scenario.training.start == "public":
        raise ScenarioError(
            f"{file}: training.start = 'public': needs --no-tune: [tune] would choose by the records that "
            "the first model was trained on"
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
            store.no_failure(run)
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
        from fedtoll.sweep import superlink

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


def check_options(
    executor: str,
    grid: str,
    timeout: float | None = None,
    address: str | None = None,
    workers: int | None = None,
) -> None:
    """Raise ``ScenarioError`` if an option has no such value, or does not go with the executor or grid."""
    for option, value, known in (("executor", executor, executors.EXECUTORS), ("grid", grid, GRIDS)):
        if value not in known:
            raise ScenarioError(f"{option} {value!r} is unknown{nearest(str(value), known)}")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ScenarioError(f"workers = {workers!r}: must be a whole number of 1 or more")
    if timeout is not None and grid == "local" and executor == "serial":
        raise ScenarioError("--timeout: the executor 'serial' cannot stop a run; use processes")
    if address is not None:
        if executor != "ray" or grid != "local":
            used = f"--executor {executor}" if grid == "local" else f"--grid {grid}"
            raise ScenarioError(f"--address {address}: {used} has no cluster; needs --executor ray")
        check_address(address, "--address")
