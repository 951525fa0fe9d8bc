"""Fetching and caching records, with the real uv and a wheel built here."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedtoll.scenarios import data
from fedtoll.scenarios.data import Source, archive
from fedtoll.scenarios.data.source import Archive
from fedtoll.scenarios.errors import ScenarioError
from tests.scenarios.tiny import TINY_FRAME, tiny, told

ADULT = data.builtin("adult")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real wheel; importing it would fail the test."""
    path = tmp_path_factory.mktemp("index") / "fedtoll_tiny_records-1.0-py3-none-any.whl"
    meta = "fedtoll_tiny_records-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("tiny_records/__init__.py", "raise SystemExit('an archive is data, not code')")
        file.writestr("tiny_records/tiny.csv", TINY_FRAME.to_csv(index=False))
        file.writestr(f"{meta}/METADATA", "Metadata-Version: 2.1\nName: fedtoll-tiny-records\nVersion: 1.0\n")
        file.writestr(f"{meta}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{meta}/RECORD", "")
    return path


@pytest.fixture
def pinned(wheel) -> Source:
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return tiny(archive=Archive("fedtoll-tiny-records", "1.0", sha256))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: Path) -> Path:
    """An empty cache folder (not created yet), and no index other than the folder of the wheel."""
    folder = tmp_path / "deep" / "cache"
    monkeypatch.setenv("FEDTOLL_DATA", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(wheel.parent))
    return folder


@pytest.fixture
def offline(monkeypatch, cache):
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.delenv("UV_NO_INDEX")
    monkeypatch.setenv("UV_OFFLINE", "1")
    return cache


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_archive_is_fetched_once_and_then_read_offline(pinned, cache, monkeypatch, tmp_path, capfd):
    (tmp_path / "uv.py").write_text("raise SystemExit('a file of the user took the place of uv')")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    fetched = archive.frame(pinned)
    monkeypatch.delenv("UV_FIND_LINKS")
    cached = archive.frame(pinned)
    for frame in (fetched, cached):
        pd.testing.assert_frame_equal(frame, TINY_FRAME, check_dtype=False)
    assert names(cache) == [f"tiny-v1-{pinned.fingerprint[:12]}.parquet"]
    assert names(scratch) == []  # what was unpacked is gone
    assert capfd.readouterr() == ("", "")


def test_a_cold_cache_without_network_is_reported_in_one_line(offline):
    with pytest.raises(ScenarioError) as caught:
        archive.frame(ADULT)
    text = told(caught)
    assert f"data 'adult' is not in the cache {offline} and could not be fetched" in text
    assert "connect once and run the same command again" in text
    assert f"set FEDTOLL_DATA to a folder that holds {archive.cache_file(ADULT).name}" in text
    assert names(offline) == []


def test_a_cached_file_needs_no_network(offline, adult):
    """FEDTOLL_DATA may name any folder that someone else filled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FEDTOLL_DATA")
        usual = archive.cache_file(ADULT)
    offline.mkdir(parents=True)
    archive.cache_file(ADULT).write_bytes(usual.read_bytes())
    assert len(archive.frame(ADULT)) == 48_842


def test_another_archive_of_the_same_name_is_refused(pinned, cache):
    other = dataclasses.replace(pinned, archive=dataclasses.replace(pinned.archive, sha256="ab" * 32))
    with pytest.raises(ScenarioError) as caught:
        archive.frame(other)
    text = told(caught)
    assert f"has sha256 {pinned.archive.sha256[:12]}…, not the pinned abababababab…; it was rejected" in text
    assert names(cache) == []


def test_other_records_in_the_right_archive_are_refused(pinned, cache):
    """For example, another version of pandas may read the same file differently."""
    with pytest.raises(ScenarioError) as caught:
        archive.frame(dataclasses.replace(pinned, fingerprint="0" * 64))
    assert "gave other records than the ones fedtoll declares" in told(caught)
    assert names(cache) == []


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-1],
    "empty": lambda content: b"",
    "not parquet": lambda content: b"<html>please log in</html>" * 50,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_fetched_anew(pinned, cache, kind, caplog):
    archive.frame(pinned)
    path = archive.cache_file(pinned)
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    pd.testing.assert_frame_equal(archive.frame(pinned), TINY_FRAME, check_dtype=False)
    assert "is damaged; fetching it again" in caplog.text
    caplog.clear()
    archive.frame(pinned)
    assert caplog.text == ""
    assert names(cache) == [path.name]


@pytest.mark.slow
def test_a_file_with_one_changed_value_is_damaged(pinned, cache, monkeypatch):
    archive.frame(pinned)
    changed = TINY_FRAME.copy()
    changed.loc[0, "paid"] = "yes"
    changed.to_parquet(archive.cache_file(pinned))
    monkeypatch.delenv("UV_FIND_LINKS")
    with pytest.raises(ScenarioError) as caught:
        archive.frame(pinned)
    assert "data 'tiny' is damaged in the cache" in told(caught)


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_found_or_harmless(pinned, cache):
    """Whatever pyarrow and pandas raise on a damaged file, it is reported as damage."""
    archive.frame(pinned)
    path = archive.cache_file(pinned)
    whole = path.read_bytes()
    found = 0
    for position in range(0, len(whole), 29):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        frame = archive._read_cached(path, pinned)
        assert frame is None or archive.fingerprint(frame) == pinned.fingerprint
        found += frame is None
    assert found > 10


def test_a_cache_folder_that_cannot_be_made_is_reported_before_the_download(pinned, cache, monkeypatch):
    cache.parent.mkdir()
    cache.write_text("a file, not a folder")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("it downloaded"))
    with pytest.raises(ScenarioError) as caught:
        archive.frame(pinned)
    text = told(caught)
    assert f"data 'tiny' cannot be written to the cache {cache} (" in text
    assert "set FEDTOLL_DATA to a writable folder with enough room" in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_folder_without_permission_is_reported(pinned, cache):
    cache.mkdir(parents=True)
    cache.chmod(0o500)
    with pytest.raises(ScenarioError) as caught:
        archive.frame(pinned)
    assert "Permission denied" in told(caught)


def test_a_full_disk_is_reported_and_leaves_no_half_file(pinned, cache, monkeypatch):
    def fill(frame: pd.DataFrame, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"PAR1 and then no more")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fill)
    with pytest.raises(ScenarioError) as caught:
        archive.frame(pinned)
    assert "(No space left on device)" in told(caught)
    assert names(cache) == []


def test_a_fetch_without_end_is_given_up(pinned, cache, monkeypatch):
    monkeypatch.setattr(archive, "FETCH_SECONDS", 0.001)
    with pytest.raises(ScenarioError) as caught:
        archive.frame(pinned)
    assert "(uv: timed out after 0.001 s)" in told(caught)
    assert names(cache) == []


@pytest.mark.slow
def test_fetches_at_once_are_fine(pinned, cache, monkeypatch):
    write = pd.DataFrame.to_parquet
    all_written = threading.Barrier(3, timeout=60)

    def write_and_wait(frame: pd.DataFrame, path: Path, **options: Any) -> None:
        write(frame, path, **options)
        all_written.wait()

    monkeypatch.setattr(pd.DataFrame, "to_parquet", write_and_wait)
    with ThreadPoolExecutor(3) as pool:
        frames = list(pool.map(archive.frame, [pinned] * 3))
    for frame in frames:
        assert archive.fingerprint(frame) == pinned.fingerprint
    assert names(cache) == [archive.cache_file(pinned).name]


def test_the_cache_folder_is_the_users_by_default(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDTOLL_DATA", "")
    assert archive.cache_folder().name == "fedtoll"
    monkeypatch.setenv("FEDTOLL_DATA", "~/records")
    assert archive.cache_folder() == Path.home() / "records"


def test_the_fingerprint_sees_names_order_and_values_but_not_widths():
    print_ = archive.fingerprint
    same = TINY_FRAME.astype({"age": "int16", "gain": "float32", "race": "object"})
    assert print_(same) == print_(TINY_FRAME)
    for other in (
        TINY_FRAME.rename(columns={"age": "Age"}),
        TINY_FRAME.iloc[::-1],
        TINY_FRAME[["gain", "age", "race", "paid"]],
        TINY_FRAME.assign(age=[17, 29, 30, 89]),
        TINY_FRAME.assign(race=["ab", "", "?", "a"]),
        TINY_FRAME.iloc[:3],
    ):
        assert print_(other) != print_(TINY_FRAME)


@pytest.mark.slow
def test_adult_is_fetched_anew_from_the_index(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDTOLL_DATA", str(tmp_path))
    assert archive.fingerprint(archive.frame(ADULT)) == ADULT.fingerprint
    assert names(tmp_path) == [archive.cache_file(ADULT).name]


@pytest.mark.slow
def test_an_index_that_gives_another_adult_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDTOLL_DATA", str(tmp_path))
    assert ADULT.archive is not None
    wrong = dataclasses.replace(ADULT, archive=dataclasses.replace(ADULT.archive, sha256="38" * 32))
    with pytest.raises(ScenarioError, match="not the pinned 383838383838…; it was rejected"):
        archive.frame(wrong)
    assert names(tmp_path) == []


def test_a_stopped_fetch_leaves_nothing_in_the_temporary_folder(pinned, cache, tmp_path, monkeypatch):
    """Neither what it unpacked, nor uv's own temporary files, which a killed uv does not remove."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))

    def stop(command: list[str], *, env: dict[str, str], **options: Any) -> None:
        (Path(env["TMPDIR"]) / ".tmpuv").mkdir()
        assert list(scratch.rglob(".tmpuv"))
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        archive.frame(pinned)
    assert list(scratch.iterdir()) == []


def test_a_fetch_removes_what_a_killed_fetch_left(pinned, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, recent = tmp_path / "fedtoll-fetch-old", tmp_path / "fedtoll-fetch-recent"
    for folder in (old, recent):
        (folder / "unpacked").mkdir(parents=True)
    os.utime(old, (0, 0))
    archive.frame(pinned)
    assert not old.exists()
    assert recent.exists()
