"""Errors of runs outside the executor, reported in one line as the executor reports them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedtoll.scenarios.errors import FedtollError, RunError, one_line
from fedtoll.scenarios.run import Run


@contextmanager
def errors_name_run(run: Run) -> Iterator[None]:
    """Replace any error but fedtoll's own by one line that names the run.

    Raises
    ------
    RunError
        If the block raises an error that is not a ``FedtollError``, or exits.
    """
    try:
        yield
    except FedtollError:
        raise
    except (Exception, SystemExit) as error:
        line = one_line(f"{type(error).__name__}: {error}")
        raise RunError(f"{run.label}: {line}") from error
