"""How the report's files are written: beside, and renamed once."""

from __future__ import annotations

import tempfile
from pathlib import Path


def replace(path: Path, content: bytes) -> None:
    """Write a file beside and rename it, so that nobody reads half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as beside:
        beside.write(content)
    Path(beside.name).chmod(0o644)
    Path(beside.name).replace(path)
