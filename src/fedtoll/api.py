"""``fedtoll.run``: a whole scenario from a script, a notebook, a pipe or an interactive session."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedtoll.frame import Frame
from fedtoll.results import Results, load
from fedtoll.scenarios import read as scenarios
from fedtoll.scenarios import toml
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.keywords import plain
from fedtoll.server.store import Store
from fedtoll.strategies.given import described
from fedtoll.strategies.interactive import MAIN
from fedtoll.sweep import run as sweep
from fedtoll.sweep.executor import ray_address

if TYPE_CHECKING:
    import pandas as pd

    from fedtoll.scenarios.run import Run
    from fedtoll.scenarios.scenario import Scenario
    from fedtoll.server.plan import Plan

_NO_FILE = str(Path("/table").resolve())
"""Stands for the file of a frame until the results folder is known."""


def run(
    scenario: str | Path | Mapping[str, Any],
    *,
    table: pd.DataFrame | None = None,
    strategies: Sequence[Any] | None = None,
    seeds: str | Sequence[int] | None = None,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    executor: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    force: bool = False,
    tune: bool | Mapping[str, Any] = True,
    probe: bool = True,
    progress: bool = True,
    **keys: Any,
) -> Results:
    """Run a scenario and return its results; calling it again resumes.

    Parameters
    ----------
    scenario
        A built-in name, the path of a TOML file, or a scenario as a dictionary of the same sections.
    table
        The records, in place of the file that ``[data]`` names; ``[data.own]`` declares the columns. The
        declared columns are written next to the results folder, as ``<out>-table.parquet``, once the scenario
        is planned. A folder with runs on other records is refused.
    strategies
        Names, dictionaries with ``name`` and parameters, classes, or instances such as ``Term(t=5.0)``.
    seeds
        Numbers, or a range such as ``"0:10"``.
    out
        The results folder, by default ``results/<name>``.
    overrides
        ``"key=value"`` with TOML literals, e.g. ``["training.rounds=10"]``, as ``--set`` takes them.
    executor, workers
        ``serial``, ``processes`` or ``ray``, and the number of workers. The default is ``processes``, or
        ``serial`` if the calling script or notebook itself defines a strategy, which other processes do not
        have. No worker runs the calling script again, so it needs no ``if __name__ == "__main__"``.
    address
        For ``ray``: ``HOST:PORT`` of a cluster's head node, by default that of the environment variable
        ``RAY_ADDRESS``, else a Ray is started on this machine.
    force
        Accept stored runs that were made with other versions of the libraries.
    tune
        Whether to choose constants as ``[tune]`` says; without, only the scenario's own recipe is run. A
        dictionary is the section itself, merged with the scenario's own.
    probe
        Whether to probe other learning rates if nothing is tuned and a probe is cheap.
    progress
        Whether to show how far it is: in a notebook or a terminal at once, elsewhere after 30 seconds.
    **keys
        Other keys of the scenario by name: ``epsilons=[1, 4]``, ``rounds=10``, or a whole section,
        ``training={"rounds": 10}``, which is merged with the scenario's own. A key may not have two values,
        here and in ``overrides``.

    Raises
    ------
    ScenarioError
        If the scenario or an argument has a mistake.
    RunError
        If a run, or a run of a candidate, failed or is missing; the others are stored.

    Warns
    -----
    UserWarning
        If δ is large for the number of records.

    Examples
    --------
    ``fedtoll.run("adult-race", epsilons=["inf", 1, 4], seeds=range(3), rounds=10)``
    """
    _check_arguments(overrides, tune=tune, probe=probe, force=force)
    given, file, folder = _read(scenario)
    if isinstance(tune, Mapping):
        keys, tune = {"tune": tune, **keys}, True
    if strategies is not None:
        if isinstance(strategies, str | Mapping):
            raise ScenarioError(f"strategies = {strategies!r}: must be a list")
        keys["strategies"] = [described(strategy) for strategy in strategies]
    if seeds is not None:
        keys["seeds"] = seeds
    if table is not None:
        given = _for_table(given, file)
    checked = scenarios.build(given, file, folder, overrides, keywords=keys)
    executor = _executor(executor, [spec.name for spec in checked.strategies])
    sweep.check_options(executor, "local", address=address, workers=workers)
    store = Store(Path(out) if out is not None else Path("results") / checked.name)
    frame = None
    if table is not None:
        checked, frame = _with_table(checked, given, table, store.folder, file)
    with frame.in_memory() if frame is not None else nullcontext():
        planned = sweep.plan_for(checked, file, tune=tune)
    if planned.warning:
        warnings.warn(planned.warning, UserWarning, stacklevel=2)
    lines: list[str] = []
    with store.lock(), ray_address(address):
        if frame is not None:
            frame.write()
            frame = None  # it holds a copy of the records
        with _shown(planned, store, progress, "tuning") as finished:
            planned = sweep.complete(
                planned,
                store,
                executor=executor,
                workers=workers,
                force=force,
                probe=probe,
                failed=lines.append,
                finished=finished,
            )
        store.open(planned, _text(scenario, given), _call(scenario, overrides, keys), force=force)
        with _shown(planned, store, progress, "training") as finished:
            failures = sweep.execute(planned, store, executor=executor, workers=workers, finished=finished)
        if failures:
            raise RunError(f"{len(failures)} of {len(planned.all_runs)} runs failed: {failures[0]}")
        if lines:
            raise RunError(f"{len(lines)} runs of candidates failed: {lines[0]}")
        if lost := [run.label for run in planned.all_runs if not store.has(run)]:
            raise RunError(f"{len(lost)} of {len(planned.all_runs)} runs are not stored, e.g. {lost[0]}")
        return load(store.folder)


def _check_arguments(overrides: Any, **flags: Any) -> None:
    """Raise ``ScenarioError`` if an argument that the scenario does not check is of another type."""
    if not isinstance(overrides, list | tuple) or not all(isinstance(text, str) for text in overrides):
        raise ScenarioError(
            f"overrides = {overrides!r}: must be a list of texts, e.g. ['training.rounds=10']"
        )
    for name, value in flags.items():
        if not isinstance(value, bool) and not (name == "tune" and isinstance(value, Mapping)):
            more = ", or the section [tune] as a dictionary" if name == "tune" else ""
            raise ScenarioError(f"{name} = {value!r}: must be True or False{more}")


def _read(scenario: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], str, Path]:
    """Return the tables of a scenario, the name that its errors begin with, and its folder."""
    if isinstance(scenario, Mapping):
        given = plain(scenario)
        if isinstance(listed := scenario.get("strategies"), list | tuple):
            given["strategies"] = [described(strategy) for strategy in listed]
        return given, "scenario", Path()
    path = scenarios.find(str(scenario))
    return scenarios.parse(path), path.name, path.parent


def _for_table(given: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return a scenario whose records are those of a frame, of a file with no name yet."""
    tables = copy.deepcopy(dict(given))
    data = tables.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("own"), dict):
        raise ScenarioError(f"{file}: table: needs [data.own], which declares its columns")
    data.pop("source", None)
    data["file"] = _NO_FILE
    return tables


def _with_table(
    checked: Scenario, given: Mapping[str, Any], table: Any, results: Path, file: str
) -> tuple[Scenario, Frame]:
    """Return a scenario that names the file of a frame, and the frame; ``given`` names it, too."""
    own = checked.data.own
    if own is None or checked.data.file != _NO_FILE:
        raise ScenarioError(f"{file}: data.file, table: both state the records; state one of them")
    frame = Frame.of(table, own, results)
    given["data"]["file"] = str(frame.path)
    data = checked.data.model_copy(update={"file": str(frame.path)})
    return checked.model_copy(update={"data": data}), frame


def _executor(executor: str | None, names: Sequence[str]) -> str:
    """Return the executor, which must be ``serial`` for strategies that only this process has."""
    here = [name for name in names if name.startswith(f"{MAIN}:")]
    if not here:
        return executor or "processes"
    if executor not in {None, "serial"}:
        raise ScenarioError(
            f"strategies: {here[0].removeprefix(f'{MAIN}:')} is defined in the calling script, which "
            f"the workers of executor {executor!r} do not run; move it to a file of its own, or use 'serial'"
        )
    return "serial"


@contextmanager
def _shown(planned: Plan, store: Store, progress: bool, what: str) -> Iterator[Callable[[Run], Any]]:
    """Show the progress of tuning or training, if it is to be shown."""
    from fedtoll import progress as shown

    if not progress:
        yield lambda run: None
        return
    with shown.tuning(planned) if what == "tuning" else shown.training(planned, store) as finished:
        yield finished


def _text(scenario: str | Path | Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return what ``scenario.toml`` of the results folder says."""
    if isinstance(scenario, Mapping):
        return toml.dumps(given)
    return scenarios.find(str(scenario)).read_text(encoding="utf-8-sig")


def _call(scenario: str | Path | Mapping[str, Any], overrides: Sequence[str], keys: Mapping[str, Any]) -> str:
    """Return the call that made the results, without what changes no result."""
    first = "scenario" if isinstance(scenario, Mapping) else repr(str(scenario))
    more = {"overrides": list(overrides)} if overrides else {}
    stated = [f"{name}={plain(value)!r}" for name, value in (more | dict(keys)).items()]
    return f"fedtoll.run({', '.join([first, *stated])})"
