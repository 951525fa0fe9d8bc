"""Unplanned skips through all of fedtoll: a user's model that fails on large batches."""

from __future__ import annotations

import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from fedtoll.server.store import Store
from fedtoll.server.trainer import simulate
from fedtoll.sweep import superlink
from tests.server.federation import FEDAVG, TERM, TOML, parquet, planned

FRAGILE = '''
"""A model that fails on more than so many records at once."""
import torch
from torch import nn

class Fragile(nn.Linear):
    def forward(self, x):
        if torch.is_grad_enabled() and len(x) > 143:
            raise ValueError(f"{len(x)} records are too many")
        return super().forward(x)
'''
TRAINING = {"rounds": 3, "engine": "opacus", "on_failure": "skip"}


@pytest.fixture
def fragile(tmp_path, monkeypatch) -> Iterator[str]:
    """Return the name of the model, importable from every process."""
    (tmp_path / "fragile.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield "fragile:Fragile"
    sys.modules.pop("fragile", None)


@pytest.mark.slow
def test_the_command_says_what_was_skipped(here, tmp_path, fragile, caplog):
    settings = [f"training.{k}={json.dumps(v)}" for k, v in TRAINING.items()]
    sets = [
        s
        for pair in (*settings, f'model.kind="{fragile}"', 'privacy.epsilons=["inf", 2]')
        for s in ("--set", pair)
    ]
    (tmp_path / "sex.toml").write_text(TOML)
    code, out, err = here("run", "sex.toml", *sets, "--seeds", "0:2", "--executor", "serial", "--out", "out")
    assert code == 0, err
    clients = [pd.read_parquet(p) for p in sorted((tmp_path / "out").glob("runs/*/clients.parquet"))]
    gone = pd.concat([c[c["skipped"] != ""] for c in clients])
    assert len(clients) == 4
    assert 0 < len(gone) < 4 * 9
    assert set(gone["skipped"]) == {"the client failed"}
    lines = [record.getMessage() for record in caplog.records if record.name == "fedtoll"]
    assert len(lines) == 4  # one line a run, for the experimenter
    for line in lines:
        assert re.search(
            r" replies failed, first round 1, client \d: ValueError: 1\d\d records are too", line
        )
    assert f"{len(gone)} of 36 replies were skipped, in " in " ".join(out.split())
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert f"{len(gone)} of 36 replies were skipped" in page
    assert "a skip is a side channel" in page
    assert 'on_failure = "skip"' in html.unescape(page)
    code, out, _ = here("run", "sex.toml", *sets, "--seeds", "0:2", "--out", "out", "--json")
    assert code == 0
    assert json.loads(out)["skipped"] == len(gone)


@pytest.mark.thorough
def test_the_final_bytes_are_those_of_this_process_under_flower_too(tmp_path, fragile):
    """Clients are away by plan, and others fail."""
    rare = {"kind": "availability", "availability": {"Female": 0.5}, "seed": 3}
    changes = {"training": TRAINING, "model": {"kind": fragile}, "participation": rare, "seeds": [2]}
    every = planned(TERM, privacy={"epsilons": [2.0]}, **changes)
    store = Store(Path(tmp_path) / "out")
    store.open(every, TOML, "test")
    assert superlink.execute(every, store) == []
    (run,) = every.runs
    assert not run.attendance.present_TK.all()
    here, there = simulate(run), store.folder / "runs" / run.hash
    assert {n: (there / f"{n}.parquet").read_bytes() for n in parquet(here)} == parquet(here)
    assert (here["clients"]["skipped"] != "").sum() == 3


@pytest.mark.slow
def test_processes_and_serial_skip_alike(tmp_path, fragile):
    from fedtoll.sweep.executor import execute

    runs = planned(FEDAVG, training=TRAINING, model={"kind": fragile}, seeds=[0, 1]).runs
    stores = [Store(tmp_path / name) for name in ("serial", "processes")]
    for store in stores:
        assert execute(runs, store, executor=store.folder.name, workers=2) == []
    for run in runs:
        one, other = (
            {p.name: p.read_bytes() for p in (s.folder / "runs" / run.hash).iterdir()} for s in stores
        )
        assert one == other
