"""Spreading work: every result once with its position, and dying workers are one line."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.sweep.workers import ONE_THREAD, spread
from tests.server import many_threads
from tests.server.jobs import (
    die,
    die_with_a_copy_alive,
    exit_at_once,
    fail,
    fork,
    freeze_in_an_answer,
    hang,
    leave,
    loaded,
    process,
    threads,
)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let a spawned process import the jobs."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


def test_one_worker_works_in_this_process():
    assert [(i, name) for i, (name, _, pid) in spread(threads, "abc", 1) if pid == os.getpid()] == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
    ]


@pytest.fixture
def two_threads(monkeypatch):
    """Let this process and its environment ask for two threads."""
    torch.set_num_threads(2)
    for name in ONE_THREAD:
        monkeypatch.setenv(name, "2")


@pytest.mark.slow
def test_several_have_one_thread_each_and_lose_nothing(two_threads):
    found = dict(spread(threads, "abcd", 2))
    assert [found[i][0] for i in range(4)] == list("abcd")
    assert {n for _, n, _ in found.values()} == {1}
    assert os.getpid() not in {pid for _, _, pid in found.values()}


@pytest.mark.slow
def test_one_thread_even_if_a_module_of_jobs_asks_for_more():
    assert dict(spread(many_threads.threads, "ab", 2)) == {0: 1, 1: 1}


def test_a_worker_imports_torch_only_for_jobs_that_need_it():
    assert dict(spread(loaded, "ab", 2)) == {0: False, 1: False}


def test_a_worker_that_dies_is_one_line():
    with pytest.raises(RunError, match=r"^its worker process was killed by signal 9 \(SIGKILL, out of mem"):
        list(spread(die, "abcd", 2))


def test_a_job_that_kills_its_workers_is_given_up_and_the_others_go_on():
    found = dict(spread(die, "abcdefgh", 2, lost=lambda reason: reason))
    killed = "its worker process was killed by signal 9 (SIGKILL, out of memory?)"
    assert found == dict(enumerate("abcdefgh")) | {1: killed}


def test_a_job_that_exits_is_given_up_even_if_it_is_the_only_one():
    assert list(spread(exit_at_once, "b", lost=str, apart=True)) == [
        (0, "its worker process exited with code 3")
    ]


@pytest.mark.slow
def test_a_job_that_hangs_is_stopped_and_the_others_go_on():
    began = time.monotonic()
    found = dict(spread(hang, "abcd", 2, lost=str, timeout=3.0))
    assert found == {0: "a", 1: "not finished after 3 s", 2: "c", 3: "not finished after 3 s"}
    assert time.monotonic() - began < 50  # "b" ignores SIGTERM, "d" is frozen


@pytest.mark.slow
def test_a_job_that_freezes_while_its_answer_is_sent_is_stopped():
    began = time.monotonic()
    found = dict(spread(freeze_in_an_answer, "abcd", 2, lost=str, timeout=3.0))
    assert found == {0: "a" * 1000, 1: "not finished after 3 s", 2: "c" * 1000, 3: "d" * 1000}
    assert time.monotonic() - began < 50


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
    results: Any = spread(process, "abcd", 2)
    _, (_, pid) = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_a_forked_copy_of_a_worker_answers_for_no_job():
    names = "abcdefgh"
    assert dict(spread(fork, names, 2)) == dict(enumerate(names))


@pytest.mark.slow
def test_a_forked_copy_does_not_hide_the_death_of_a_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDTOLL_TEST_MARK", str(tmp_path / "mark"))
    began = time.monotonic()
    assert dict(spread(die_with_a_copy_alive, "abc", 2)) == {0: "a", 1: "b", 2: "c"}
    assert time.monotonic() - began < 50
