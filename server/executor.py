"""How the runs are spread: one after the other, over processes, or over Ray.

Only strings and tables cross a process. Workers return tables; the driver
alone writes. The executor and the number of workers never change a result.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from fedtoll.scenarios.errors import FedtollError, RunError, one_line
from fedtoll.scenarios.run import Run
from fedtoll.server.results import Store

EXECUTORS = ("serial", "processes", "ray")

PATIENCE = 3
"""How many workers in a row may die before any run ends, until the command gives up."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

Outcome = tuple[Run, dict[str, Any] | None, str, str]
"""A run, its tables or ``None``, and for a failure one line and its traceback."""


def cores() -> int:
    """Return how many cores this process may use; outside Linux, how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def execute(
    runs: Sequence[Run],
    store: Store,
    *,
    executor: str = "processes",
    workers: int | None = None,
    finished: Callable[[Run], None] = lambda run: None,
) -> list[str]:
    """Train every run that the store does not hold, and store each as it ends.

    Parameters
    ----------
    runs
        What to train; those already stored are passed over.
    store
        Where results go.
    executor
        ``serial``; ``processes`` (spawned, one torch thread each); or ``ray``: a local Ray, or the
        cluster at the address in the environment variable ``RAY_ADDRESS``.
    workers
        How many at once, by default one a core (a cluster's own number).
    finished
        Called after each run that was stored.

    Returns
    -------
    list
        One line for each run that failed; its traceback is under ``errors/``.

    Raises
    ------
    RunError
        When workers keep dying. The run of a worker that was killed once is started again.
    """
    # Runs of one seed after each other: they share their records and draws.
    todo = sorted((run for run in runs if not store.has(run)), key=lambda run: run.seed)
    if not todo:
        return []
    count = min(workers or cores(), len(todo))
    if executor == "ray":
        spread = _ray(todo, workers)
    elif executor == "serial" or count == 1:
        spread = _serial(todo)
    else:
        spread = _processes(todo, count)
    failures = []
    for run, tables, line, trace in spread:
        if tables is None:
            kept = store.fail(run, trace)
            failures.append(f"{run.label}: {line} (traceback in {kept})")
        else:
            store.write(run, tables)
            finished(run)
    return failures


def _serial(runs: Sequence[Run]) -> Iterator[Outcome]:
    one_thread()
    for run in runs:
        yield (run, *_train(run.to_json()))


def _processes(runs: Sequence[Run], workers: int) -> Iterator[Outcome]:
    """Train over spawned processes, each with a pipe of its own; a worker that dies is replaced.

    A pipe that only the worker can write to ends when the worker does, even in the midst of a table:
    a pool that shares one pipe waits for the rest for ever.
    """
    todo = list(runs)
    team = [_Worker() for _ in range(workers)]
    deaths = 0
    try:
        for worker in team:
            worker.take(todo, team)
        while busy := {worker.pipe: worker for worker in team if worker.run is not None}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                run = worker.run
                assert run is not None
                try:
                    outcome = worker.pipe.recv()
                except (EOFError, OSError):
                    deaths += 1
                    if deaths == PATIENCE:
                        raise RunError(
                            "worker processes keep dying (killed, or out of memory?); "
                            "the same command resumes, fewer --workers need less memory"
                        ) from None
                    todo.append(run)
                    worker.end()
                    team[team.index(worker)] = worker = _Worker()
                else:
                    deaths = 0
                    yield (run, *outcome)
                worker.take(todo, team)
    finally:
        for worker in team:
            worker.end()


class _Worker:
    """A spawned process that trains one run after the other; the run that it has now, and that run's seed."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.seed: int | None = None
        self.pipe, its = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_work, args=(its,), daemon=True)
        multiprocessing.resource_tracker.ensure_running()  # its start would let interrupts in again
        # What is blocked here is blocked there too: the terminal's interrupt is for the driver alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with environment(ONE_THREAD):  # inherited by the worker
                self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        its.close()

    def take(self, todo: list[Run], team: Sequence[_Worker]) -> None:
        """Send the next run: of the seed that this worker has at hand, or of one that no other has."""
        taken = {worker.seed for worker in team if worker is not self and worker.run is not None}
        self.run = min(todo, key=lambda run: (run.seed != self.seed, run.seed in taken), default=None)
        if self.run is not None:
            todo.remove(self.run)
            self.seed = self.run.seed
            with suppress(OSError):  # dead already, which the next read finds
                self.pipe.send(self.run.to_json())

    def end(self) -> None:
        """End the process at once, whatever it does."""
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def _work(pipe: Connection) -> None:
    """Train what the driver sends until it is gone; one torch thread."""
    one_thread()
    driver = multiprocessing.parent_process()

    def follow() -> None:
        if driver is not None:
            driver.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    while True:
        pipe.send(_train(pipe.recv()))


def _ray(runs: Sequence[Run], workers: int | None) -> Iterator[Outcome]:
    """Train each run as a Ray task; Ray itself starts the task of a killed worker again."""
    import logging

    import ray

    address = os.environ.get("RAY_ADDRESS")
    ours = not ray.is_initialized()
    if ours:
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
        task = ray.remote(num_cpus=1, max_retries=PATIENCE)(_train_alone)
        waiting = {task.remote(run.to_json()): run for run in runs}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            run = waiting.pop(done)
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayError as error:
                outcome = (None, f"{type(error).__name__}: its worker died", str(error))
            yield (run, *outcome)
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes that are started within, and undo it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def one_thread() -> None:
    """Give this process one torch thread: on a busy machine two are many times slower."""
    import torch

    torch.set_num_threads(1)


def _train_alone(text: str) -> tuple[dict[str, Any] | None, str, str]:
    """Train one run in a Ray worker, which may be new."""
    one_thread()
    return _train(text)


def _train(text: str) -> tuple[dict[str, Any] | None, str, str]:
    """Train one run from its JSON, in whatever process this is."""
    from fedtoll.server.app import simulate

    try:
        return simulate(Run.from_json(text)), "", ""
    except FedtollError as error:
        return None, str(error), traceback.format_exc()
    except (Exception, SystemExit) as error:
        return None, one_line(f"{type(error).__name__}: {error}"), traceback.format_exc()
