"""Tuning and reductions of other library versions are never used silently."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tomllib
from pathlib import Path

import pytest

from fedtoll.findings import prepare
from fedtoll.findings.run import check_versions, run_finding
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.read import findings
from fedtoll.server.store import Store, versions
from fedtoll.sweep import cache, tune

NAME = "exact-fairness-is-trivial"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A finding with one claim in its tuned setting, as ``--quick`` plans it."""
    table = tomllib.loads(findings()[NAME].read_text(encoding="utf-8"))
    table["privacy"]["epsilons"] = ["inf", 0.03]
    table["claim"] = [
        c | {"settings": ["tuned"]} for c in table["claim"] if c["name"] == "disparity-vanishes"
    ]
    file = tmp_path_factory.mktemp("cache") / "tuned.json"
    file.write_text(json.dumps(table))
    return prepare(str(file), quick=True)


@pytest.fixture
def upgraded(monkeypatch):
    """Pretend that another version of a library is installed."""
    real = importlib.metadata.version

    def upgrade(library: str) -> None:
        monkeypatch.setattr(
            importlib.metadata, "version", lambda name: "99.0" if name == library else real(name)
        )

    return upgrade


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(tune, "tune", lambda *a: pytest.fail("trained"))


def stored(folder: Path, prepared, library: str = "", version: str = "0.9") -> Store:
    """Write a results folder with one finished run and its versions."""
    store = Store(folder / "tuned")
    planned = prepared.plans["tuned"]
    store.open(planned, "", "before")
    run = store.folder / "runs" / planned.runs[0].hash
    run.mkdir()
    (run / "run.json").write_text("")
    if library:
        resolved = store.resolved()
        resolved["versions"][library] = version
        (store.folder / "resolved.json").write_text(json.dumps(resolved))
    return store


def cached(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "0123.json").write_text("{}")
    return folder


@pytest.mark.parametrize("library", ["torch", "numpy", "opacus", "flwr"])
def test_runs_of_other_versions_are_rejected_before_tuning(prepared, tmp_path, no_training, library):
    """Tuning takes hours, so the versions of the runs are compared first."""
    stored(tmp_path, prepared, library)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        ScenarioError, match=rf"/tuned: its runs were made with {library} 0\.9.*--force"
    ) as caught:
        run_finding(prepared, tmp_path)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_the_command_checks_every_finding_before_it_trains_one(prepared, tmp_path, here, monkeypatch):
    stored(tmp_path / NAME, prepared, "torch")
    monkeypatch.setattr("fedtoll.findings.run_finding", lambda *a, **k: pytest.fail("trained"))
    code, out, err = here("findings", "rare-class", prepared.name, "--quick", "--out", tmp_path)
    assert (code, out) == (2, "")
    assert "its runs were made with torch 0.9" in err
    assert err.count("\n") == 1


def test_the_same_versions_are_accepted(prepared, tmp_path):
    store = stored(tmp_path, prepared)
    cached(store.folder / "tuning")
    check_versions(prepared, tmp_path)


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("tuning", "torch"),
        ("tuning", "opacus"),
        ("reductions", "fairlearn"),
        ("reductions", "scikit-learn"),
        ("baselines", "scipy"),
    ],
)
def test_a_cache_of_other_versions_is_rejected(prepared, tmp_path, upgraded, no_training, name, library):
    """Also without any run: a command that is killed while it tunes leaves only the cache."""
    now = importlib.metadata.version(library)
    folder = cache.open_folder(tmp_path / "tuned" / name, {})
    (folder / "0123.json").write_text("{}")
    check_versions(prepared, tmp_path)
    upgraded(library)
    with pytest.raises(
        ScenarioError, match=rf"{name}: trained with {library} {re.escape(now)}, but 99\.0.*--force"
    ) as caught:
        run_finding(prepared, tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ScenarioError, match=f"trained with {library}"):
        cache.open_folder(folder, {})
    cache.open_folder(folder, {}, force=True)
    stamp = json.loads((folder / cache.STAMP).read_text())
    assert stamp["versions"][library] == "99.0"
    assert [before[library] for before in stamp["mixed_with"]] == [now]
    cache.open_folder(folder, {})  # mixed once, and still recorded
    assert json.loads((folder / cache.STAMP).read_text()) == stamp


def test_tuning_does_not_depend_on_fairlearn(tmp_path, upgraded):
    folder = cache.open_folder(tmp_path / "tuning", {})
    (folder / "0123.json").write_text("{}")
    upgraded("fairlearn")
    cache.check(folder, {})


@pytest.mark.parametrize("name", ["tuning", "reductions"])
def test_a_cache_without_a_stamp_has_the_versions_of_its_results(tmp_path, upgraded, name):
    """Folders of earlier releases stay usable, but not if their versions are unknown or differ."""
    folder = cached(tmp_path / name)
    resolved = {"versions": versions()}
    cache.check(folder, resolved)
    with pytest.raises(ScenarioError, match="trained with torch of an unknown version"):
        cache.check(folder, {})
    upgraded("numpy")
    with pytest.raises(ScenarioError, match="trained with numpy"):
        cache.check(folder, resolved)


def test_only_a_damaged_file_is_computed_again(tmp_path):
    files = {tmp_path / f"{name}.json": name for name in "abc"}
    done = []

    def work(job: str) -> dict[str, str]:
        done.append(job)
        return {"job": job}

    def load(file: Path) -> dict[str, str]:
        content: dict[str, str] = json.loads(file.read_text())
        return content

    def complete() -> list[dict[str, str]]:
        save = lambda file, result: file.write_text(json.dumps(result))  # noqa: E731
        return list(cache.complete(files, work, load=load, save=save, workers=1).values())

    everything = [{"job": name} for name in "abc"]
    assert complete() == everything
    (tmp_path / "b.json").write_text('{"jo')
    assert complete() == everything
    assert done == ["a", "b", "c", "b"]


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "tuning").write_text("")
    with pytest.raises(RunError, match="tuning: cannot be written: ") as caught:
        cache.open_folder(tmp_path / "tuning", {})
    assert "\n" not in str(caught.value)
