"""Spread work over processes of one torch thread each: for sweeps, audits, tuning and reductions."""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from fedtoll.scenarios.errors import RunError, one_line

PATIENCE = 3
"""How many workers may die in a row, with no job finished in between, before the command gives up."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

Job = TypeVar("Job")
Result = TypeVar("Result")


def cores() -> int:
    """Return how many cores this process may use; outside Linux, how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_thread() -> None:
    """Give this process one torch thread: on a busy machine two are many times slower."""
    import torch

    torch.set_num_threads(1)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables, and restore the earlier ones at the end."""
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
    """Do every job; yield its position and its result as it ends, in any order.

    Parameters
    ----------
    work
        A function of a module, so that a process can import it.
    jobs
        Strings, or tuples of them: nothing else crosses a process.
    workers
        How many processes, by default one per core. A single one works in this process.
    share
        What jobs have in common that a process caches, e.g. a seed's records. A worker prefers jobs like
        its last one, then those that no other worker is like.

    Raises
    ------
    RunError
        When workers keep dying. The job of a worker that died is done again by a new one.
    """
    count = min(workers or cores(), len(jobs))
    if count <= 1:
        one_thread()
        for position, job in enumerate(jobs):
            yield position, work(job)
        return
    # A pipe that only one worker writes to ends with that worker, even in the middle of a result. In a pool
    # with one shared pipe, the driver would wait for the rest for ever.
    todo = list(range(len(jobs)))
    likeness = [share(job) for job in jobs]
    team = [_Worker(work) for _ in range(count)]
    deaths = 0
    try:
        for worker in team:
            worker.take(jobs, likeness, todo, team)
        while busy := {worker.pipe: worker for worker in team if worker.position is not None}:
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                current = worker.position
                assert current is not None
                try:
                    result, error = worker.pipe.recv()
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
                worker.take(jobs, likeness, todo, team)
    finally:
        for worker in team:
            worker.end()


class _Worker:
    """A spawned process that does one job after the other.

    Attributes
    ----------
    pipe
        The driver's end.
    position
        The job that it does now, if any.
    likeness
        What its last job shares with others.
    """

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.position: int | None = None
        self.likeness: Any = None
        self.pipe, workers_end = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(work, workers_end), daemon=True
        )
        multiprocessing.resource_tracker.ensure_running()  # starting it later would unblock interrupts
        # The child inherits the block: the terminal's interrupt is for the driver alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with environment(ONE_THREAD):  # inherited by the worker
                self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        workers_end.close()

    def take(
        self, jobs: Sequence[Any], likeness: Sequence[Any], todo: list[int], team: Sequence[_Worker]
    ) -> None:
        """Send the next job: one like the last, or one that no other worker's job is like."""
        taken = [w.likeness for w in team if w is not self and w.position is not None]
        self.position = min(
            todo, key=lambda i: (likeness[i] != self.likeness, likeness[i] in taken), default=None
        )
        if self.position is not None:
            todo.remove(self.position)
            self.likeness = likeness[self.position]
            with suppress(OSError):  # dead already, which the next read finds
                self.pipe.send(jobs[self.position])

    def end(self) -> None:
        """End the process at once, whatever it does."""
        self._process.terminate()
        self._process.join()
        self.pipe.close()


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    """Do what the driver sends until the driver is gone; one torch thread."""
    one_thread()
    driver = multiprocessing.parent_process()

    def follow() -> None:
        if driver is not None:
            driver.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    while True:
        job = pipe.recv()
        try:
            answer: tuple[Any, Exception | None] = work(job), None
        except Exception as error:
            answer = None, _portable(error)
        pipe.send(answer)


def _portable(error: Exception) -> Exception:
    """Return an error as it can cross the pipe: itself, or one line where it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RunError(one_line(f"{type(error).__name__}: {error}"))
    return error
