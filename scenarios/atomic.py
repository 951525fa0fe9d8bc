"""Atomic writes: to a temporary file in the same folder, which is then renamed.

The content is on the disk before the name is, so a power cut leaves no file that is named but empty.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TEMPORARY = ".partial-"
"""The prefix of incomplete files and folders."""


def write_file(file: Path, fill: Callable[[Path], object]) -> None:
    """Write a file atomically; if ``fill`` fails, leave nothing behind.

    Parameters
    ----------
    file
        The path to write or replace, in an existing folder.
    fill
        Called with the path of an empty temporary file in the same folder; it writes the content there.
    """
    temporary = _unused(file.parent)
    try:
        # Neither tempfile's functions nor a fixed mode: both ignore the user's umask.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        fill(temporary)
        _to_disk(temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Write a folder of files atomically; as :func:`write_file`, but the folder must not exist yet."""
    temporary = _unused(folder.parent)
    try:
        temporary.mkdir()
        fill(temporary)
        for path in (*temporary.iterdir(), temporary):
            _to_disk(path)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(file: Path, content: bytes) -> None:
    """Write bytes to a file atomically."""
    write_file(file, lambda temporary: temporary.write_bytes(content))


def _unused(folder: Path) -> Path:
    return folder / f"{TEMPORARY}{secrets.token_hex(8)}"


def _to_disk(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if path.is_dir():
            with suppress(OSError):  # some file systems cannot, and then the rename orders nothing either
                os.fsync(handle)
        else:
            os.fsync(handle)
    finally:
        os.close(handle)
