"""How files are written: beside, and renamed once, so that nobody reads half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

BESIDE = ".beside-"
"""What is written under such a name is not there yet."""


def replace(file: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside, and rename it; nothing is left beside if it fails."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=BESIDE)
    os.close(handle)
    beside = Path(name)
    try:
        write(beside)
        beside.chmod(0o644)
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)


def replace_bytes(file: Path, content: bytes) -> None:
    """Write a file of these bytes."""
    replace(file, lambda beside: beside.write_bytes(content))
