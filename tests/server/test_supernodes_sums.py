"""Real SuperNodes under secure aggregation, where a client with all its records is the unit of privacy.

Secure aggregation is simulated, so single messages reach the server's process almost without noise. So these
nodes share a public table, as those of compose.yaml do. A node with a file or limits of its own refuses.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from flwr.app import Context, RecordDict

from fedtoll.clients.failures import RejectedError
from fedtoll.clients.node import Decided, Node
from fedtoll.scenarios import toml
from fedtoll.scenarios.run import Run
from fedtoll.server.trainer import simulate
from tests.server.federation import parquet, planned, scenario
from tests.server.test_supernodes import ENVIRONMENT, PATIENCE, free_port, reachable, wait

MINMAX = {"name": "fedminmax"}
SECTIONS = {
    "training": {"engine": "opacus"},
    "participation": {"kind": "fraction", "fraction": 0.67, "seed": 1},
    "privacy": {
        "epsilons": [4.0],
        "unit": "client",
        "trust": "secure-aggregation",
        "adaptive_clip": 0.5,
    },
    "statistics": {"every": 2},
}


def written(folder: Path) -> Path:
    file = folder / "sums.toml"
    file.write_text(toml.dumps(scenario(MINMAX, **SECTIONS).model_dump(mode="json", exclude_defaults=True)))
    return file


@contextmanager
def federation(folder: Path, nodes: int) -> Iterator[int]:
    """Start a SuperLink and SuperNodes without TLS, each under a guard that ends it; yield the port."""
    port, guards = free_port(), []

    def start(name: str, *command: str) -> None:
        (empty := folder / f"guard-{name}").mkdir()
        with (folder / f"{name}.log").open("wb") as log:
            guards.append(
                subprocess.Popen(
                    [sys.executable, "-m", "fedtoll.guard", str(empty), *command],
                    env={**ENVIRONMENT, "FLWR_HOME": str(folder / f"flwr-{name}"), "OMP_NUM_THREADS": "1"},
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    try:
        options = "--insecure", "--disable-runtime-dependency-installation", "--host", "127.0.0.1"
        start("superlink", "flower-superlink", *options, "--port", str(port))
        wait(lambda: reachable(port), "the SuperLink")
        for k in range(nodes):
            link = "--superlink", f"127.0.0.1:{port}", "--port", str(free_port())
            client = "--node-config", f"partition-id={k} num-partitions={nodes}"
            start(f"node-{k}", "flower-supernode", "--insecure", *link, *client)
        yield port
    finally:
        for guard in reversed(guards):
            assert guard.stdin is not None
            guard.stdin.close()
            guard.wait(60)


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
def test_updates_bits_and_statistics_of_clients_have_the_bytes_of_this_process(tmp_path):
    (run,) = planned(MINMAX, **SECTIONS).runs
    file = written(tmp_path)
    with federation(tmp_path, len(run.clients)) as port:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "fedtoll.cli", "run", str(file), "--grid", "superlink", "--insecure"),
                *("--superlink", f"127.0.0.1:{port}", "--out", str(tmp_path / "out")),
            ],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 0, done.stderr
    (stored,) = tmp_path.glob("out/runs/[0-9a-f]*")
    assert Run.from_json((stored / "run.json").read_text()) == run
    assert {f.stem: f.read_bytes() for f in stored.glob("*.parquet")} == parquet(simulate(run))
    ledger = pd.read_parquet(stored / "ledger.parquet")
    assert ledger.groupby("round")["release"].unique().map(list).to_dict() == {
        1: ["client-update + group_loss"],
        2: ["client-update"],
    }
    assert ledger["epsilon_spent"].max() == pytest.approx(4.0, rel=1e-3)


OWN = {"epsilon": 8.0}, {"partition": "mine.parquet"}, {"partition": "mine.parquet", "noise": "secret"}


@pytest.mark.parametrize("config", OWN, ids=str)
def test_a_node_that_decides_for_itself_refuses_messages_almost_without_noise(config):
    (run,) = planned(MINMAX, **SECTIONS).runs
    context = Context(1, 1, {"partition-id": 0, **config}, RecordDict(), {})
    with pytest.raises(RejectedError, match="only messages that are private"):
        Node(Decided.of(context)).read(run.to_json())
    assert Node(Decided()).read(run.to_json()) == run


def test_records_are_not_split_for_nodes_of_their_own(here, tmp_path):
    code, out, err = here("federation", "init", "fed", written(tmp_path), "--split")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "partition.kind = 'declared': not with privacy.trust = 'secure-aggregation'" in line
    assert not (tmp_path / "fed").exists()
