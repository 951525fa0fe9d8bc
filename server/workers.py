"""Spread work over processes with one torch thread each: sweeps, audits, tuning and reductions.

A job may run code that is not fedtoll's, e.g. a strategy that forks. So every answer has the number of its
job, and a forked copy of a worker can neither answer nor keep the worker's pipe open.
"""

from __future__ import annotations

import itertools
import multiprocessing
import multiprocessing.resource_tracker
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from fedtoll.scenarios.errors import FedtollError, RunError, one_line
from fedtoll.scenarios.forks import forks_end_here

PATIENCE = 3
"""Number of workers that may die in a row, with no job finished in between, before giving up."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

Job = TypeVar("Job")
Result = TypeVar("Result")


def cores() -> int:
    """Return the number of cores that this process may use; outside Linux, of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_thread() -> None:
    """Set torch to one thread: on a busy machine two are many times slower."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables, and restore their previous values at the end."""
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


def spread(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int | None = None,
    *,
    share: Callable[[Job], Any] = lambda job: None,
) -> Iterator[tuple[int, Result]]:
    """Run ``work`` on every job; yield each position and result as it finishes, in any order.

    Parameters
    ----------
    work
        A module-level function, or a partial of one, so that a process can import it. What a partial holds is
        sent once per process and kept between jobs.
    jobs
        Strings or tuples of strings; nothing else is sent to a process.
    workers
        Number of processes, by default one per core. With one, the work is done in this process.
    share
        Returns the key of what jobs share and a process caches, e.g. the seed of its records. A worker
        prefers jobs with the key of its last job, then jobs whose key no other worker has.

    Raises
    ------
    RunError
        If workers keep dying. The job of a worker that died is repeated by a new one.
    Exception
        What ``work`` raises. An unexpected error in a worker has its traceback as a note.
    """
    count = min(workers or cores(), len(jobs))
    if count <= 1:
        one_thread()
        for position, job in enumerate(jobs):
            yield position, work(job)
        return
    # Each worker has its own pipe, which closes when the worker dies, even in the middle of a result. With
    # one pipe shared by a pool, the driver would wait for the rest forever.
    todo = list(range(len(jobs)))
    keys = [share(job) for job in jobs]
    team = [_Worker(work) for _ in range(count)]
    deaths = 0
    try:
        for worker in team:
            worker.take(jobs, keys, todo, team)
        while busy := {worker.pipe: worker for worker in team if worker.position is not None}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                current = worker.position
                assert current is not None
                try:
                    result, error = worker.answer()
                except (EOFError, OSError):
                    deaths += 1
                    if deaths == PATIENCE:
                        raise RunError(
                            "worker processes keep dying (killed, or out of memory?); "
                            "the same command resumes, fewer --workers need less memory"
                        ) from None
                    todo.append(current)
                    worker.end()
                    team[team.index(worker)] = worker = _Worker(work)
                else:
                    deaths = 0
                    if error is not None:
                        raise error
                    yield current, result
                worker.take(jobs, keys, todo, team)
    finally:
        for worker in team:
            worker.end()


class _Worker:
    """A spawned process that does one job after another.

    Attributes
    ----------
    pipe
        The driver's end of the pipe.
    position
        Position of the current job, or ``None``.
    key
        The sharing key of its last job.
    """

    _numbers = itertools.count()

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.position: int | None = None
        self.key: Any = None
        self._number = -1
        self.pipe, workers_end = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(work, workers_end), daemon=True
        )
        multiprocessing.resource_tracker.ensure_running()  # starting it later would unblock interrupts
        # The child inherits the blocked signal: an interrupt at the terminal is for the driver alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with environment(ONE_THREAD):  # inherited by the worker
                self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        workers_end.close()

    def take(
        self, jobs: Sequence[Any], keys: Sequence[Any], todo: list[int], team: Sequence[_Worker]
    ) -> None:
        """Send the next job: preferably one with this worker's key, then one with a key nobody has."""
        busy_keys = [w.key for w in team if w is not self and w.position is not None]
        self.position = min(todo, key=lambda i: (keys[i] != self.key, keys[i] in busy_keys), default=None)
        if self.position is not None:
            todo.remove(self.position)
            self.key = keys[self.position]
            self._number = next(self._numbers)
            with suppress(OSError):  # the worker is dead, which the next read notices
                self.pipe.send((self._number, jobs[self.position]))

    def answer(self) -> tuple[Any, Exception | None]:
        """Read the result or the error of the current job.

        Raises
        ------
        EOFError, OSError
            If the worker died, or answered another job, so that nothing it says can be used.
        """
        number, result, error = self.pipe.recv()
        if number != self._number:
            raise EOFError("it answered another job")
        return result, error

    def end(self) -> None:
        """Terminate the process, even in the middle of a job."""
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    """Do the jobs that the driver sends, with one torch thread, until the driver exits."""
    if "torch" in sys.modules:  # otherwise ONE_THREAD holds when it is imported, which takes seconds
        one_thread()
    driver = multiprocessing.parent_process()

    def exit_with_driver() -> None:
        if driver is not None:
            driver.join()
        os._exit(1)

    threading.Thread(target=exit_with_driver, daemon=True).start()
    os.register_at_fork(after_in_child=pipe.close)  # else the pipe stays open when this process dies
    while True:
        number, job = pipe.recv()
        with forks_end_here():
            try:
                outcome: tuple[Any, Exception | None] = work(job), None
            except (Exception, SystemExit) as error:
                outcome = None, _portable(error)
        pipe.send((number, *outcome))


def _portable(error: Exception | SystemExit) -> Exception:
    """Return the error, with its traceback as a note unless it is a ``FedtollError``.

    An error that cannot be pickled, or that would end the driver, becomes a one-line ``RunError``.
    """
    sent: Exception = RunError(one_line(f"{type(error).__name__}: {error}"))
    if isinstance(error, Exception):
        with suppress(Exception):
            sent = pickle.loads(pickle.dumps(error))
    if not isinstance(error, FedtollError):
        trace = "".join(traceback.format_exception(error)).rstrip()
        sent.add_note(f"In a worker process:\n{trace}")  # pickling keeps notes, but no traceback
    return sent
