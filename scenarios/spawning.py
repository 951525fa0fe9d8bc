"""Start a process that does not run the caller's script again."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


def start(process: BaseProcess) -> None:
    """Start a spawned process that can do all that fedtoll's modules define.

    A spawned process imports ``__main__`` of its parent, by default, to find what it defines. Nothing that
    fedtoll sends is defined there. Importing it would run a script without ``if __name__ == "__main__"``
    once more in every process, and fail where the script came through a pipe and has no file.

    A signal that ends the caller counts when the process has started. Until then the process waits for what
    it is to do, and would end with a traceback if nothing came.
    """
    with _signals_wait(), _without_origin():
        process.start()


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Deliver signals that arrive during the block at its end; ignored ones stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    waiting = [signum for signum, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for signum in waiting:
        signal.signal(signum, lambda signum, frame: arrived.append(signum))
    try:
        yield
    finally:
        for signum in waiting:
            signal.signal(signum, before[signum])
        for signum in arrived:
            signal.raise_signal(signum)


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
