"""Executors: train runs one after another, in several processes, or with Ray.

Only strings and tables are sent between processes. Workers return tables, and only the driver writes. The
executor and the number of workers never change a result.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from fedtoll.scenarios.errors import FedtollError, RunError, one_line
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run
from fedtoll.server.store import Store
from fedtoll.server.trainer import Trainer
from fedtoll.server.workers import ONE_THREAD, PATIENCE, cores, environment, one_thread, spread

EXECUTORS = ("serial", "processes", "ray")

Outcome = tuple[dict[str, Any] | None, str, str]
"""The tables of a run; or, if it failed, ``None``, the error in one line and the traceback."""


def execute(
    runs: Sequence[Run],
    store: Store,
    *,
    executor: str = "processes",
    workers: int | None = None,
    federation: Federation | None = None,
    finished: Callable[[Run], None] = lambda run: None,
) -> list[str]:
    """Train all runs that are not stored yet, and store each as it finishes.

    Parameters
    ----------
    runs
        The runs; those that are already stored are skipped.
    store
        Where results are written.
    executor
        ``serial``; ``processes`` (spawned, one torch thread each); or ``ray`` (a local Ray, or the cluster
        at the address in the environment variable ``RAY_ADDRESS``).
    workers
        Number of runs at once, by default one per core (on a cluster, its own number).
    federation
        The records of the runs, for training in this process; other processes resolve them once each.
    finished
        Called after each run is stored.

    Returns
    -------
    list
        One line for each run that failed; its traceback is under ``errors/``.

    Raises
    ------
    RunError
        If workers keep dying, or a result cannot be written. The run of a killed worker is started again.
    """
    # Sorted by seed, because runs of one seed share records and draws, which a process caches.
    todo = sorted((run for run in runs if not store.has(run)), key=lambda run: run.seed)
    if not todo:
        return []
    texts = [run.to_json() for run in todo]
    trainer = Trainer(federation)
    if executor == "ray":
        outcomes = _ray(trainer, texts, workers)
    else:
        seeds = {text: run.seed for text, run in zip(texts, todo, strict=True)}
        outcomes = spread(
            partial(_train, trainer), texts, 1 if executor == "serial" else workers, share=seeds.get
        )
    failures = []
    for position, (tables, line, trace) in outcomes:
        run = todo[position]
        if tables is None:
            file = store.fail(run, trace)
            failures.append(f"{run.label}: {line} (traceback in {file})")
        else:
            store.write(run, tables)
            finished(run)
    return failures


def _ray(trainer: Trainer, texts: Sequence[str], workers: int | None) -> Iterator[tuple[int, Outcome]]:
    """Train each run as a Ray task; Ray restarts the task of a killed worker."""
    import logging

    import ray

    address = os.environ.get("RAY_ADDRESS")
    started_here = not ray.is_initialized()
    if started_here:
        size: dict[str, Any] = {
            "num_cpus": workers or cores(),
            "include_dashboard": False,
        }
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        with environment({**ONE_THREAD, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}):
            try:
                ray.init(address=address, **quiet, **({} if address else size))
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = address or "this machine"
                raise RunError(f"Ray at {where}: {' '.join(str(error).split())}") from None
    try:

        def train(text: str) -> Outcome:
            one_thread()  # the process may be new
            return _train(trainer, text)

        # Ray unpickles a function once per process, and with it the trainer, which caches the records.
        task = ray.remote(num_cpus=1, max_retries=PATIENCE)(train)
        waiting = {task.remote(text): position for position, text in enumerate(texts)}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            position = waiting.pop(done)
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayError as error:
                outcome = (None, f"{type(error).__name__}: its worker died", str(error))
            yield position, outcome
    finally:
        if started_here:
            ray.shutdown()


def _train(trainer: Trainer, text: str) -> Outcome:
    """Train one run from its JSON, in the driver or in a worker."""
    try:
        return trainer.train(Run.from_json(text)), "", ""
    except FedtollError as error:
        return None, str(error), traceback.format_exc()
    except (Exception, SystemExit) as error:
        return None, one_line(f"{type(error).__name__}: {error}"), traceback.format_exc()
