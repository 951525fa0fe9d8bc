"""Spreading work: every result once with its position, and dying workers are one line."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.server.workers import spread


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let a spawned process import this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


def threads(name: str) -> tuple[str, int, int]:
    import torch

    return name, torch.get_num_threads(), os.getpid()


def die(name: str) -> str:
    if name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return name


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


def test_one_worker_works_in_this_process():
    assert [(i, name) for i, (name, _, pid) in spread(threads, "abc", 1) if pid == os.getpid()] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
    ]


def test_several_have_one_thread_each_and_lose_nothing():
    found = dict(spread(threads, "abcd", 2))
    assert [found[i][0] for i in range(4)] == list("abcd")
    assert {n for _, n, _ in found.values()} == {1}
    assert os.getpid() not in {pid for _, _, pid in found.values()}


def test_a_worker_that_dies_is_one_line():
    with pytest.raises(RunError, match="worker processes keep dying"):
        list(spread(die, "abcd", 2))


def test_an_exit_in_a_worker_is_not_taken_for_a_death():
    with pytest.raises(RunError, match=r"^SystemExit: b left\nIn a worker process:"):
        list(spread(leave, "abcd", 2))


def test_an_error_in_a_worker_keeps_its_type_and_traceback():
    with pytest.raises(ZeroDivisionError, match=r"^b\nIn a worker process:") as caught:
        list(spread(fail, "ab", 2))
    assert "in fail" in "".join(caught.value.__notes__)


def test_an_error_of_fedtoll_stays_one_line():
    with pytest.raises(ScenarioError, match=r"^d$") as caught:
        list(spread(fail, "ad", 2))
    assert not hasattr(caught.value, "__notes__")


def test_an_error_that_cannot_be_pickled_is_one_line():
    with pytest.raises(RunError, match=r"^TwoArgumentsError: two lines\nIn a worker"):
        list(spread(fail, "ac", 2))


def test_workers_end_when_the_results_are_no_longer_wanted():
    results: Any = spread(threads, "abcd", 2)
    _, (_, _, pid) = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
