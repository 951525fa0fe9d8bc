"""Sweeps on two Ray nodes: the same bytes as in one process, whatever the nodes lack and whichever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedtoll.scenarios.read import read
from fedtoll.server.plan import plan
from fedtoll.server.store import Store
from fedtoll.sweep import executor
from tests.cluster.machines import Machine, head, second
from tests.server import own

pytestmark = pytest.mark.slow

SCENARIO = own.TOML.replace('name = "fedavg"', 'name = "slow.py:Slow"').replace(
    "[training]", '[model]\nkind = "nets:small"\n\n[training]'
)

SLOW = '''
import os, time
from dataclasses import dataclass

import pauses
from fedtoll.strategies.fedavg import FedAvg

@dataclass(frozen=True)
class Slow(FedAvg):
    """FedAvg that waits in every round, and says on which node it is."""

    def weigh(self, reports, state):
        if log := os.environ.get("FEDTOLL_TEST_LOG"):
            with open(log, "a") as file:
                file.write("round\\n")
        ended = time.monotonic() + pauses.SECONDS
        while time.monotonic() < ended and os.path.exists(pauses.WHILE):
            time.sleep(0.05)
        return super().weigh(reports, state)
'''

NETS = """
from torch import nn

def small(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 3), nn.ReLU(), nn.Linear(3, outputs))
"""

BUILT_IN = ("training.rounds=2", 'privacy.epsilons=["inf", 2]', 'strategies=[{name="fedavg"}]')
"""What is changed in adult-race."""


def tables(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


def stored(folder: Path) -> int:
    return len(list(folder.glob("runs/[!.]*")))


def pause(folder: Path, seconds: float, while_there: Path = Path("/")) -> None:
    """Set how long commands that start from now on wait in every round, at most while a file is there."""
    (folder / "pauses.py").write_text(f"SECONDS = {seconds}\nWHILE = {str(while_there)!r}\n")


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """Return a file that holds every run in its first round until it is removed."""
    file = tmp_path / "hold"
    file.touch()
    return file


def start(folder: Path, *arguments: str, address: str = "") -> subprocess.Popen[str]:
    """Start `fedtoll run` in a folder from which own modules can be imported."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "COLUMNS": "400"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "fedtoll.cli", "run", *arguments],
        cwd=folder,
        env={**environment, **({"RAY_ADDRESS": address} if address else {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], seconds: float = 300, killed: bool = False) -> tuple[int, str]:
    """Return the exit code and the lines on stderr.

    Ray may still list a node that the test before has killed, and fedtoll then says that it is not used, or
    that it is gone. Unless this test has ``killed`` one too, such a line is not about its nodes: it is left
    out.
    """
    try:
        _, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.communicate(timeout=60)
        pytest.fail(f"not finished after {seconds:g} s")
    others = ("TaskUnschedulableError",) if killed else ("TaskUnschedulableError", " is gone\n")
    lines = [line for line in err.splitlines(keepends=True) if not any(text in line for text in others)]
    return process.returncode, "".join(lines)


def wait(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[tuple[str, Machine]]:
    with head(tmp_path_factory.mktemp("head")) as found:
        yield found


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """Return a folder with a sweep on an own table, strategy and model, and what it gives in one process."""
    folder = tmp_path_factory.mktemp("sweep")
    own.write(folder, own.patients(), toml=SCENARIO)
    (folder / "slow.py").write_text(SLOW)
    pause(folder, 0.0)
    (folder / "nets.py").write_text(NETS)
    process = start(folder, "patients.toml", "--out", "serial", "--executor", "serial", "--no-probe")
    assert finish(process)[0] == 0
    expected = tables(folder / "serial")
    assert len(expected) == 8 * 4
    return folder, expected


def test_own_files_reach_a_node_whose_worker_and_which_then_is_killed(cluster, sweep, hold, tmp_path):
    address, _ = cluster
    folder, expected = sweep
    log = tmp_path / "log"
    pause(folder, 120, hold)
    with second(tmp_path / "second", address, folder, FEDTOLL_TEST_LOG=str(log)) as other:
        out = folder / "killed"
        process = start(
            folder, "patients.toml", "--out", "killed", "--executor", "ray", "--no-probe", address=address
        )
        wait(lambda: log.exists() and other.workers(), process)  # a run is in its first round there
        victims = other.workers()
        os.kill(victims[0], signal.SIGKILL)
        wait(lambda: set(other.workers()) - set(victims), process)  # its successor is there
        assert stored(out) < 8
        other.kill()
        assert process.stderr is not None
        assert any("is gone" in line for line in process.stderr)
        hold.unlink()
        code, err = finish(process, killed=True)
    assert code == 0, err
    assert tables(out) == expected
    assert not (out / "errors").exists()


def test_built_in_records_are_sent_to_a_node_without_them_and_one_that_cannot_load_them_is_left_out(
    cluster, tmp_path
):
    address, _ = cluster
    here = Store(tmp_path / "serial")
    assert (
        executor.execute(plan(read("adult-race", BUILT_IN, "0:2"), "x").runs, here, executor="serial") == []
    )
    with (
        second(tmp_path / "second", address, tmp_path / "serial", UV_OFFLINE="1"),
        second(tmp_path / "third", address, tmp_path / "none", FEDTOLL_DATA="/proc/none"),
    ):
        changes = [word for override in BUILT_IN for word in ("--set", override)]
        process = start(
            tmp_path,
            *("adult-race", "--seeds", "0:2", "--no-tune", "--no-probe", *changes),
            *("--out", "ray", "--executor", "ray", "--address", address),
        )
        code, err = finish(process)
    assert code == 0, err
    assert err.count("\n") == 1
    assert "node " in err
    assert "this node is not used" in err
    assert "/proc/none" in err or "No such file" in err
    assert [file.name[:8] for file in (tmp_path / "second/cache").glob("*.parquet")] == ["adult-v1"]
    assert tables(tmp_path / "ray") == tables(tmp_path / "serial")


def test_a_node_with_another_version_is_refused_by_name(cluster, sweep, tmp_path):
    address, _ = cluster
    folder, _ = sweep
    other = tmp_path / "other"
    (other / "opacus-1.2.3.dist-info").mkdir(parents=True)
    (other / "opacus-1.2.3.dist-info/METADATA").write_text("Name: opacus\nVersion: 1.2.3\n")
    path = os.pathsep.join([str(other), *sys.path])
    with second(tmp_path / "second", address, folder, PYTHONPATH=path):
        code, err = finish(
            start(folder, "patients.toml", "--out", "mixed", "--executor", "ray", address=address)
        )
    assert code == 1
    assert err.count("\n") == 1
    assert f"fedtoll: Ray at {address}: node " in err
    assert " has opacus 1.2.3, here is 1." in err
    assert stored(folder / "mixed") == 0


def test_a_frozen_node_costs_time_but_no_run(cluster, sweep, hold, tmp_path):
    address, _ = cluster
    folder, expected = sweep
    log = tmp_path / "log"
    pause(folder, 120, hold)
    with second(tmp_path / "second", address, folder, FEDTOLL_TEST_LOG=str(log)) as other:
        process = start(
            folder,
            *("patients.toml", "--out", "frozen", "--executor", "ray", "--no-probe", "--timeout", "20"),
            *("--seeds", "0:1"),
            address=address,
        )
        wait(lambda: log.exists() and other.workers(), process)
        other.send(signal.SIGSTOP)
        hold.unlink()
        code, err = finish(process)
    assert code == 0, err
    assert (found := tables(folder / "frozen")).items() <= expected.items()
    assert len(found) == 4 * 4


def test_at_most_so_many_runs_at_once_as_asked_for(cluster, sweep, tmp_path):
    address, first = cluster
    folder, expected = sweep
    pause(folder, 0.5)
    with second(tmp_path / "second", address, folder) as other:
        process = start(
            folder,
            *("patients.toml", "--out", "one", "--executor", "ray", "--workers", "1", "--no-probe"),
            *("--seeds", "0:1"),
            address=address,
        )
        most = 0
        while process.poll() is None:
            most = max(most, len(first.workers()) + len(other.workers()))
            time.sleep(0.2)
        assert finish(process)[0] == 0
    assert most == 1
    assert (found := tables(folder / "one")).items() <= expected.items()
    assert len(found) == 4 * 4


def test_another_ray_on_this_machine_is_not_used_unless_it_is_named(cluster, sweep):
    _, first = cluster
    folder, expected = sweep
    ended = time.monotonic() + 120
    while first.workers() and time.monotonic() < ended:  # those of the test before are still ending
        time.sleep(0.2)
    pause(folder, 0.5)
    local = ("--out", "local", "--executor", "ray", "--no-probe", "--seeds", "0:1")
    process = start(folder, "patients.toml", *local)
    used = 0
    while process.poll() is None:
        used = max(used, len(first.workers()))
        time.sleep(0.2)
    assert finish(process)[0] == 0
    assert used == 0
    assert (found := tables(folder / "local")).items() <= expected.items()
    assert len(found) == 4 * 4


def test_a_head_that_dies_ends_the_command_with_one_line_and_keeps_what_is_stored(sweep, tmp_path):
    folder, expected = sweep
    out = folder / "headless"
    command = ("patients.toml", "--out", "headless", "--no-probe", "--executor")
    pause(folder, 1.0)
    with head(tmp_path / "head") as (address, first):
        process = start(folder, *command, "ray", address=address)
        wait(lambda: stored(out), process)
        first.kill()
        killed = time.monotonic()
        code, err = finish(process, 120)
    assert time.monotonic() - killed < 100  # half a minute on an idle machine, and 63 s on a busy one
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith(f"fedtoll: Ray at {address}: ")
    assert 0 < stored(out) < 8
    pause(folder, 0.0)
    assert finish(start(folder, *command, "serial"))[0] == 0
    assert tables(out) == expected
