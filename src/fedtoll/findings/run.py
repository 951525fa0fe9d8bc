"""Run one finding: train the missing runs, then judge the claims."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from fedtoll.findings import baselines, reductions
from fedtoll.findings.atypicality import traits
from fedtoll.findings.contrasts import outcomes
from fedtoll.findings.front import Point, front
from fedtoll.findings.prepare import Prepared
from fedtoll.findings.quantities import Study
from fedtoll.findings.survival import Survival, survival
from fedtoll.findings.verdicts import Outcome
from fedtoll.scenarios import read as scenarios
from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.results import load
from fedtoll.server.store import Store
from fedtoll.sweep import cache, tune
from fedtoll.sweep import run as sweep
from fedtoll.toll import folds_of, price_reference


@dataclass(frozen=True)
class Finding:
    """A finding and the outcomes of its claims.

    Parameters
    ----------
    scenario
        The scenario of the base setting.
    folder
        The folder with one results folder per setting.
    outcomes
        One outcome per claim and setting, in the order of the file.
    tuned
        The constants that ``[tune]`` chose, by setting, ε and strategy.
    survives
        Whether the finding survives tuning, and leaving out the sensitive attributes.
    front
        The points of the Pareto front, if a claim is about a spread over groups.
    quick
        Whether it ran with two seeds and two rounds only: then nothing is decided and there are no intervals.
    """

    scenario: Scenario
    folder: Path
    outcomes: tuple[Outcome, ...]
    tuned: dict[str, tune.Choices]
    survives: tuple[Survival, Survival]
    front: tuple[Point, ...] = ()
    quick: bool = False


def run_finding(
    prepared: Prepared,
    folder: Path,
    *,
    executor: str = "processes",
    workers: int | None = None,
    command: str = "fedtoll findings",
    force: bool = False,
    finished: Callable[[Run], None] = lambda run: None,
    waiting: Callable[[], None] = lambda: None,
) -> Finding:
    """Train the runs that are missing, and judge the claims.

    Parameters
    ----------
    prepared
        What :func:`fedtoll.findings.prepare` returned.
    folder
        The folder of this finding; each setting has a results folder in it.
    executor, workers
        How the runs are distributed; they never change a result.
    command
        The command line, for the record.
    force
        Mix with results of other library versions.
    finished
        Called after each run, and for each run that is stored already.
    waiting
        Called if another command is using a folder.

    Raises
    ------
    ScenarioError
        If results in the folder are of other library versions; nothing is trained then.
    RunError
        If a run fails.
    """
    if not force:
        check_versions(prepared, folder)
    if prepared.quick:  # starting workers would take longer than the runs
        executor, workers = "serial", 1
    text = scenarios.find(prepared.name).read_text(encoding="utf-8-sig")
    grids = {s.name: s.reduction for s in prepared.scenario.setting}
    mechanisms = {s.name: s.baseline for s in prepared.scenario.setting}
    correlated = any(claim.along is not None for claim in prepared.scenario.claim)
    studies: dict[str, Study] = {}
    chosen: dict[str, tune.Choices] = {}
    for setting, planned in prepared.plans.items():
        store = Store(folder / setting)
        with store.lock(waiting):
            ready, resolved = planned, store.resolved()
            if setting in prepared.tuned:
                tuning = cache.open_folder(store.folder / "tuning", resolved, force=force)
                ready = tune.tune(planned, tuning, executor=executor, workers=workers)
                ready = dataclasses.replace(ready, recipe=())  # the setting that it is compared with has them
                chosen[setting] = tune.choices(ready)
            store.open(ready, text, command, force=force)
            for run in filter(store.has, ready.runs):
                finished(run)
            failures = sweep.execute(ready, store, executor=executor, workers=workers, finished=finished)
            if failures:
                raise RunError(
                    f"{prepared.name}: setting {setting!r}: {len(failures)} of {len(ready.runs)} runs "
                    f"failed, first {failures[0]}"
                )
            results = load(store.folder)
            groups = results.groups
            if (reduction := grids.get(setting)) is not None:
                if prepared.quick:
                    reduction = reduction.model_copy(update={"points": 7})
                place = cache.open_folder(store.folder / "reductions", resolved, force=force)
                picked = reductions.run_grids(ready, reduction, place, workers)
                groups = pd.concat([groups, picked], ignore_index=True)
            if (baseline := mechanisms.get(setting)) is not None:
                place = cache.open_folder(store.folder / "baselines", resolved, force=force)
                other = baselines.run_baselines(ready, baseline, place, executor=executor, workers=workers)
                groups = pd.concat([groups, other], ignore_index=True)
        label = planned.scenario.strategies[0].label
        group_traits = traits(ready.federation.table, ready.federation.groups) if correlated else None
        reference = price_reference(results.resolved)
        studies[setting] = Study(groups, folds_of(results.resolved), label, reference, group_traits)
    scenario = prepared.scenario
    undecidable = "quick: few seeds and rounds" if prepared.quick else ""
    judged = outcomes(scenario.claim, studies, undecidable=undecidable)
    points = front(scenario.claim, studies)
    if prepared.quick:  # an interval over two seeds says nothing: a correlation of −2.9 to 2.5
        judged = tuple(replace(o, low=math.nan, high=math.nan) for o in judged)
        points = tuple(p.without_intervals() for p in points)
    survives = survival(scenario.setting, judged)
    return Finding(scenario, folder, tuple(judged), chosen, survives, points, prepared.quick)


def check_versions(prepared: Prepared, folder: Path) -> None:
    """Reject results of other library versions, before anything is trained.

    Parameters
    ----------
    prepared, folder
        As in :func:`run_finding`.

    Raises
    ------
    ScenarioError
        One line with the folder, the library and both versions.
    """
    for setting, planned in prepared.plans.items():
        store = Store(folder / setting)
        if setting in prepared.tuned:  # its runs are known only after tuning, so any run counts
            stored = any((store.folder / "runs").glob("*/run.json"))
        else:
            stored = any(store.has(run) for run in planned.runs)
        if stored:
            store.check_versions()
        for name in cache.PACKAGES:
            cache.check(store.folder / name, store.resolved())
