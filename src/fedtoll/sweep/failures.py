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
        raise named(run, error) from error


def named(run: Run, error: Exception | SystemExit) -> FedtollError:
    """Return an error of fedtoll's own as it is, and any other as one line that names the run."""
    if isinstance(error, FedtollError):
        return error
    new = RunError(f"{run.label}: {one_line(f'{type(error).__name__}: {error}')}")
    new.__cause__ = error
    return new
