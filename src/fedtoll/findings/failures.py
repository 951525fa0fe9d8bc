"""What a user's own code raises in a run outside the executor, told in one line as the executor does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedtoll.scenarios.errors import FedtollError, RunError, one_line
from fedtoll.scenarios.run import Run


@contextmanager
def naming(run: Run) -> Iterator[None]:
    """Name the run in whatever goes wrong.

    Raises
    ------
    RunError
        In place of what is no error of ours.
    """
    try:
        yield
    except FedtollError:
        raise
    except Exception as error:
        told = one_line(f"{type(error).__name__}: {error}")
        raise RunError(f"{run.label}: {told}") from error
