"""Kills, interrupts and concurrent commands: runs are complete or absent, and the final tables equal."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.read import read
from fedtoll.server.plan import plan
from fedtoll.server.results import load
from fedtoll.server.store import Store
from fedtoll.sweep import executor, workers

QUICK = (
    "training.rounds=4",
    "training.local_steps=2",
    'privacy.epsilons=["inf", 2]',
    'strategies=[{name="fedavg"}, {name="term", t=2.0}]',
)
COMMAND = [
    sys.executable,
    "-m",
    "fedtoll.cli",
    "run",
    "adult-race",
    "--seeds",
    "0:3",
    *(x for o in QUICK for x in ("--set", o)),
    "--no-tune",
    "--out",
    "here",
]


def tables(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(Path(folder).rglob("*.parquet"))}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    planned = plan(read("adult-race", QUICK, "0:3"), "x")
    assert executor.execute(planned.runs, Store(folder), executor="serial") == []
    return planned, tables(folder)


def start(cwd, *more):
    return subprocess.Popen(
        [*COMMAND, *more],
        cwd=cwd,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_runs(folder, count, process):
    while process.poll() is None and len(list(folder.glob("here/runs/*/groups.parquet"))) < count:
        time.sleep(0.02)


@pytest.mark.slow  # two workers are in the quick suite, in test_executor.py
@pytest.mark.parametrize(
    ("name", "workers"),
    [("processes", 3), pytest.param("ray", 2, marks=pytest.mark.thorough)],  # Ray is in tests/cluster, too
)
def test_the_executor_and_its_workers_change_no_byte(tmp_path, uninterrupted, name, workers):
    planned, expected = uninterrupted
    assert executor.execute(planned.runs, Store(tmp_path), executor=name, workers=workers) == []
    assert tables(tmp_path) == expected


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_ends_the_same(tmp_path, uninterrupted):
    planned, expected = uninterrupted
    rng = random.Random(0)
    kills = 0
    for _ in range(5):
        process = start(tmp_path)
        stored = len(list(tmp_path.glob("here/runs/*/groups.parquet")))
        wait_for_runs(tmp_path, min(stored + 1, len(planned.runs) - 1), process)
        time.sleep(rng.random())
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 3
    last = start(tmp_path)
    assert last.wait() == 0, last.stderr.read()
    assert tables(tmp_path / "here") == expected
    assert not list((tmp_path / "here").rglob(".partial-*"))
    assert len(load(tmp_path / "here").resolved["runs"]) == len(planned.runs)


@pytest.mark.slow  # the quick suite kills a worker in the middle of its answer, below
def test_the_run_of_a_killed_worker_is_started_again(tmp_path, uninterrupted):
    planned, expected = uninterrupted
    victims: list[int] = []

    def kill_one(run):
        import multiprocessing

        if not victims:
            victims.append(multiprocessing.active_children()[0].pid or 0)
            os.kill(victims[0], signal.SIGKILL)

    store = Store(tmp_path)
    assert executor.execute(planned.runs, store, executor="processes", workers=2, finished=kill_one) == []
    assert victims
    assert tables(tmp_path) == expected


def dies_in_the_midst_of_its_answer(work, pipe):
    """Die while sending the tables; the next worker succeeds."""
    mark = Path(os.environ["FEDTOLL_TEST_MARK"])
    if mark.exists():
        workers._serve(work, pipe)
    mark.touch()
    pipe.recv()
    os.write(pipe.fileno(), struct.pack("!i", 1_000_000) + b"half")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_dies_in_the_midst_of_its_answer_is_replaced(tmp_path, uninterrupted, monkeypatch):
    planned, expected = uninterrupted
    monkeypatch.setenv("FEDTOLL_TEST_MARK", str(tmp_path / "mark"))
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where a spawned process finds this module
    monkeypatch.setattr(workers, "_serve", dies_in_the_midst_of_its_answer)
    store = Store(tmp_path)
    assert executor.execute(planned.runs[:3], store, executor="processes", workers=2) == []
    assert (tmp_path / "mark").exists()
    assert tables(tmp_path).items() <= expected.items()
    assert len(tables(tmp_path)) == 15


@pytest.mark.slow
def test_workers_that_keep_dying_end_the_command_in_one_line(tmp_path, uninterrupted, monkeypatch):
    planned, _ = uninterrupted
    monkeypatch.setattr(workers, "_serve", os.abort)
    with pytest.raises(RunError, match="keep dying"):
        executor.execute(planned.runs, Store(tmp_path), executor="processes", workers=2)
    assert not tables(tmp_path)


@pytest.mark.slow
def test_an_interrupt_leaves_a_folder_that_resumes_and_exit_130(tmp_path, uninterrupted):
    _, expected = uninterrupted
    process = start(tmp_path)
    wait_for_runs(tmp_path, 1, process)
    interrupted = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    assert process.wait(timeout=30) == 130
    assert time.monotonic() - interrupted < 10
    assert process.stderr.read().strip().splitlines()[-1] == "fedtoll: interrupted; the same command resumes"
    while (left := _group(process.pid)) and time.monotonic() - interrupted < 10:
        time.sleep(0.1)  # multiprocessing's tracker ends when the command has ended
    assert not left
    again = start(tmp_path)
    assert again.wait() == 0
    assert tables(tmp_path / "here") == expected


@pytest.mark.slow
def test_workers_do_not_outlive_a_driver_that_was_killed(tmp_path):
    process = start(tmp_path, "--set", "training.rounds=100")
    deadline = time.monotonic() + 60
    while not (children := _children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert children
    os.kill(process.pid, signal.SIGKILL)  # the driver alone
    process.wait()
    while any(_alive(c) for c in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(c) for c in children)


def _children(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(c) for c in listed.read_text().split()] if listed.exists() else []


def _group(pgid):
    """Return the living processes of a group, without zombies."""
    pids = [int(p.name) for p in Path("/proc").glob("[0-9]*")]
    return [p for p in pids if (stat := _stat(p)) and stat[0] != "Z" and int(stat[2]) == pgid]


def _alive(pid):
    return bool(stat := _stat(pid)) and stat[0] != "Z"


def _stat(pid):
    """Return the state, parent and group of a process, or nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return []


@pytest.mark.slow
def test_two_commands_on_one_folder_neither_duplicate_nor_lose(tmp_path, uninterrupted):
    planned, expected = uninterrupted
    rivals = [start(tmp_path), start(tmp_path)]
    errors = [r.communicate()[1] for r in rivals]
    assert [r.returncode for r in rivals] == [0, 0], errors
    assert tables(tmp_path / "here") == expected
    assert sum("in use by another command" in s for s in errors) <= 1
    assert (
        sum(f"{len(planned.runs)} of {len(planned.runs)} runs are stored already" in s for s in errors) == 1
    )


def test_the_lock_holds_one_command_at_a_time(tmp_path):
    store, order = Store(tmp_path), []

    def second():
        with Store(tmp_path).lock(lambda: order.append("waits")):
            order.append("second")

    with store.lock():
        rival = threading.Thread(target=second)
        rival.start()
        while "waits" not in order:
            time.sleep(0.01)
        (tmp_path / "runs" / ".partial-left").mkdir()
        order.append("first")
    rival.join()
    assert order == ["waits", "first", "second"]
    assert not list(tmp_path.glob("runs/.partial-*"))
