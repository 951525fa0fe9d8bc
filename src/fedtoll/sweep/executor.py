"""Executors: do jobs, most of all runs, one after another, in several processes, or with Ray.

Only strings and tables are sent between processes. Workers return tables, and only the driver writes. The
executor and the number of workers never change a result.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from fedtoll.cluster.ray_executor import check_address, distribute
from fedtoll.scenarios.errors import FedtollError, one_line
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.foreign import contained
from fedtoll.scenarios.run import Run
from fedtoll.server.store import Store
from fedtoll.server.trainer import Failed, Trainer
from fedtoll.sweep.groups import groups
from fedtoll.sweep.workers import DEATHS, cores, environment, one_thread, spread

EXECUTORS = ("serial", "processes", "ray")

RAY_TIMEOUT = 10_800.0
"""Seconds that a job may take on Ray if no limit is given: a frozen machine must not stop a sweep forever."""

Job = TypeVar("Job")

Outcome = tuple[Any, str, str]
"""What a job returned; or, if it failed, ``None``, the error in one line and the traceback."""


def execute(
    runs: Sequence[Run],
    store: Store,
    *,
    executor: str = "processes",
    workers: int | None = None,
    federation: Federation | None = None,
    timeout: float | None = None,
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
        at :func:`ray_address`, else at the environment variable ``RAY_ADDRESS``).
    workers
        Number of runs at once, by default one per core (on a cluster, its own number).
    federation
        The records of the runs, for training in this process; other processes resolve them once each.
    timeout
        Seconds after which a run is stopped and has failed; on Ray, after a second try. No limit by default
        for ``processes``, :data:`RAY_TIMEOUT` for ``ray``; none for ``serial``.
    finished
        Called after each run is stored.

    Returns
    -------
    list
        One line for each run that failed; its traceback is under ``errors/``. A run also fails if it is
        stopped, or if its worker dies twice; after the first death it is started again.

    Raises
    ------
    RunError
        If workers cannot start, or a result cannot be written.
    """
    todo = [run for run in runs if not store.has(run)]
    texts = [run.to_json() for run in todo]
    seeds = {text: run.seed for text, run in zip(texts, todo, strict=True)}
    trained = outcomes_together(
        partial(_train, Trainer(federation)),
        texts,
        groups(todo, federation, at_once(executor, workers, len(todo)), alone=timeout is not None),
        executor=executor,
        workers=workers,
        share=seeds.get,  # runs of one seed share records and draws, which a process caches
        timeout=timeout,
        # Code that is not fedtoll's may end the process or block it.
        apart=any(run.strategy.digest or run.model_digest for run in todo),
    )
    failures = []
    for position, (tables, line, trace) in trained:
        run = todo[position]
        if tables is None:
            file = store.fail(run, trace or f"{line}\n")
            failures.append(f"{run.label}: {line} ({'traceback' if trace else 'noted'} in {file})")
        else:
            store.write(run, tables)
            finished(run)
    return failures


def outcomes(
    work: Callable[[Job], Any],
    jobs: Sequence[Job],
    *,
    executor: str = "processes",
    workers: int | None = None,
    share: Callable[[Job], Any] = lambda job: None,
    timeout: float | None = None,
    apart: bool = False,
) -> Iterator[tuple[int, Outcome]]:
    """Do every job with an executor; yield each position and outcome as it finishes, in any order.

    Parameters
    ----------
    work
        A module-level function, or a partial of one. What it returns must not be ``None``.
    jobs
        Strings, e.g. runs as JSON, or tuples of strings.
    executor, workers
        As in :func:`execute`.
    share, timeout, apart
        As in :func:`fedtoll.sweep.workers.spread`; ``timeout`` does not matter for ``serial``, ``apart``
        for ``processes`` only.

    Raises
    ------
    RunError
        If workers cannot start, or Ray cannot be reached or used.
    """
    if not jobs:
        return iter(())
    guarded = partial(_guarded, work)
    if executor == "ray":
        return distribute(
            guarded,
            jobs,
            workers,
            address=check_address(os.environ.get("RAY_ADDRESS", ""), "RAY_ADDRESS"),
            begin=one_thread,
            share=share,
            lost=_lost,
            timeout=timeout or RAY_TIMEOUT,
            deaths=DEATHS,
        )
    if executor == "serial":
        return spread(guarded, jobs, 1)
    return spread(guarded, jobs, workers, share=share, lost=_lost, timeout=timeout, apart=apart)


def at_once(executor: str, workers: int | None, jobs: int) -> int:
    """Return the number of workers: one per core; with Ray, whose cores are not known here, one per job."""
    return workers or (jobs if executor == "ray" else cores())


def outcomes_together(
    work: Callable[[Sequence[Job]], Sequence[Any]],
    jobs: Sequence[Job],
    groups: Sequence[Sequence[int]],
    *,
    share: Callable[[Job], Any] = lambda job: None,
    **how: Any,
) -> Iterator[tuple[int, Outcome]]:
    """Do groups of jobs, each with one call; yield the position and outcome of each job.

    If a group is lost as a whole, e.g. because its worker died twice, its jobs are done one by one.

    Parameters
    ----------
    work
        Returns the result or the exception of each of several jobs.
    jobs
        Strings, as in :func:`outcomes`.
    groups
        The positions of the jobs of each group.
    share, **how
        As in :func:`outcomes`.
    """
    lost: list[list[int]] = []
    batches = [tuple(jobs[i] for i in group) for group in groups]
    done = outcomes(partial(_each, work), batches, share=lambda batch: share(batch[0]), **how)
    for position, (results, line, trace) in done:
        group = groups[position]
        if results is not None:
            yield from zip(group, results, strict=True)
        elif len(group) == 1:
            yield group[0], (None, line, trace)
        else:
            lost += [[i] for i in group]
    if lost:
        yield from outcomes_together(work, jobs, lost, share=share, **how)


def _each(work: Callable[[Sequence[Job]], Sequence[Any]], jobs: Sequence[Job]) -> list[Outcome]:
    """Return the outcome of each of several jobs."""
    return [_failed(x) if isinstance(x, Failed) else (x, "", "") for x in work(jobs)]


@contextmanager
def ray_address(address: str | None) -> Iterator[None]:
    """Use the Ray cluster at an address, ``HOST:PORT`` of its head node, in place of ``RAY_ADDRESS``."""
    with environment({"RAY_ADDRESS": address} if address else {}):
        yield


def _lost(reason: str) -> Outcome:
    """Return the outcome of a job that was given up; it has no traceback."""
    return None, reason, ""


def _train(trainer: Trainer, texts: Sequence[str]) -> list[Any]:
    """Train runs from their JSON, in the driver or in a worker; return the tables of each or its error."""
    return trainer.train_together([Run.from_json(text) for text in texts])


def _guarded(work: Callable[[Job], Any], job: Job) -> Outcome:
    """Do one job, and return its result or its error; a copy that it forks does not return."""
    try:
        with contained():
            return work(job), "", ""
    except (Exception, SystemExit) as error:
        return _failed(error)


def _failed(error: Failed) -> Outcome:
    """Return the outcome of a job that raised."""
    line = str(error) if isinstance(error, FedtollError) else one_line(f"{type(error).__name__}: {error}")
    return None, line, "".join(traceback.format_exception(error))
