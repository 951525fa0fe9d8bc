"""Work that is spread over processes beside a sweep's: one torch thread each, results as they come."""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from fedtoll.scenarios.errors import RunError
from fedtoll.server.executor import ONE_THREAD, cores, environment, one_thread

Job = TypeVar("Job")
Result = TypeVar("Result")


def spread(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int | None = None
) -> Iterator[tuple[int, Result]]:
    """Do every job; yield its position and its result as it ends, in any order.

    Parameters
    ----------
    work
        A function of a module, so that a process can import it.
    jobs
        Strings, or tuples of them.
    workers
        How many at once, by default one a core. One works in this process.

    Raises
    ------
    RunError
        When a worker died.
    """
    count = min(workers or cores(), len(jobs))
    if count <= 1:
        for i, job in enumerate(jobs):
            yield i, work(job)
        return
    spawn = multiprocessing.get_context("spawn")
    with environment(ONE_THREAD), ProcessPoolExecutor(count, spawn, initializer=one_thread) as pool:
        multiprocessing.resource_tracker.ensure_running()  # its start would let interrupts in again
        # What is blocked here is blocked there too: the terminal's interrupt is for the driver alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            position = {pool.submit(work, job): i for i, job in enumerate(jobs)}
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            for done in as_completed(position):
                yield position[done], done.result()
        except (KeyboardInterrupt, GeneratorExit):
            for process in list((pool._processes or {}).values()):
                process.terminate()  # else it would end its job first
            raise
        except BrokenProcessPool:
            raise RunError(
                "a worker process died (killed, or out of memory?); the same command resumes, "
                "fewer --workers need less memory"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
