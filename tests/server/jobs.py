"""Jobs for worker processes, in a module of their own that needs neither pytest nor torch."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from fedtoll.scenarios.errors import ScenarioError


def process(name: str) -> tuple[str, int]:
    return name, os.getpid()


def loaded(name: str) -> bool:
    return "torch" in sys.modules


def threads(name: str) -> tuple[str, int, int]:
    import torch

    return name, torch.get_num_threads(), os.getpid()


def die(name: str) -> str:
    if name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def die_or_hang(name: str) -> str:
    if name == "d":
        time.sleep(600)
    return die(name)


def all_die(names: Sequence[str]) -> list[str]:
    """Do several jobs with one call."""
    return [die(name) for name in names]


def leave(name: str) -> str:
    if name == "b":
        raise SystemExit(f"{name} left")
    return name


class TwoArgumentsError(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first}\n{second}")


def fail(name: str) -> str:
    if name == "d":
        raise ScenarioError("d")
    if name == "b":
        raise ZeroDivisionError(name)
    if name == "c":
        raise TwoArgumentsError("two", "lines")
    return name


def fork(name: str) -> str:
    """Return the name from two processes: a forked copy of this one, and later this one."""
    copy = os.fork() == 0
    time.sleep(0.1 if copy else 0.4)
    return name


def die_with_a_copy_alive(name: str) -> str:
    """Die once, leaving a forked copy that sleeps."""
    mark = Path(os.environ["FEDTOLL_TEST_MARK"])
    if name == "b" and not mark.exists():
        mark.touch()
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    return name


def exit_at_once(name: str) -> str:
    os._exit(3)


def freeze_in_an_answer(name: str) -> str:
    """Stop this process when half of the answer is in the pipe."""
    if name == "b":

        def send_half(self: Connection, content: bytes) -> None:
            os.write(self.fileno(), content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGSTOP)

        Connection._send = send_half  # type: ignore[attr-defined]
    return name * 1000


def hang(name: str) -> str:
    if name == "b":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if name == "d":
        os.kill(os.getpid(), signal.SIGSTOP)
    return name
