"""Terminal output of all commands: plain text when piped, 100 columns wide unless COLUMNS says otherwise."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from fedtoll.scenarios.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console


def console(stderr: bool = False) -> Console:
    """Return a rich console on stdout, or on stderr (for progress)."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else int(os.environ.get("COLUMNS", "100"))
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not stream.isatty() and stderr)


def complain(message: str) -> None:
    """Print a message as one line on stderr, truncated to 2,000 characters."""
    line = one_line(message)
    line = line if len(line) <= 2000 else f"{line[:2000]}…"
    print(f"fedtoll: {line}", file=sys.stderr)  # noqa: T201


def warn(file: str, warning: str) -> None:
    """Print a warning about a scenario file on stderr, if there is one."""
    if warning:
        complain(f"warning: {file}: {warning}")
