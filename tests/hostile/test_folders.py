"""Results folders and the cache."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedtoll.privacy import accounting, calibration_cache
from fedtoll.scenarios import resolved
from fedtoll.scenarios.data import archive, builtin
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.server.results import load
from fedtoll.server.store import TABLES, Store
from fedtoll.server.trainer import simulate
from tests.hostile.traps import DEEP, KINDS, Trap, bytes_of
from tests.server.federation import FEDAVG, TOML, planned

# Results folders.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one finished run."""
    folder = tmp_path_factory.mktemp("whole") / "results"
    made = planned(FEDAVG, privacy={"epsilons": ["inf", 2.0]}, training={"rounds": 1, "local_steps": 1})
    store = Store(folder)
    with store.lock():
        store.open(made, TOML, "fedtoll run sex.toml")
    for run in made.runs:
        store.write(run, simulate(run))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "here"
    shutil.copytree(whole, copied)
    return copied


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change resolved.json."""
    file = folder / "resolved.json"
    content = json.loads(file.read_text())
    result = change(content)
    file.write_text(json.dumps(content if result is None else result))


CANDIDATE = {
    "strategy": "fedavg",
    "mechanism": "none",
    "epsilon": "inf",
    "constants": {"learning_rate": 0.5},
    "seeds": 1,
    "loss": {"(all)": 0.5},
    "chosen": True,
}

RESOLVED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "above": lambda c: c["runs"][0].update(hash="../../elsewhere"),
    "absolute": lambda c: c["runs"][0].update(hash="/etc"),
    "nul": lambda c: c["runs"][0].update(hash="a\0b"),
    "number": lambda c: c["runs"][0].update(hash=7),
    "null": lambda c: c["runs"][0].update(hash=None),
    "empty": lambda c: c["runs"][0].update(hash=""),
    "no hash": lambda c: c["runs"][0].pop("hash") and None,
    "no budget": lambda c: c["runs"][0].update(epsilon="much"),
    "endless budget": lambda c: c["runs"][0].update(epsilon=10**4000),
    "a list of budgets": lambda c: c["runs"][0].update(epsilon=[1]),
    "no runs": lambda c: c.update(runs=7),
    "runs by name": lambda c: c.update(runs={"a": 1}),
    "runs of text": lambda c: c.update(runs=["a"]),
    "candidates of numbers": lambda c: c.update(tuning=[1]),
    "candidates by name": lambda c: c.update(tuning={"a": 1}),
    "candidates of nothing": lambda c: c.update(tuning=[{}]),
    "a candidate with a loss in words": lambda c: c.update(tuning=[CANDIDATE | {"loss": {"(all)": "low"}}]),
    "a candidate with a list of constants": lambda c: c.update(tuning=[CANDIDATE | {"constants": [1]}]),
    "converged list": lambda c: c.update(converged=[1]),
    "converged in words": lambda c: c.update(converged={"seeds": [0], "log_loss": ["x"]}),
    "converged without losses": lambda c: c.update(converged={"seeds": [0]}),
    "converged for another seed": lambda c: c.update(converged={"seeds": [0], "log_loss": [0.1, 0.2]}),
    "a list": lambda c: [c],
    "nothing": lambda c: {},
    "no run": lambda c: c.update(runs=[]),
}


@pytest.mark.parametrize("case", RESOLVED)
def test_the_content_of_resolved_json_is_not_trusted(refused, elsewhere, folder, case):
    for table in TABLES:
        assert not (elsewhere / f"{table}.parquet").exists()
    changed(folder, RESOLVED[case])
    refused("report", folder)


@pytest.mark.parametrize("case", ["deep", "deep tables", "endless number", "latin", "pickle", "large"])
def test_resolved_json_that_is_something_else(refused, mark, folder, monkeypatch, case):
    monkeypatch.setattr(resolved, "MOST_BYTES", 10_000_000)
    content = {
        "deep": b'{"runs": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        "deep tables": b'{"runs":' * DEEP + b"1" + b"}" * DEEP,
        "endless number": b'{"runs": ' + b"9" * 5000 + b"}",
        "latin": '{"runs": "é"}'.encode("latin-1"),
        "pickle": pickle.dumps(Trap(mark)),
        "large": b" " * 10_000_001,
    }[case]
    (folder / "resolved.json").write_bytes(content)
    assert "resolved.json" in refused("report", folder)


@pytest.mark.parametrize("kind", [*KINDS, "folder", "other columns", "texts", "no rows"])
@pytest.mark.parametrize("table", TABLES)
def test_tables_that_are_something_else(refused, mark, folder, kind, table):
    file = next((folder / "runs").glob(f"*/{table}.parquet"))
    frame = pd.read_parquet(file)
    file.unlink()
    if kind == "folder":
        file.mkdir()
        (file / "x.parquet").write_bytes(bytes_of("pickle", mark))
    elif kind == "other columns":
        frame.add_prefix("x").to_parquet(file)
    elif kind == "texts":
        frame.astype(str).add_suffix("").to_parquet(file)
    elif kind == "no rows":
        frame.head(0).iloc[:, :1].to_parquet(file)
    else:
        file.write_bytes(bytes_of(kind, mark))
    refused("report", folder)


LINKS = (
    "runs",
    "figures",
    "errors",
    "tuning",
    "converged",
    "report.html",
    "resolved.json",
    "scenario.toml",
    "runs/.lock",
    "runs/.partial-x",
)


@pytest.mark.parametrize("command", ["report", "run"])
@pytest.mark.parametrize("link", LINKS)
def test_links_in_a_results_folder_are_not_written_through(here, elsewhere, folder, tmp_path, command, link):
    place = folder / link
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    file = Path(link).suffix in {".html", ".json", ".toml"} or link.endswith(".lock")
    place.symlink_to(elsewhere / ("precious.txt" if file else "empty"))
    (tmp_path / "x.toml").write_text(TOML.replace("rounds = 2", "rounds = 1"))
    out = [folder] if command == "report" else ["x.toml", "--out", folder, "--executor", "serial"]
    code, _, err = here(command, *out)
    assert code == 2, err
    assert err.count("\n") == 1
    assert link in err or (command == "report" and "no run is finished" in err)
    assert place.is_symlink()


# The cache.


@pytest.mark.parametrize("kind", [k for k in KINDS if "pandas" not in k])
def test_a_cached_archive_that_is_something_else(here, mark, tmp_path, monkeypatch, kind):
    """It is fetched again; without a network, the command ends in one line."""
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setenv("FEDTOLL_DATA", str(cache))
    monkeypatch.setenv("UV_DEFAULT_INDEX", (tmp_path / "no-index").as_uri())
    file = archive.cache_file(builtin("adult"))
    file.write_bytes(bytes_of(kind, mark))
    code, _, err = here("data", "check", "adult")
    assert code == 2
    assert err.strip().splitlines()[-1].startswith("fedtoll: data 'adult' is damaged in the cache")
    assert "Traceback" not in err
    assert list(cache.iterdir()) == [file]


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"[" * DEEP,
            b'{"noise_multiplier":' * DEEP,
            b'{"noise_multiplier": ' + b"9" * 5000 + b"}",
            b"NaN",
            b"[]",
        ),
        *(b'{"noise_multiplier": NaN}', b'{"noise_multiplier": 0.3}', b'{"noise_multiplier": -1}', b"\xff"),
    ],
    ids=range(9),
)
def test_a_kept_calibration_is_not_trusted(tmp_path, monkeypatch, content):
    how: dict[str, Any] = {"sampling_rate": 0.1, "count": 10, "delta": 1e-5}
    monkeypatch.setenv("FEDTOLL_DATA", str(tmp_path))
    expected = accounting.calibrate(1.0, **how)
    (file,) = (tmp_path / "budget").iterdir()
    file.write_bytes(content)
    assert accounting.calibrate(1.0, **how) == expected


def test_a_kept_calibration_that_is_a_link_is_replaced(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setenv("FEDTOLL_DATA", str(tmp_path / "cache"))
    file = calibration_cache._file(["key"])
    file.parent.mkdir(parents=True)
    file.symlink_to(elsewhere / "precious.txt")
    calibration_cache.remember(["key"], 1.0)
    assert not file.is_symlink()
    assert calibration_cache.recall(["key"]) == 1.0


def test_load_names_the_folder_and_not_the_line_of_code(folder):
    changed(folder, RESOLVED["number"])
    with pytest.raises(ScenarioError, match="here"):
        load(folder)
