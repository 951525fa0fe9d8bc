"""``fedtoll status``: how far a sweep is, read from another terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fedtoll.commands.status import read
from fedtoll.server.plan import plan
from fedtoll.server.store import Store
from fedtoll.sweep.executor import execute


@pytest.fixture
def sweep(tmp_path, small):
    """A results folder with none of its runs yet, and its plan."""
    planned = plan(small, "small.toml")
    store = Store(tmp_path / "x")
    with store.lock():
        store.open(planned, "", "fedtoll run")
    return planned, store


def state(folder):
    return {p: p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}


def test_runs_done_and_failed_while_and_after_a_command_trains(sweep, here):
    planned, store = sweep
    runs = planned.all_runs
    before = state(store.folder)
    assert (read(store.folder).done, read(store.folder).active) == (0, False)
    assert state(store.folder) == before  # it only reads

    with store.lock():
        assert execute(runs[:1], store, executor="serial", federation=planned.federation) == []
        store.fail(runs[1], "Traceback ...\nValueError: no luck")
        begin = store.folder / "resolved.json"
        os.utime(begin, (begin.stat().st_atime, begin.stat().st_mtime - 60))
        now = read(store.folder)
        assert (now.active, now.runs, now.done) == (True, len(runs), 1)
        assert now.failures == {runs[1].label: "ValueError: no luck"}
        assert now.seconds_left == pytest.approx(60 * (len(runs) - 1), rel=0.9)
        code, out, err = here("status", store.folder)
        assert (code, err) == (0, "")
        assert out.startswith(f"{planned.scenario.name}: 1 of {len(runs)} runs done, 1 failed\n")
        assert "a command trains here now, about " in out
        assert f"failed: {runs[1].label}: ValueError: no luck\n" in out

    assert json.loads(here("status", store.folder, "--json")[1])["active"] is False
    assert "the same command resumes" in here("status", store.folder)[1]


def test_a_folder_whose_constants_are_being_chosen(tmp_path, here):
    store = Store(tmp_path / "x")
    (tmp_path / "x/tuning").mkdir(parents=True)
    for name in ("versions", "a", "b"):
        Path(tmp_path / f"x/tuning/{name}.json").write_text("{}")
    with store.lock():
        out = here("status", store.folder)[1]
    assert out.endswith("chooses constants; 2 trainings of candidates are stored\n")
    assert "stopped while" in here("status", store.folder)[1]
