"""The command line: the app and the names of its commands.

Results go to stdout; progress and errors go to stderr. Heavy libraries are imported inside the
commands, so that ``--help`` takes less than half a second.
Exit codes: 0 done, 1 a run failed, 2 usage error or invalid scenario, 3 partial, 130 interrupted,
129 and 143 stopped by SIGHUP and SIGTERM.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn

import typer

from fedtoll import __version__
from fedtoll.commands import (
    audit,
    budget,
    catalogue,
    compare,
    data,
    draft,
    export,
    federation,
    findings,
    mechanism,
    personal_model,
    report,
    run,
    status,
    strategy,
)
from fedtoll.console import complain, show_warnings_visibly
from fedtoll.hints import usage
from fedtoll.options import DONE, FAILED, INTERRUPTED, SETTINGS, USAGE, Command, bare
from fedtoll.scenarios.errors import FedtollError, ScenarioError
from fedtoll.stopping import Stopped, stops_raise

app = typer.Typer(
    name="fedtoll",
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
)


def main() -> NoReturn:
    """Run the command line and exit; every error is one line on stderr."""
    show_warnings_visibly()
    try:
        with stops_raise():
            code = app(standalone_mode=False)
            sys.stdout.flush()
        if code == INTERRUPTED:  # typer returns this code after Ctrl-C
            complain("interrupted; the same command resumes")
    except Stopped as stop:
        complain(f"{stop}; the same command resumes")
        code = stop.code
    except FedtollError as error:
        complain(str(error))
        code = USAGE if isinstance(error, ScenarioError) else FAILED
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}:
            raise
        complain(f"{error.filename or 'standard output'}: cannot be written: {error.strerror}")
        if not error.filename:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python tries once more as it exits
        code = FAILED
    except Exception as error:
        import click

        if not isinstance(error, click.ClickException):
            raise
        complain(usage(error))
        code = USAGE
    sys.exit(code if isinstance(code, int) else DONE)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"fedtoll {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Simulate federated learning with DP-SGD, and measure what privacy costs each demographic group."""
    bare(context)


COMMANDS: dict[str, Callable[..., None]] = {
    "list": catalogue.list_,
    "describe": catalogue.describe,
    "check": run.check,
    "run": run.run,
    "status": status.status,
    "report": report.report,
    "compare": compare.compare,
    "export": export.export,
    "budget": budget.budget,
    "audit": audit.audit,
    "findings": findings.findings,
    "new-scenario": draft.new_scenario,
    "new-source": draft.new_source,
    "new-strategy": strategy.new_strategy,
    "check-strategy": strategy.check_strategy,
    "new-mechanism": mechanism.new_mechanism,
    "check-mechanism": mechanism.check_mechanism,
    "new-personal-model": personal_model.new_personal_model,
    "check-personal-model": personal_model.check_personal_model,
}
for _name, _command in COMMANDS.items():
    app.command(_name, cls=Command)(_command)
app.add_typer(data.data, name="data")
app.add_typer(federation.federation, name="federation")

if __name__ == "__main__":
    main()
