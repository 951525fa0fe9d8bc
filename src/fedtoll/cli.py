"""The command line: the app and the names of its commands. stdout is data, stderr is progress.

Heavy libraries are imported inside the commands, so that ``--help`` stays
under half a second. Exit codes: 0 done, 1 a run failed, 2 usage or invalid
scenario, 3 partial, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from fedtoll import __version__
from fedtoll.commands import audit, budget, catalogue, compare, data, findings, report, run, strategy
from fedtoll.console import complain
from fedtoll.options import DONE, FAILED, INTERRUPTED, USAGE
from fedtoll.scenarios.errors import FedtollError, ScenarioError

app = typer.Typer(
    name="fedtoll",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Who pays the toll of privacy in federated learning, and which strategy makes it fairer?",
)


def main() -> NoReturn:
    """Run the command line; mistakes are one line on stderr."""
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # how typer returns from an interrupt
            complain("interrupted; the same command resumes")
    except FedtollError as error:
        complain(str(error))
        code = USAGE if isinstance(error, ScenarioError) else FAILED
    except Exception as error:
        import click

        if not isinstance(error, click.ClickException):
            raise
        complain(error.format_message() or "see --help")
        code = USAGE
    sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else DONE)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedtoll {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Say who pays the toll of privacy in federated learning, and which strategy makes it fairer."""


app.command("list")(catalogue.list_)
app.command()(catalogue.describe)
app.command()(run.check)
app.command()(run.run)
app.command()(report.report)
app.command()(compare.compare)
app.command()(budget.budget)
app.command()(audit.audit)
app.command()(findings.findings)
app.add_typer(data.data, name="data")
app.command("new-strategy")(strategy.new_strategy)
app.command("check-strategy")(strategy.check_strategy)

if __name__ == "__main__":
    main()
