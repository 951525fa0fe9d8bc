"""Terminal output of all commands: plain text when piped, 100 columns wide unless COLUMNS says otherwise."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

import click

from fedtoll.scenarios.errors import one_line
from fedtoll.scenarios.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment


def console(stderr: bool = False) -> Console:
    """Return a rich console on stdout, or on stderr (for progress), which prints all text visibly."""
    from rich.console import Console
    from rich.segment import Segment

    class Visible(Console):
        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else visible(text), style, control)

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else int(os.environ.get("COLUMNS", "100"))
    return Visible(stderr=stderr, width=width, highlight=False, soft_wrap=not stream.isatty() and stderr)


def echo(text: object = "", *, end: str = "\n") -> None:
    """Print a result on stdout: lines of text, or JSON, which stays the same JSON."""
    click.echo(visible(str(text)) + end, nl=False)


def show_warnings_visibly() -> None:
    """Let the warnings that fedtoll logs reach stderr as other text does, unless somebody handles them."""

    class Visible(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return visible(super().format(record))

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Visible())


def complain(message: str) -> None:
    """Print a message as one line on stderr, truncated to 2,000 characters."""
    line = one_line(message)
    line = line if len(line) <= 2000 else f"{line[:2000]}…"
    print(f"fedtoll: {line}", file=sys.stderr)  # noqa: T201


def warn(file: str, warning: str) -> None:
    """Print a warning about a scenario file on stderr, if there is one."""
    if warning:
        complain(f"warning: {file}: {warning}")
