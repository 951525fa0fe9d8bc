"""A process between a command and the servers that it starts: it ends them when the command is gone.

``python -m fedtoll.guard FOLDER COMMAND...`` runs the command until it exits, or until the guard's
standard input closes, which happens even if its parent is killed. Then it ends the command with all its
descendants, also those that became daemons, and removes the folder.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import FrameType

import psutil

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""

_PR_SET_CHILD_SUBREAPER = 36  # prctl(2): orphaned descendants become children of this process


def main() -> None:
    """Run the command of the arguments as described above."""
    folder, *command = sys.argv[1:]

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, leave)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    gone = True
    try:
        while not _ended(child.pid):
            if select.select([0], [], [], 0.5)[0] and not os.read(0, 1):
                break
        else:
            gone = False
    finally:
        _end_descendants()
        if gone:
            shutil.rmtree(folder, ignore_errors=True)


def _ended(pid: int) -> bool:
    """Reap children that ended, and return whether this one did."""
    with suppress(ChildProcessError):
        while ended := os.waitpid(-1, os.WNOHANG)[0]:
            if ended == pid:
                return True
        return False
    return True


def _end_descendants() -> None:
    """End all descendants of this process: SIGTERM once, then SIGKILL until none is left."""
    _signal_descendants(signal.SIGTERM)
    begin = time.monotonic()
    while _living() and (passed := time.monotonic() - begin) < 2 * GRACE:
        if passed > GRACE:
            _signal_descendants(signal.SIGKILL)
        time.sleep(0.1)


def _living() -> list[psutil.Process]:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _signal_descendants(signum: int) -> None:
    for process in _living():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signum)


if __name__ == "__main__":
    main()
