"""``fedtoll report``: rebuild the report of a results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedtoll.console import complain, console, echo
from fedtoll.options import PARTIAL, Open


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Results folder.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write into.", show_default="DIR itself")
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Write the figures as PDF, too.")] = False,
    open_page: Open = False,
) -> None:
    """Rebuild the report of a results folder."""
    from fedtoll.report import Digest, warm_up
    from fedtoll.server.results import load, readable

    warm_up()
    results = load(folder)
    digest = Digest(results)
    with readable(folder):
        page = write_page(digest, out, pdf)
        show(digest)
    echo(f"report: {page}")
    if open_page:
        open_in_browser(page)
    if results.missing:
        complain(f"{len(results.missing)} runs are missing, e.g. {results.missing[0]}")
        raise typer.Exit(PARTIAL)


def write_page(digest: Any, out: Path | None = None, pdf: bool = False) -> Path:
    """Write the report into a folder, by default the results folder of a digest; return the path of the page.

    ``pdf`` says whether to write the figures as PDF, too.

    Raises
    ------
    ScenarioError
        If the folder cannot be written at all.
    RunError
        If writing fails later, e.g. because the disk is full.
    """
    from fedtoll.report import write_report
    from fedtoll.scenarios.errors import RunError, ScenarioError
    from fedtoll.scenarios.locks import locked

    folder = out or digest.results.folder
    try:
        with locked(folder, "figures", lambda: complain(f"{folder}: another report is written; waiting")):
            try:
                return write_report(digest, folder, pdf)
            except OSError as error:
                place, reason = error.filename or folder, error.strerror or error
                raise RunError(f"{place}: the report cannot be written: {reason}") from None
    except ScenarioError as error:
        raise ScenarioError(f"{error}; `fedtoll report DIR --out OTHER` writes elsewhere") from None


def open_in_browser(page: Path) -> None:
    """Open a page in the user's browser; say so if there is none."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        complain(f"no browser found; open {page}")


def show(digest: Any) -> None:
    """Print the summary of a digest."""
    from fedtoll.report import terminal_summary

    console().print(terminal_summary(digest))
