"""The same app under ``flwr run``: a SuperLink, Flower's simulation and Ray, started and stopped by us.

Each run takes half a minute of a core, so the assertions share as few as they can.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from fedtoll.scenarios.run import Run
from fedtoll.server.plan import Plan
from fedtoll.server.store import Store
from fedtoll.server.trainer import simulate
from fedtoll.sweep import superlink
from tests.server.federation import TERM, TOML, parquet, planned

pytestmark = pytest.mark.slow

MARK = "FEDTOLL_TEST_MARK"

BREAKS = '''
"""A model that clients, which run in Ray workers, cannot build."""
import sys
from torch import nn

def factory(inputs, outputs):
    if sys.argv[0].endswith("default_worker.py"):
        raise ValueError("no\\nmodel here")
    return nn.Sequential(nn.Linear(inputs, outputs))
'''


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Iterator[AbstractContextManager[Any]]:
    """Yield a block in which ``superlink.execute`` uses the same SuperLink as in all other such blocks."""
    folder = tmp_path_factory.mktemp("superlink")
    with superlink.superlink(folder) as flwr:
        yield patch.object(superlink, "superlink", lambda home: nullcontext(flwr))


def trained(plan: Plan, folder: Path, one: AbstractContextManager[Any]) -> Store:
    """Train all runs of a plan under Flower."""
    store = Store(folder)
    store.open(plan, TOML, "test")
    done: list[Run] = []
    with one:
        assert superlink.execute(plan, store, finished=done.append) == []
    assert done == list(plan.runs)
    return store


@pytest.fixture(scope="module")
def flower(tmp_path_factory, one) -> tuple[Plan, Store]:
    """Run TERM at ε = 2; it ends with a calibration, so its last message is one to evaluate."""
    plan = planned(
        TERM,
        privacy={"epsilons": [2.0]},
        training={"engine": "opacus"},
        calibration={"noise_multiplier": 10.0},
    )
    return plan, trained(plan, tmp_path_factory.mktemp("flower"), one)


def assert_the_same(run: Run, store: Store) -> None:
    """Check that the stored tables have the bytes that this process gives."""
    here, there = parquet(simulate(run)), store.folder / "runs" / run.hash
    assert {name: (there / f"{name}.parquet").read_bytes() for name in here} == here


def test_the_final_bytes_are_those_of_this_process(flower):
    plan, store = flower
    assert_the_same(plan.runs[0], store)


SECTIONS: dict[str, dict[str, Any]] = {
    # Secure aggregation is simulated in the app, so Flower's simulation gives the same sums.
    "sums": {
        "strategies": [{"name": "fedminmax"}],
        "privacy": {"epsilons": [2.0], "trust": "secure-aggregation", "colluding": 1},
        "training": {"engine": "opacus", "local_steps": 1},
    },
    # They last from round to round in Flower's state. Without noise, by FedAvg.
    "own models": {
        "privacy": {"epsilons": ["clip-only"]},
        "training": {"engine": "opacus"},
        "personal": {"kind": "ditto", "strength": 0.2, "steps": 1},
    },
    "clients as the unit": {
        "privacy": {"epsilons": [2.0], "unit": "client", "trust": "central", "adaptive_clip": 0.5},
        "training": {"engine": "opacus"},
        "participation": {"kind": "poisson", "rate": 0.5},
    },
}


@pytest.mark.parametrize(
    "section",
    [name if name == "sums" else pytest.param(name, marks=pytest.mark.thorough) for name in SECTIONS],
)
def test_what_other_sections_do_is_that_of_this_process(tmp_path, one, section):
    plan = planned(**SECTIONS[section])
    (run,) = plan.runs
    assert run.attendance.present_TK.all() == ("participation" not in SECTIONS[section])
    assert_the_same(run, trained(plan, tmp_path, one))


def test_what_is_there_starts_nothing(flower, monkeypatch):
    plan, store = flower
    monkeypatch.setattr(superlink, "superlink", None)
    assert superlink.execute(plan, store) == []


def start(folder: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    """Start the command line under Flower, with an environment mark that its descendants inherit."""
    (folder / "sex.toml").write_text(TOML)
    (folder / "breaks.py").write_text(BREAKS)
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "fedtoll.cli", "run", "sex.toml", "--grid", "flower", "--out", "out"]
    process = subprocess.Popen(
        [*command, *more],
        cwd=folder,
        env={**os.environ, MARK: mark, "PYTHONPATH": f".{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, mark


def alive(mark: str) -> list[str]:
    """Return the commands of all living processes that carry a mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}" in (folder / "environ").read_text(errors="replace").split("\0"):
                found.append((folder / "cmdline").read_text(errors="replace").replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
def test_a_client_that_raises_there_is_a_failed_command(tmp_path):
    process, mark = start(tmp_path, "--set", 'model.kind="breaks:factory"')
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("fedtoll: failed: fedavg, ε = ∞, seed 0: under flwr run: finished:failed: ")
    assert line.split(" (log in ")[0].endswith("round 1, client 0 (Male): the client failed")
    (kept,) = (tmp_path / "out" / "errors").iterdir()
    assert "Traceback (most recent call last):" in kept.read_text()
    assert r"raises ValueError('no\nmodel here')" in kept.read_text()
    assert not [p for p in (tmp_path / "out" / "runs").iterdir() if not p.name.startswith(".")]
    assert alive(mark) == []


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("signum", "code", "when"),
    [
        (signal.SIGINT, 130, "ClientAppActor"),
        (signal.SIGKILL, -9, "ClientAppActor"),
        pytest.param(signal.SIGTERM, 143, "flwr-simulation", marks=pytest.mark.thorough),
        pytest.param(signal.SIGHUP, 129, "flower-superlink", marks=pytest.mark.thorough),
    ],
)
def test_a_signal_leaves_no_process_behind(tmp_path, signum, code, when):
    """Whatever the last process is that was started: the SuperLink, the simulation or a client."""
    ignored = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, children ignore it too
    try:
        process, mark = start(tmp_path, "--set", "training.rounds=2000")
    finally:
        signal.signal(signal.SIGHUP, ignored)
    try:
        deadline = time.monotonic() + 240
        while not any(when in command for command in alive(mark)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.5)
        process.send_signal(signum)
        process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code
    deadline = time.monotonic() + 60
    while signum == signal.SIGKILL and alive(mark) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert alive(mark) == []
