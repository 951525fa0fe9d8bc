"""The store: a run is complete or absent, and stored runs are not written again."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.measures import RUN
from fedtoll.server import store
from fedtoll.server.plan import Plan
from fedtoll.server.results import load
from fedtoll.server.store import TABLES, Store
from fedtoll.server.tables import Tables
from fedtoll.server.trainer import simulate
from tests.server.fake import adult_race
from tests.server.federation import FEDAVG, TERM, TOML, parquet, planned


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned(FEDAVG, TERM, privacy={"epsilons": ["inf", 2.0]})


@pytest.fixture(scope="module")
def tables(plan) -> dict[str, Tables]:
    return {run.hash: simulate(run) for run in plan.runs}


@pytest.fixture
def full(plan, tables, tmp_path) -> Store:
    """Return a store in which all runs are finished."""
    store = Store(tmp_path / "full")
    store.open(plan, TOML, "fedtoll run sex.toml")
    for run in plan.runs:
        store.write(run, tables[run.hash])
    return store


def everything(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.slow
def test_a_run_comes_back_as_it_was(plan, full, tables):
    for run in plan.runs:
        assert full.has(run)
        read = {name: table.to_pandas() for name, table in full.read(run.hash).items()}
        assert parquet(read) == parquet(tables[run.hash])
        stored = (full.folder / "runs" / run.hash / "run.json").read_text()
        assert type(run).from_json(stored) == run


@pytest.mark.slow
def test_the_tables_of_all_runs_are_joined_and_name_their_run(plan, full):
    loaded = load(full.folder)
    keys = [[run.strategy.name, run.mechanism, run.epsilon, run.seed] for run in plan.runs]
    for name in TABLES:
        parts = [pd.read_parquet(full.folder / "runs" / run.hash / f"{name}.parquet") for run in plan.runs]
        frame = getattr(loaded, name)
        pd.testing.assert_frame_equal(frame.drop(columns=RUN), pd.concat(parts, ignore_index=True))
        lengths = [len(part) for part in parts]
        assert frame[RUN].to_numpy().tolist() == [
            k for k, n in zip(keys, lengths, strict=True) for _ in range(n)
        ]
    released = loaded.clients.groupby("strategy")["mean_loss"].count()
    assert released.min() == 0 < released.max()  # a column that only some runs have


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([[0.5, 1.0]], [2.0]),
        (["a"], [{"b": 1.0}]),
        ([True], [0.5]),
        (["a"], [0.5]),
        ([[0.5]], [[["a"]]]),
    ],
)
def test_a_column_of_two_kinds_is_read_as_pandas_joins_it(plan, tables, tmp_path, one, other):
    store, own = Store(tmp_path), {}
    store.open(plan, TOML, "command")
    for run, value in zip(plan.runs[:2], (one, other), strict=True):
        clients = tables[run.hash]["clients"]
        own[run.hash] = tables[run.hash] | {"clients": clients.assign(own=value * len(clients))}
        store.write(run, own[run.hash])
    loaded = load(tmp_path)
    files = [tmp_path / "runs" / run.hash / "clients.parquet" for run in plan.runs[:2]]
    expected = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    pd.testing.assert_frame_equal(loaded.clients.drop(columns=RUN), expected)
    assert len(loaded.clients) == sum(len(t["clients"]) for t in own.values())
    assert loaded.clients["epsilon"].tolist() == sorted(loaded.clients["epsilon"], reverse=True)
    assert set(loaded.clients["epsilon"]) == {math.inf, 2.0}


def test_the_tables_hold_no_clock(full, plan, tables):
    names = {c for table in tables[plan.runs[0].hash].values() for c in table.columns}
    assert not {n for n in names if "time" in n or "second" in n or "date" in n}


def test_a_stored_run_is_not_written_again(plan, full, tables):
    before = everything(full.folder)
    other = {k: v.head(0) for k, v in tables[plan.runs[0].hash].items()}
    full.write(plan.runs[0], other)
    assert everything(full.folder) == before


def fails_at(number: int) -> Any:
    original, calls = pd.DataFrame.to_parquet, []

    def to_parquet(self: pd.DataFrame, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            raise OSError(28, "No space left on device")
        return original(self, *args, **kwargs)

    return to_parquet


def test_a_run_that_cannot_be_written_is_not_there_in_part(plan, tables, tmp_path, monkeypatch):
    store, run = Store(tmp_path), plan.runs[0]
    monkeypatch.setattr(pd.DataFrame, "to_parquet", fails_at(3))
    with pytest.raises(RunError, match=r"runs: cannot be written: No space left on device$"):
        store.write(run, tables[run.hash])
    assert not store.has(run)
    assert list((tmp_path / "runs").iterdir()) == []
    store.write(run, tables[run.hash])
    assert store.has(run)


def test_a_half_written_folder_is_never_read(plan, full):
    run = plan.runs[1]
    place = full.folder / "runs" / run.hash
    half = place.rename(place.parent / f".{run.hash}-half")
    (half / "ledger.parquet").unlink()
    assert not full.has(run)
    loaded = load(full.folder)
    assert loaded.missing == (f"{run.strategy.name}, ε = {run.epsilon}, seed 0",)
    assert len(loaded.ledger) == sum(len(full.read(r.hash)["ledger"]) for r in plan.runs if r != run)


def test_loading_gives_tidy_frames_over_all_runs(plan, full, tables):
    loaded = load(full.folder)
    assert loaded.missing == ()
    assert loaded.resolved["command"] == "fedtoll run sex.toml"
    keys = ["strategy", "mechanism", "epsilon", "seed"]
    for name in TABLES:
        frame = getattr(loaded, name)
        assert list(frame.columns[:4]) == keys
        assert len(frame) == sum(len(tables[run.hash][name]) for run in plan.runs)
        for run in plan.runs:
            own = frame[
                (frame["strategy"] == run.strategy.name) & (frame["epsilon"] == run.epsilon)
            ].reset_index(drop=True)
            columns = list(tables[run.hash][name].columns)
            pd.testing.assert_frame_equal(own[columns], tables[run.hash][name], check_dtype=False)
    assert set(loaded.groups["mechanism"]) == {"none", "dp-sgd"}


def test_infinity_is_a_word_in_the_resolved_file(full):
    text = (full.folder / "resolved.json").read_text()
    assert "Infinity" not in text
    assert "NaN" not in text
    resolved = json.loads(text)
    assert [r["epsilon"] for r in resolved["runs"]] == ["inf", 2.0, "inf", 2.0]
    assert resolved["scenario"]["privacy"]["epsilons"] == ["inf", 2.0]
    assert {n["client"] for n in resolved["noise"]} == {0, 1, 2}
    assert all(0 < n["noise_multiplier"] < math.inf for n in resolved["noise"])
    assert resolved["versions"] == store.versions()
    assert resolved["mixed_with"] == []
    assert resolved.keys() == adult_race(seeds=(0,)).resolved.keys()  # the report's tests use the latter
    assert (full.folder / "scenario.toml").read_text() == TOML


@pytest.mark.parametrize("name", ["torch", "numpy", "flwr", "opacus"])
def test_runs_of_other_versions_are_not_mixed_unless_forced(plan, full, name):
    file = full.folder / "resolved.json"
    resolved = json.loads(file.read_text())
    now = resolved["versions"][name]
    resolved["versions"][name] = "0.9"
    file.write_text(json.dumps(resolved))
    before = everything(full.folder)
    with pytest.raises(
        ScenarioError, match=rf"made with {name} 0\.9, here is {re.escape(now)}.*--force"
    ) as caught:
        full.open(plan, TOML, "again")
    assert "\n" not in str(caught.value)
    assert everything(full.folder) == before
    full.open(plan, TOML, "again", force=True)
    forced = json.loads(file.read_text())
    assert forced["command"] == "again"
    assert [v[name] for v in forced["mixed_with"]] == ["0.9"]
    full.open(plan, TOML, "once more")  # forced once, and still recorded
    assert json.loads(file.read_text())["mixed_with"] == forced["mixed_with"]


def test_other_versions_do_not_matter_where_no_run_is_kept(plan, full):
    others = planned(FEDAVG, training={"rounds": 3})
    file = full.folder / "resolved.json"
    file.write_text(file.read_text().replace('"torch": "', '"torch": "0.'))
    full.open(others, TOML, "others")
    assert len(json.loads(file.read_text())["runs"]) == 1
    assert all(full.has(run) for run in plan.runs)  # still stored, no longer loaded
    with pytest.raises(ScenarioError, match="no run is finished yet"):
        load(full.folder)


def test_the_versions_of_what_only_reports_do_not_matter(plan, full):
    file = full.folder / "resolved.json"
    file.write_text(file.read_text().replace('"fairlearn": "', '"fairlearn": "0.'))
    full.open(plan, TOML, "again")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"runs": []}'])
def test_a_folder_without_results_says_so(tmp_path, content):
    (tmp_path / "resolved.json").write_text(content)
    with pytest.raises(ScenarioError, match=r"holds no results of fedtoll|no run is finished yet") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_runs_of_unknown_versions_are_not_continued(plan, full):
    (full.folder / "resolved.json").write_text("[]")
    with pytest.raises(ScenarioError, match=r"no readable resolved.json.*runs are unknown.*--force"):
        full.open(plan, TOML, "again")


def test_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ScenarioError, match=r"nowhere: holds no results of fedtoll"):
        load(tmp_path / "nowhere")


def test_a_folder_that_is_a_file_cannot_be_written(plan, tables, tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file")
    with pytest.raises(ScenarioError, match=r"file: cannot be written: "):
        store.open(plan, TOML, "command")
    with pytest.raises(RunError, match=r"runs: cannot be written: "):
        store.write(plan.runs[0], tables[plan.runs[0].hash])
    with pytest.raises(RunError, match=r"errors: cannot be written: "):
        store.fail(plan.runs[0], "why")


def test_a_traceback_on_a_full_disk_is_one_line(plan, tmp_path, monkeypatch):
    def full(file: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedtoll.server.store.write_bytes", full)
    with pytest.raises(RunError, match=r"errors: cannot be written: No space left on device$"):
        Store(tmp_path).fail(plan.runs[0], "why")


def test_a_failure_is_kept_under_its_hash_until_the_run_succeeds(plan, tables, tmp_path):
    store = Store(tmp_path)
    file = store.fail(plan.runs[0], "first")
    assert store.fail(plan.runs[0], "second") == file == tmp_path / "errors" / f"{plan.runs[0].hash}.txt"
    assert file.read_text() == "fedavg, ε = ∞, seed 0\n\nsecond"
    assert not store.has(plan.runs[0])
    store.write(plan.runs[0], tables[plan.runs[0].hash])
    assert not file.exists()  # the run succeeded in the end
