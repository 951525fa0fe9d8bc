"""How the runs are spread: one after the other, or over processes.

Only strings and tables cross a process. Workers return tables; the driver
alone writes. The executor and the number of workers never change a result.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from fedtoll.scenarios.errors import FedtollError, RunError
from fedtoll.scenarios.run import Run
from fedtoll.server.results import Store

EXECUTORS = ("serial", "processes")

_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}

Outcome = tuple[Run, dict[str, Any] | None, str, str]
"""A run, its tables or ``None``, and for a failure one line and its traceback."""


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
        ``serial`` or ``processes``.
    workers
        Number of processes, by default one a core.
    finished
        Called after each run that was stored.

    Returns
    -------
    list
        One line for each run that failed; its traceback is under ``errors/``.
    """
    todo = [run for run in runs if not store.has(run)]
    workers = min(workers or len(os.sched_getaffinity(0)), max(1, len(todo)))
    spread = _serial(todo) if executor == "serial" or workers == 1 else _processes(todo, workers)
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
    if runs:
        _one_thread()
    for run in runs:
        yield (run, *_train(run.to_json()))


def _processes(runs: Sequence[Run], workers: int) -> Iterator[Outcome]:
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)  # inherited by the spawned workers
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread)
    try:
        futures = {pool.submit(_train, run.to_json()): run for run in runs}
        while futures:
            done, _ = wait(futures, return_when=FIRST_COMPLETED)
            for future in done:
                yield (futures.pop(future), *future.result())
    except BrokenProcessPool:
        raise RunError(
            "a worker process died (killed, or out of memory?); run the same command again to resume"
        ) from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _one_thread() -> None:
    """Give this process one torch thread: on a busy machine two are many times slower."""
    import torch

    torch.set_num_threads(1)


def _train(text: str) -> tuple[dict[str, Any] | None, str, str]:
    """Train one run from its JSON, in whatever process this is."""
    from fedtoll.server.app import simulate

    try:
        return simulate(Run.from_json(text)), "", ""
    except FedtollError as error:
        return None, str(error), traceback.format_exc()
    except Exception as error:
        return None, f"{type(error).__name__}: {error}", traceback.format_exc()
