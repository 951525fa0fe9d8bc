"""The terminal, made once for all commands: plain when piped, and no wider than 100 columns there."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console(stderr: bool = False) -> Console:
    """Return a console on stdout, or on stderr for progress."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else int(os.environ.get("COLUMNS", "100"))
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not stream.isatty() and stderr)
