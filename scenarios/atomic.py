"""Atomic writes: to a temporary file in the same folder, which is then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
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
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=TEMPORARY)
    os.close(handle)
    temporary = Path(name)
    try:
        fill(temporary)
        temporary.chmod(0o644)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(folder: Path, fill: Callable[[Path], object]) -> None:
    """Write a folder atomically; as :func:`write_file`, but the folder must not exist yet."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=TEMPORARY))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(file: Path, content: bytes) -> None:
    """Write bytes to a file atomically."""
    write_file(file, lambda temporary: temporary.write_bytes(content))
