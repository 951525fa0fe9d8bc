"""Thirty random scenarios: no byte depends on groups, executor, workers, a kill or a resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fedtoll.scenarios.run import Run
from fedtoll.server.store import Store
from fedtoll.server.trainer import Trainer
from fedtoll.sweep import executor
from tests.server.federation import parquet
from tests.sweep.random_runs import WORLDS, runs_of

ROOT = Path(__file__).parents[2]
SCENARIOS = 30


def files(folder: Path) -> dict[str, bytes]:
    """Return the files of all complete runs; a killed process may leave a part of one with a dot."""
    runs = (p for p in (folder / "runs").iterdir() if not p.name.startswith("."))
    return {str(p.relative_to(folder)): p.read_bytes() for run in runs for p in run.glob("*.parquet")}


def in_groups(runs: list[Run], seed: int) -> dict[str, dict[str, bytes]]:
    """Train runs in random groups; return the bytes of each."""
    rng, trainer, found = np.random.default_rng(seed), Trainer(), {}
    order = [runs[i] for i in rng.permutation(len(runs))]
    for group in np.split(np.arange(len(order)), np.sort(rng.choice(len(order), 2))):
        chosen = [order[i] for i in group]
        for run, tables in zip(chosen, trainer.train_together(chosen), strict=True):
            assert isinstance(tables, dict), (run.label, tables)
            found[run.hash] = parquet(tables)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(WORLDS)))
def test_alone_and_in_groups(number):
    runs = runs_of(number)
    alone = {run.hash: parquet(Trainer().train(run)) for run in runs}
    assert in_groups(runs, number) == alone


def _killed(runs: list[Run], out: Path, tmp_path: Path) -> None:
    """Train the runs in another process, and kill it with its workers when a quarter is stored."""
    texts = tmp_path / "runs.txt"
    texts.write_text("\n".join(run.to_json() for run in runs), encoding="utf-8")
    command = [sys.executable, "-m", "tests.sweep.random_runs", str(texts), str(out)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, env={**os.environ})
    deadline = time.monotonic() + 300
    while sum(not p.name.startswith(".") for p in out.glob("runs/*")) < len(runs) / 4:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline, "nothing is stored"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.thorough
def test_executors_workers_kills_and_resumes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    runs = list({run.hash: run for number in range(SCENARIOS) for run in runs_of(number)}.values())
    alone = Store(tmp_path / "alone")
    for run in runs:
        alone.write(run, Trainer().train(run))
    expected = files(alone.folder)
    killed = tmp_path / "killed"
    _killed(runs, killed, tmp_path)
    begun = len(files(killed))
    assert 0 < begun < len(expected)
    assert executor.execute(runs, Store(killed), workers=2) == []
    assert files(killed) == expected
    for name, workers in [("serial", None), ("processes", 1), ("processes", 2), ("processes", 4), ("ray", 2)]:
        store = Store(tmp_path / f"{name}-{workers}")
        assert executor.execute(runs, store, executor=name, workers=workers) == []
        assert files(store.folder) == expected, f"{name}, {workers} workers"
