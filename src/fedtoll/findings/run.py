"""A finding from its plan to its outcomes: runs trained or found, claims judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fedtoll.findings import reductions, tune
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
from fedtoll.server import sweep
from fedtoll.server.results import load
from fedtoll.server.store import Store
from fedtoll.toll import folds_of, price_reference


@dataclass(frozen=True)
class Finding:
    """A finding and what became of its claims.

    Parameters
    ----------
    scenario
        Of the base setting.
    folder
        Where its results lie, one folder a setting.
    outcomes
        One a claim and setting, in the order of the file.
    tuned
        What ``[tune]`` chose: by setting, the overrides by ε.
    survives
        Whether it outlives tuning, and leaving the sensitive attributes out.
    front
        The points of the three-way front, where a claim is about a spread over groups.
    """

    scenario: Scenario
    folder: Path
    outcomes: tuple[Outcome, ...]
    tuned: dict[str, dict[str, tuple[str, ...]]]
    survives: tuple[Survival, Survival]
    front: tuple[Point, ...] = ()


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
    """Train every run that is not there yet, and judge the claims.

    Parameters
    ----------
    prepared
        What :func:`fedtoll.findings.prepare` returned.
    folder
        Of this finding; each setting has a results folder of its own in it.
    executor, workers
        How the runs are spread; they never change a result.
    command
        For the record.
    force
        Mix with runs of other versions.
    finished, waiting
        Called for each run that is there, and where another command holds a folder.

    Raises
    ------
    RunError
        When a run failed.
    """
    if prepared.quick:  # starting workers would take longer than the runs
        executor, workers = "serial", 1
    text = scenarios.find(prepared.name).read_text(encoding="utf-8")
    tuned = {s.name for s in prepared.scenario.setting if s.tuned}
    grids = {s.name: s.reduction for s in prepared.scenario.setting}
    correlated = any(claim.along is not None for claim in prepared.scenario.claim)
    studies: dict[str, Study] = {}
    chosen: dict[str, dict[str, tuple[str, ...]]] = {}
    for setting, planned in prepared.plans.items():
        store = Store(folder / setting)
        with store.lock(waiting):
            ready = planned
            if setting in tuned:
                ready, chosen[setting] = tune.tuned(prepared.name, planned, store.folder, workers)
            store.open(ready, text, command, force=force)
            for run in filter(store.has, ready.runs):
                finished(run)
            failures = sweep.execute(ready, store, executor=executor, workers=workers, finished=finished)
            if failures:
                raise RunError(
                    f"{prepared.name}, {setting}: {len(failures)} of {len(ready.runs)} runs failed: "
                    f"{failures[0]}"
                )
            results = load(store.folder)
            groups = results.groups
            if (how := grids.get(setting)) is not None:
                how = how.model_copy(update={"points": 7}) if prepared.quick else how
                groups = pd.concat(
                    [groups, reductions.reduced(ready, how, store.folder, workers)], ignore_index=True
                )
        label = planned.scenario.strategies[0].label
        about = traits(ready.federation.table, ready.federation.groups) if correlated else None
        reference = price_reference(results.resolved)
        studies[setting] = Study(groups, folds_of(results.resolved), label, reference, about)
    barred = "quick: few seeds and rounds" if prepared.quick else ""
    made = outcomes(prepared.scenario.claim, studies, barred=barred)
    scenario = prepared.scenario
    points = front(scenario.claim, studies)
    return Finding(scenario, folder, made, chosen, survival(scenario.setting, made), points)
