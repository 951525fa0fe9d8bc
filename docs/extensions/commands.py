"""The directive ``command``: description, usage, arguments and options of one command, as in its ``--help``.

The build fails if a command is on no page.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import click
import typer
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from typer.utils import get_params_from_function

from fedtoll.cli import app as commands

_LOGGER = logging.getLogger(__name__)


def contexts() -> dict[str, click.Context]:
    """Return the context of every command, keyed by its full name: ``run``, ``data fetch``, ..."""
    top = typer.main.get_command(commands)
    return dict(_walk(click.Context(top, info_name="fedtoll")))


def _walk(parent: click.Context) -> Iterator[tuple[str, click.Context]]:
    assert isinstance(parent.command, click.Group)
    for name, command in parent.command.commands.items():
        context = click.Context(command, info_name=name, parent=parent)
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", found) for inner, found in _walk(context))
        else:
            yield name, context


class Command(SphinxDirective):
    """Show what ``fedtoll data fetch --help`` prints, for ```{command} data fetch```."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the description, the usage, and a table of arguments and options."""
        name, known = self.arguments[0], contexts()
        if name not in known:
            raise self.error(f"there is no command {name!r}")
        _shown(self.env).setdefault(self.env.docname, set()).add(name)
        context = known[name]
        pieces = " ".join(context.command.collect_usage_pieces(context))
        usage = f"fedtoll {name} {pieces}"
        block = nodes.literal_block(usage, usage, language="text")
        rows = [_help_record(param, context) for param in context.command.get_params(context)]
        rows = [row for row in rows if row[0] != "--help"]
        help_ = " ".join((context.command.help or "").split())
        return [nodes.paragraph(help_, help_), block, *([_table(rows)] if rows else [])]


def _help_record(param: click.Parameter, context: click.Context) -> tuple[str, str]:
    """Return the syntax and the help of a parameter, as ``--help`` prints them."""
    syntax, text = param.get_help_record(context) or (param.make_metavar(context), "")
    if isinstance(param, click.Argument):  # with click 8.5, typer loses the help of arguments
        declared = get_params_from_function(inspect.unwrap(context.command.callback or (lambda: None)))
        help_ = getattr(declared[param.name or ""].default, "help", None) or ""
        text = text if help_ in text else f"{help_} {text}"
    return syntax, " ".join(text.replace("\\[", "[").split())


def _table(rows: Sequence[tuple[str, str]]) -> nodes.table:
    def row(first: nodes.Node, text: str) -> nodes.row:
        cells = (nodes.paragraph("", "", first), nodes.paragraph(text, text))
        return nodes.row("", *(nodes.entry("", cell) for cell in cells))

    widths = [nodes.colspec(colwidth=width) for width in (35, 65)]
    head = nodes.thead("", row(nodes.Text("argument or option"), "meaning"))
    body = nodes.tbody("", *(row(nodes.literal(syntax, syntax), text) for syntax, text in rows))
    return nodes.table("", nodes.tgroup("", *widths, head, body, cols=2))


def _shown(env: BuildEnvironment) -> dict[str, set[str]]:
    """Return the names of the commands on each page."""
    if not hasattr(env, "fedtoll_commands"):
        env.fedtoll_commands = {}  # type: ignore[attr-defined]
    shown: dict[str, set[str]] = env.fedtoll_commands  # type: ignore[attr-defined]
    return shown


def _forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    _shown(env).pop(docname, None)


def _complete(app: Sphinx, env: BuildEnvironment) -> None:
    shown = set().union(*_shown(env).values())
    for name in contexts():
        if name not in shown:
            _LOGGER.warning("fedtoll %s: on no page; add a section to docs/command-line.md", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive, and the check that every command is on a page."""
    app.add_directive("command", Command)
    app.connect("env-purge-doc", _forget)
    app.connect("env-check-consistency", _complete)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
