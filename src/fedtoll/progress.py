"""Show how far a sweep is: a bar on a terminal, a line in a notebook, and lines now and then elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from fedtoll.console import console
from fedtoll.formatting import duration
from fedtoll.scenarios.visible import visible

if TYPE_CHECKING:
    from fedtoll.scenarios.run import Run
    from fedtoll.server.plan import Plan
    from fedtoll.server.store import Store

FIRST_LINE = 30.0
"""Seconds until the first line where nothing can be redrawn. Later lines come at every tenth more of time."""


SWITCH = "FEDTOLL_PROGRESS"
"""The environment variable that switches all of it off, where it is ``off``."""


class Progress:
    """How far a list of jobs is, and how it is shown.

    Parameters
    ----------
    title
        What is done.
    total, done
        The number of jobs, and how many are done at the start.
    unit
        What the jobs are: ``runs``.
    """

    def __init__(self, title: str, total: int, done: int, unit: str) -> None:
        self.title, self.total, self.done, self.unit = title, total, done, unit
        self._begin, self._before = time.monotonic(), done

    def advance(self, title: str | None = None) -> None:
        """Count one more job, and change the title if one is given."""
        self.done += 1
        self.title = title or self.title

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    def line(self) -> str:
        """Return how far it is, in one line."""
        new = self.done - self._before
        to_do = self.total - self.done
        left = f", about {duration(self.elapsed / new * to_do)} left" if new and to_do else ""
        return f"{self.title}: {self.done} of {self.total} {self.unit}, {duration(self.elapsed)}{left}"


@contextmanager
def progress(title: str, total: int, done: int, unit: str) -> Iterator[Progress]:
    """Show how far a list of jobs is while the block runs; yield what counts them."""
    shown = Progress(title, total, done, unit)
    if os.environ.get(SWITCH) == "off":
        yield shown
    elif display := _notebook():
        with _ticking(lambda: display(shown.line()), lambda: 1.0):
            yield shown
        display(shown.line())
    elif sys.stderr.isatty():
        with _bar(shown):
            yield shown
    else:
        err = console(stderr=True)
        with _ticking(
            lambda: err.print(visible(shown.line()), markup=False),
            lambda: max(FIRST_LINE, shown.elapsed / 10),
        ):
            yield shown


@contextmanager
def _ticking(show: Callable[[], object], pause: Callable[[], float]) -> Iterator[None]:
    """Call ``show`` after each pause until the block ends."""
    over = threading.Event()

    def tick() -> None:
        while not over.wait(pause()):
            show()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1)


def _notebook() -> Callable[[str], None] | None:
    """Return a function that redraws one line in a notebook; ``None`` anywhere else."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if getattr(shell, "kernel", None) is None:
        return None
    import IPython.display

    display: Any = IPython.display.display  # its type is not declared
    handle = display({"text/plain": ""}, raw=True, display_id=True)

    def show(line: str) -> None:
        text = visible(line)
        handle.update({"text/plain": text, "text/html": f"<pre>{escape(text)}</pre>"}, raw=True)

    return show


@contextmanager
def _bar(shown: Progress) -> Iterator[None]:
    """Show a bar on a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{shown.unit},"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bar(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task(shown.title, total=shown.total, completed=shown.done)
        with _ticking(lambda: bar.update(task, completed=shown.done, description=shown.title), lambda: 0.2):
            yield
        bar.update(task, completed=shown.done, description=shown.title)


@contextmanager
def tuning(planned: Plan) -> Iterator[Callable[[Run], None]]:
    """Show the progress of tuning; yield the function to call after each run of a candidate."""
    from fedtoll.sweep.tune import candidate_runs

    if planned.scenario.tune is None:
        yield lambda run: None
        return
    total = sum(seeds for _, seeds in candidate_runs(planned, planned.scenario.tune))
    with progress(f"{planned.scenario.name}: tuning", total, 0, "candidates") as shown:
        yield lambda run: shown.advance()


@contextmanager
def training(planned: Plan, store: Store) -> Iterator[Callable[[Run], None]]:
    """Show the progress of the runs; yield the function to call after each run."""
    from fedtoll.server.results import skipped_replies

    runs, name = planned.all_runs, planned.scenario.name
    stored = sum(store.has(run) for run in runs)
    with progress(name, len(runs), stored, "runs") as shown:
        skipped = 0

        def finished(run: Run) -> None:
            nonlocal skipped
            skipped += skipped_replies(store.folder, run)
            shown.advance(f"{name}, {skipped:,} replies skipped" if skipped else None)

        yield finished
