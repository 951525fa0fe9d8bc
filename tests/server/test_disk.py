"""Full and read-only disks, locks, and what killed commands leave behind."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fedtoll.report import folder as report_folder
from fedtoll.scenarios.locks import locked
from fedtoll.server.store import Store
from fedtoll.server.trainer import simulate
from tests.server.federation import FEDAVG, TOML, planned


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "out"
    plan = planned(FEDAVG, privacy={"epsilons": ["inf", 2.0]})
    store = Store(folder)
    store.open(plan, TOML, "fedtoll run sex.toml")
    for run in plan.runs:
        store.write(run, simulate(run))
    return folder


@pytest.fixture
def results(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("command", ["report", "run"])
def test_a_disk_error_while_the_report_is_written_is_one_line(
    here, results, tmp_path, monkeypatch, number, command
):
    def full(file: Path, content: bytes) -> None:
        raise OSError(number, os.strerror(number), str(file))

    monkeypatch.setattr(report_folder, "write_bytes", full)
    (tmp_path / "sex.toml").write_text(TOML.replace('["inf"]', '["inf", 2.0]'))
    arguments = {"report": [results], "run": ["sex.toml", "--out", results, "--no-probe"]}[command]
    code, _, err = here(command, *arguments)
    assert code == 1
    page = results / "report.html"
    lines = [line for line in err.splitlines() if "stored already" not in line and "delta" not in line]
    assert lines == [f"fedtoll: {page}: the report cannot be written: {os.strerror(number)}"]


@pytest.mark.slow
def test_a_report_of_a_read_only_folder_is_written_elsewhere(here, results, tmp_path, monkeypatch):
    make = Path.mkdir

    def mkdir(path: Path, *arguments: Any, **options: Any) -> None:
        if results in path.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    before = sorted(results.rglob("*"))
    code, _, err = here("report", results)
    assert code == 2
    reason = f"cannot be written: {os.strerror(errno.EROFS)}"
    assert err == f"fedtoll: {results}: {reason}; `fedtoll report DIR --out OTHER` writes elsewhere\n"
    code, out, err = here("report", results, "--out", "other")
    assert (code, err) == (0, "")
    assert out.endswith("report: other/report.html\n")
    assert (tmp_path / "other" / "figures" / "who-pays.svg").stat().st_size
    assert sorted(results.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fedtoll.cli", "list", "strategies"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == "fedtoll: standard output: cannot be written: No space left on device\n"


def test_leftovers_are_removed_where_a_command_writes_but_not_of_a_report_in_the_making(tmp_path):
    folders = [
        tmp_path / name for name in ("", "runs", "errors", "tuning", "figures", "audit", "audit/models")
    ]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / ".partial-left").write_text("x")

    def left() -> list[str]:
        return sorted(str(p.parent.relative_to(tmp_path)) for p in tmp_path.rglob(".partial-*"))

    with locked(tmp_path, "figures"):
        assert left() == [".", "audit", "audit/models", "errors", "runs", "tuning"]
        (tmp_path / "figures" / ".partial-new").write_text("in the making")
        with Store(tmp_path).lock():
            assert left() == [".", "audit", "audit/models", "figures"]
    with Store(tmp_path).lock():
        assert left() == ["audit", "audit/models", "figures"]
    with locked(tmp_path, "audit"):
        assert left() == ["figures"]


@pytest.mark.slow
def test_reports_wait_for_each_other_and_not_for_runs(here, results):
    order: list[str] = []
    with Store(results).lock():
        assert here("report", results)[0] == 0  # while a sweep goes on
    begun = threading.Event()

    def first() -> None:
        with locked(results, "figures"):
            begun.set()
            time.sleep(1)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    code, _, err = here("report", results)
    order.append("second")
    thread.join()
    assert (code, order) == (0, ["first", "second"])
    assert err == f"fedtoll: {results}: another report is written; waiting\n"
