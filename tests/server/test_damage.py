"""Damage to stored runs: written to the disk before they have a name, and trained again if they are torn."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedtoll.scenarios import atomic
from fedtoll.server.store import TABLES, Store
from fedtoll.server.trainer import simulate
from tests.server.federation import FEDAVG, TOML, single_run

TEARS = {
    "an empty table": lambda folder: (folder / "clients.parquet").write_bytes(b""),
    "a table cut short": lambda folder: os.truncate(folder / "groups.parquet", 700),
    "a table of zeros": lambda folder: (folder / "ledger.parquet").write_bytes(bytes(5000)),
    "an empty folder": lambda folder: [file.unlink() for file in folder.iterdir()],
    "a description cut short": lambda folder: os.truncate(folder / "run.json", 100),
}


@pytest.mark.slow
@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_run_is_named_and_trained_again(tmp_path, here, caplog, tear):
    file, out = tmp_path / "sex.toml", tmp_path / "out"
    file.write_text(TOML.replace("seeds = [0]", "seeds = [0, 1]"))
    command = ("run", file, "--out", out, "--executor", "serial", "--no-probe")
    assert here(*command)[0] == 0
    whole = {p: p.read_bytes() for p in out.glob("runs/*/*")}
    torn, other = sorted(out.glob("runs/*/"))
    (untouched,) = {p.stat().st_mtime_ns for p in other.glob("groups.parquet")}
    TEARS[tear](torn)
    code, _, err = here("report", out)
    if "description" not in tear:  # the report does not read it
        assert code == 2
        (line,) = err.splitlines()
        assert str(torn) in line
        assert ".parquet: " in line
        assert line.endswith("; `fedtoll run` trains this run again")
    assert here(*command)[0] == 0
    (line,) = [r.getMessage() for r in caplog.records if "it is trained again" in r.getMessage()]
    assert str(torn) in line
    assert {p: p.read_bytes() for p in out.glob("runs/*/*")} == whole
    assert (other / "groups.parquet").stat().st_mtime_ns == untouched


def test_what_is_stored_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls: list[str] = []
    sync, rename = os.fsync, Path.rename

    def fsync(handle: int) -> None:
        calls.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        sync(handle)

    def named(path: Path, target: Path) -> Path:
        calls.append("renamed")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", named)
    run = single_run(FEDAVG)
    Store(tmp_path).write(run, simulate(run))
    assert calls[-1] == "renamed"
    assert set(calls[:-2]) == {"run.json", *(f"{name}.parquet" for name in TABLES)}
    assert calls[-2].startswith(".partial-")


def test_files_have_the_permissions_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        atomic.write_bytes(tmp_path / "file", b"x")
        atomic.write_folder(tmp_path / "folder", lambda folder: (folder / "x").write_bytes(b"x"))
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "folder" / "x").stat().st_mode & 0o777 == 0o640
