"""``fedtoll report``: rebuild the report of a results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedtoll.console import complain, console
from fedtoll.options import PARTIAL


def report(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Results folder.")]) -> None:
    """Rebuild the report of a results folder."""
    from fedtoll.report import Digest, warm_up
    from fedtoll.server.results import load

    warm_up()
    results = load(folder)
    digest = Digest(results)
    page = write_page(digest)
    show(digest)
    typer.echo(f"report: {page}")
    if results.missing:
        complain(f"{len(results.missing)} runs are missing, e.g. {results.missing[0]}")
        raise typer.Exit(PARTIAL)


def write_page(digest: Any) -> Path:
    """Write the report into the results folder of a digest; return the path of the page."""
    from fedtoll.report import write_report
    from fedtoll.server.store import no_links

    no_links(digest.results.folder)
    return write_report(digest, digest.results.folder)


def show(digest: Any) -> None:
    """Print the summary of a digest."""
    from fedtoll.report import terminal_summary

    console().print(terminal_summary(digest))
