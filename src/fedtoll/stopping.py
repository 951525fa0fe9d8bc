"""Turn the signals that end a command into an exception, so that it ends its children and cleans up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP


class Stopped(BaseException):
    """The command received a signal that asks it to end. Like a KeyboardInterrupt, nothing catches it.

    Parameters
    ----------
    signum
        The number of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.code = 128 + signum
        """The exit code, as shells count it."""


@contextmanager
def stops_raise() -> Iterator[None]:
    """Raise :class:`Stopped` in the main thread at the first SIGTERM or SIGHUP; later ones are ignored.

    Signals that are ignored already, as under ``nohup``, stay ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    caught = [signum for signum, handler in before.items() if handler is not signal.SIG_IGN]

    def stop(signum: int, frame: FrameType | None) -> None:
        for other in caught:
            signal.signal(other, signal.SIG_IGN)  # nothing interrupts the cleaning up
        raise Stopped(signum)

    for signum in caught:
        signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum in caught:
            signal.signal(signum, before[signum] or signal.SIG_DFL)
