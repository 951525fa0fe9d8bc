"""Start a process that does not run the caller's script again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any


def start(process: BaseProcess) -> None:
    """Start a spawned process that can do all that fedtoll's modules define.

    A spawned process imports ``__main__`` of its parent, by default, to find what it defines. Nothing that
    fedtoll sends is defined there. Importing it would run a script without ``if __name__ == "__main__"``
    once more in every process, and fail where the script came through a pipe and has no file.
    """
    with _without_origin():
        process.start()


@contextmanager
def _without_origin() -> Iterator[None]:
    """Hide where ``__main__`` came from, which is what a spawned process is told."""
    main = sys.modules["__main__"].__dict__
    hidden: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        del main["__spec__"]
        main.update(hidden)
