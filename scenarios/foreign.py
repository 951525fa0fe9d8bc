"""Contain code that is not fedtoll's, which may fork and print, or do without it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar

from fedtoll.scenarios.errors import ScenarioError

OWN = ("fedtoll", "flwr")
"""The packages whose code runs in any case: fedtoll and Flower."""

_NO_CODE: ContextVar[bool] = ContextVar("no_code", default=False)


class ForeignCodeError(ScenarioError):
    """Code that is not fedtoll's would have to run."""


@contextmanager
def no_code() -> Iterator[None]:
    """In the block, :func:`require` refuses code that is not fedtoll's or Flower's."""
    token = _NO_CODE.set(True)
    try:
        yield
    finally:
        _NO_CODE.reset(token)


def require(module: str) -> None:
    """Declare that a module, given by its dotted name or as a file, is imported next.

    Raises
    ------
    ForeignCodeError
        In a block of :func:`no_code`, unless the module is part of fedtoll or Flower.
    """
    if _NO_CODE.get() and (module.endswith(".py") or module.split(".")[0] not in OWN):
        raise ForeignCodeError(f"{module} is not part of fedtoll, so it is not imported")


def end_if_forked(original: int) -> None:
    """Exit at once, without any clean-up, unless this process has the id ``original``."""
    if os.getpid() != original:
        os._exit(1)


def _strange(error: BaseException) -> str:
    """Return why an error would end a command or cannot be shown as text, or an empty string."""
    kind = type(error)
    ordinary = isinstance(error, Exception | SystemExit | KeyboardInterrupt)
    if not ordinary and kind.__module__.split(".")[0] != "fedtoll":
        return f"raises {kind.__name__}, which is no Exception"
    try:
        _ = str(error), repr(error)
    except Exception:
        return f"raises {kind.__name__}, which cannot be shown as text"
    return ""


@contextmanager
def contained() -> Iterator[None]:
    """Send what the block prints to stderr, because stdout is for results, and end copies of this process.

    An error that would end a command, or that cannot be shown, becomes a RuntimeError with its name.

    A copy that was forked in the block ends when it leaves the block, by whatever way. Otherwise it would
    store runs, answer for its parent or repeat the rest of a command. A copy that ends by itself, as those of
    multiprocessing do, is not affected.
    """
    original = os.getpid()
    try:
        with redirect_stdout(sys.stderr):
            yield
    except BaseException as error:
        if strange := _strange(error):
            raise RuntimeError(strange) from None
        raise
    finally:
        end_if_forked(original)
