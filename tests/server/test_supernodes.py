"""Three real SuperNodes on this machine, with TLS and keys, each with a file of its own records.

Flower starts a process for every message, so a run of two rounds takes a minute or more.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from fedtoll.scenarios.run import Run
from fedtoll.server.trainer import Trainer
from tests.server.federation import FEDAVG, TERM, parquet, planned

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")]

TRAINING = {"engine": "opacus", "rounds": 2}
NODES = range(3)
PATIENCE = 900.0

TOML = """\
name = "adult-sex"
title = "Three SuperNodes"
seeds = [0]

[data]
source = "adult"
groups = ["sex"]

[partition]
clients = { Male = 2, Female = 1 }

[training]
rounds = 2
sampling_rate = 0.01
local_steps = 2
learning_rate = 1.0
clip = 1.0
engine = "opacus"

[privacy]
epsilons = [2.0]

[[strategies]]
name = "fedavg"

[[strategies]]
name = "term"
t = 5.0
"""

ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": os.pathsep.join(str(Path(p).resolve()) for p in sys.path if p),
}


class Federation:
    """The processes of a federation; each is under a guard that ends what it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.guards: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "sex.toml").write_text(TOML)
        options = ["--split", "--port", str(self.port)]
        self.call("-m", "fedtoll.cli", "federation", "init", "fed", "sex.toml", *options)

    def call(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=ENVIRONMENT, check=True, timeout=PATIENCE
        )

    def start(self, name: str, script: Path) -> None:
        (empty := self.folder / f"guard-{name}").mkdir()
        with (self.folder / f"{name}.log").open("wb") as log:
            self.guards[name] = subprocess.Popen(
                [sys.executable, "-m", "fedtoll.guard", str(empty), "sh", str(script)],
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_all(self) -> None:
        self.start("superlink", self.folder / "fed/server/superlink.sh")
        wait(lambda: reachable(self.port), "the SuperLink")
        register = ["sh", str(self.folder / "fed/server/register.sh")]
        subprocess.run(register, env=ENVIRONMENT, check=True, capture_output=True, timeout=PATIENCE)
        for k in NODES:
            self.start(f"node-{k}", self.folder / f"fed/nodes/node-{k}/supernode.sh")

    def sweep(self, out: str, *options: str) -> subprocess.Popen[str]:
        script = self.folder / "fed/server/sweep.sh"
        return subprocess.Popen(
            ["sh", str(script), "--out", str(self.folder / out), *options],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def delivered(self, name: str) -> int:
        """Return how many replies to training messages a node has delivered, by its log."""
        return sum("Sent successfully" in part for part in self.log(name).split("Sending: train message")[1:])

    def stored(self, out: str) -> list[Path]:
        return sorted(self.folder.glob(f"{out}/runs/[0-9a-f]*"))

    def end(self, name: str) -> None:
        guard = self.guards.pop(name)
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait(60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reachable(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait(happened: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def federation(tmp_path_factory) -> Iterator[Federation]:
    found = Federation(tmp_path_factory.mktemp("supernodes"))
    try:
        found.start_all()
        yield found
    finally:
        for name in list(found.guards):
            found.end(name)


def in_process() -> dict[str, dict[str, bytes]]:
    """Return the tables of the original scenario, trained here on the same records, by strategy."""
    plan = planned(FEDAVG, TERM, training=TRAINING, privacy={"epsilons": [2.0]})
    trainer = Trainer(plan.federation)
    tables = {run.strategy.name: parquet(trainer.train(run)) for run in plan.runs}
    return {name: {k: v for k, v in found.items() if k != "predictions"} for name, found in tables.items()}


def test_a_sweep_is_interrupted_and_resumed_and_has_the_bytes_of_this_process(federation):
    for node in NODES:
        held = {file.name for file in (federation.folder / f"fed/nodes/node-{node}").glob("*.parquet")}
        assert held == {"records.parquet"}
    first = federation.sweep("out")
    try:
        wait(lambda: federation.stored("out") or first.poll() is not None, "the first run")
        assert first.poll() is None, first.communicate()
        first.send_signal(signal.SIGINT)  # the script became the command
        _, err = first.communicate(timeout=PATIENCE)
    finally:
        first.kill()
    assert first.returncode == 130, err
    assert len(federation.stored("out")) == 1
    before = federation.stored("out")[0].stat().st_mtime_ns
    second = federation.sweep("out")
    out, err = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, err
    assert "report:" in out
    stored = federation.stored("out")
    assert len(stored) == 2
    assert before in {folder.stat().st_mtime_ns for folder in stored}  # not trained again
    expected = in_process()
    for folder in stored:
        run = Run.from_json((folder / "run.json").read_text())
        assert {f.stem: f.read_bytes() for f in folder.glob("*.parquet")} == expected.pop(run.strategy.name)
    assert expected == {}


def test_a_node_that_leaves_is_skipped(federation):
    """SIGTERM while it trains, as when its machine shuts down."""
    before = federation.delivered("node-2")
    options = ["--set", 'training.on_failure="skip"', "--set", 'strategies=[{name="fedavg"}]']
    sweep = federation.sweep("skip", *options, "--set", "training.rounds=3")
    try:
        wait(
            lambda: federation.delivered("node-2") > before or sweep.poll() is not None,
            "the first reply of node 2",
        )
        assert sweep.poll() is None, sweep.communicate()
        federation.end("node-2")
        _, err = sweep.communicate(timeout=PATIENCE)
    finally:
        sweep.kill()
    assert sweep.returncode == 0, err
    (folder,) = federation.stored("skip")
    clients = pd.read_parquet(folder / "clients.parquet")
    skipped = clients[clients["skipped"] != ""]
    assert {*skipped["client"]} == {2}
    # from some round on; Flower may lose even a reply that was delivered just before the node left
    assert {*skipped["round"]} in ({1, 2, 3}, {2, 3}, {3})
    assert clients.groupby("round").size().tolist() == [3, 3, 3]
