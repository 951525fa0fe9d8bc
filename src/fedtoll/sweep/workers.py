"""Spread work over processes with one torch thread each: sweeps, audits, tuning and reductions.

A job may run code that is not fedtoll's, e.g. a strategy that forks, crashes or never returns. So every
answer has the number of its job, a forked copy of a worker can neither answer nor keep the pipe open, and a
job that kills its workers or takes too long is given up, while the others go on.
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
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from fedtoll.scenarios.errors import FedtollError, RunError, one_line
from fedtoll.scenarios.foreign import contained
from fedtoll.scenarios.spawning import start

PATIENCE = 3
"""Number of workers in a row that may die before they can take a job, before giving up."""

DEATHS = 2
"""Number of workers that may die on one job before it is given up. One death can have another cause."""

START_SECONDS, END_SECONDS = 60.0, 3.0
"""Seconds that a worker with a time limit may take to start, and any to end after SIGTERM."""

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
    lost: Callable[[str], Result] | None = None,
    timeout: float | None = None,
    apart: bool = False,
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
    lost
        Returns the result of a job that was given up, from the reason in a few words; the other jobs go on.
    timeout
        Seconds after which a job is stopped and given up; no limit by default.
    apart
        Whether a single worker is a process too, because a job might end or block the process that does it.
        With a time limit it always is.

    Raises
    ------
    RunError
        If workers keep dying at their start; or, without ``lost``, if a job is given up. A job whose worker
        died is repeated by a new one, until ``DEATHS`` have died.
    Exception
        What ``work`` raises. An unexpected error in a worker has its traceback as a note.
    """
    count = min(workers or cores(), len(jobs))
    if not count or (count == 1 and timeout is None and not apart):
        one_thread()
        for position, job in enumerate(jobs):
            yield position, work(job)
        return
    # Each worker has its own pipe, which closes when the worker dies, even in the middle of a result. With
    # one pipe shared by a pool, the driver would wait for the rest forever.
    todo = list(range(len(jobs)))
    keys = [share(job) for job in jobs]
    team = [_Worker(work, timeout) for _ in range(count)]
    deaths: Counter[int] = Counter()
    failed_starts = 0
    try:
        for worker in team:
            worker.take(jobs, keys, todo, team)
        while busy := [worker for worker in team if worker.position is not None]:
            for worker in _to_hear(busy):
                current = worker.position
                assert current is not None
                try:
                    answer = worker.answer()
                except _LostError as loss:
                    worker.end()
                    if not worker.ready:
                        failed_starts += 1
                        if failed_starts == PATIENCE:
                            raise RunError(
                                f"worker processes keep dying at their start ({loss}); "
                                "the same command resumes, fewer --workers need less memory"
                            ) from None
                        todo.append(current)
                    else:
                        deaths[current] += 1
                        if worker.overdue or deaths[current] == DEATHS:
                            if lost is None:
                                raise RunError(f"{loss}; fewer --workers need less memory") from None
                            yield current, lost(str(loss))
                        else:
                            todo.append(current)
                    team.remove(worker)
                    if not todo:
                        continue
                    team.append(worker := _Worker(work, timeout))
                else:
                    failed_starts = 0
                    if answer is None:  # it is ready
                        continue
                    result, error = answer
                    if error is not None:
                        raise error
                    yield current, result
                worker.take(jobs, keys, todo, team)
    finally:
        for worker in team:
            worker.end()


def _to_hear(busy: Sequence[_Worker]) -> list[_Worker]:
    """Wait until some workers answered or died, or one is overdue, and return these."""
    deadlines = [worker.deadline for worker in busy if worker.deadline is not None]
    patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
    heard = wait([worker.pipe for worker in busy], patience)
    return [worker for worker in busy if worker.pipe in heard or worker.overdue]


class _LostError(Exception):
    """A worker died, was stopped, or answered another job. The message is the reason in a few words."""


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
    ready
        Whether it can do jobs, i.e. has imported what it needs.
    deadline
        When its current job is overdue, on the monotonic clock, or ``None``.
    """

    _numbers = itertools.count(1)

    def __init__(self, work: Callable[[Any], Any], timeout: float | None = None) -> None:
        self.position: int | None = None
        self.key: Any = None
        self.ready = False
        self.deadline: float | None = None
        self._timeout = timeout
        self._number = 0
        self.pipe, workers_end = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(work, workers_end), daemon=True
        )
        multiprocessing.resource_tracker.ensure_running()  # starting it later would unblock interrupts
        # The child inherits the blocked signal: an interrupt at the terminal is for the driver alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with environment(ONE_THREAD):  # inherited by the worker
                start(self._process)
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
            if self._timeout is not None:
                self.deadline = time.monotonic() + self._timeout + (0 if self.ready else START_SECONDS)
            with suppress(OSError), self._killed_when_overdue():  # dead: the next read notices
                self.pipe.send((self._number, jobs[self.position]))

    @property
    def overdue(self) -> bool:
        """Whether its current job has taken too long."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def answer(self) -> tuple[Any, Exception | None] | None:
        """Return the result or the error of the current job; ``None`` if the worker says that it is ready.

        Raises
        ------
        _LostError
            If the worker died, is overdue, or answered another job, so that nothing it says can be used.
        """
        try:
            if not self.pipe.poll():
                raise _LostError(f"not finished after {self._timeout:g} s")
            with self._killed_when_overdue():
                number, result, error = self.pipe.recv()
        except (EOFError, OSError):
            if self.overdue:
                raise _LostError(f"not finished after {self._timeout:g} s") from None
            raise _LostError(self._death()) from None
        if number == _READY:
            self.ready = True
            self.deadline = None if self._timeout is None else time.monotonic() + self._timeout
            return None
        if number != self._number:
            raise _LostError("its worker process answered another job")
        return result, error

    @contextmanager
    def _killed_when_overdue(self) -> Iterator[None]:
        """Kill the process if the block, which exchanges a message with it, takes longer than its job may.

        A process that is stopped in the middle of a message would block the driver for ever.
        """
        if self.deadline is None:
            yield
            return
        left = max(0.0, self.deadline - time.monotonic()) + 0.01  # overdue for certain when it is killed
        timer = threading.Timer(left, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _death(self) -> str:
        """Return how the process ended, in a few words."""
        self._process.join(END_SECONDS)
        code = self._process.exitcode
        if code is None:
            return "its worker process closed its pipe"
        if code >= 0:
            return f"its worker process exited with code {code}"
        hint = ", out of memory?" if -code == signal.SIGKILL else ""
        return f"its worker process was killed by signal {-code} ({signal.Signals(-code).name}{hint})"

    def end(self) -> None:
        """End the process, even in the middle of a job, and even if it ignores SIGTERM."""
        self._process.terminate()
        self._process.join(END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.pipe.close()


_READY = 0
"""The number with which a worker says that it is ready; jobs count from 1."""


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    """Do the jobs that the driver sends, with one torch thread, until the driver exits."""
    if "torch" in sys.modules:  # otherwise ONE_THREAD holds when it is imported, which takes seconds
        one_thread()
    os.dup2(2, 1)  # results are on the driver's stdout; what a job prints goes to stderr
    driver = multiprocessing.parent_process()

    def exit_with_driver() -> None:
        if driver is not None:
            driver.join()
        os._exit(1)

    threading.Thread(target=exit_with_driver, daemon=True).start()
    os.register_at_fork(after_in_child=pipe.close)  # else the pipe stays open when this process dies
    pipe.send((_READY, None, None))
    while True:
        number, job = pipe.recv()
        try:
            with contained():
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
