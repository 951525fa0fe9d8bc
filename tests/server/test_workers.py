"""Spreading work: every result once with its position, and dying workers are one line."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from fedtoll.scenarios.errors import RunError
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
