"""What a user's own code raises in a run outside the executor, told in one line as the executor does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedtoll.scenarios.errors import FedtollError, RunError
from fedtoll.scenarios.run import Run


@contextmanager
def one_line(run: Run) -> Iterator[None]:
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
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise RunError(f"{run.label}: {told}") from error
