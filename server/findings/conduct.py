"""A finding from its file to its outcomes: settings planned, runs trained or found, claims judged."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fedtoll.scenarios import scenario as scenarios
from fedtoll.scenarios.claims import BASE, FLAGS, LEAST_SEEDS, Claim
from fedtoll.scenarios.compare import LEVEL, most, unreachable
from fedtoll.scenarios.errors import RunError, ScenarioError, nearest
from fedtoll.scenarios.records import table_of
from fedtoll.scenarios.reduction import ACCURATE, FAIR
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server import study
from fedtoll.server.findings import reductions, tune
from fedtoll.server.findings.atypicality import traits
from fedtoll.server.findings.cases import outcomes
from fedtoll.server.findings.front import Point, front
from fedtoll.server.findings.quantities import Study
from fedtoll.server.findings.shares import against
from fedtoll.server.findings.survival import Survival, survival
from fedtoll.server.findings.verdicts import Outcome
from fedtoll.server.plan import Plan
from fedtoll.server.results import Store, load
from fedtoll.server.toll import EVERYBODY, folds_of

QUICK_SEEDS = "0:2"


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


@dataclass(frozen=True)
class Prepared:
    """A finding, planned: the plan of every setting that a claim is asked in.

    A tuned setting has the plan of its scenario before tuning.
    """

    name: str
    scenario: Scenario
    plans: dict[str, Plan]
    quick: bool

    @property
    def runs(self) -> int:
        """How many runs it has, those of tuning apart."""
        return sum(len(planned.runs) for planned in self.plans.values())


def names(wanted: Sequence[str]) -> list[str]:
    """Return the findings that are meant: the built-in ones where none is named; files may be.

    Raises
    ------
    ScenarioError
        If a name is neither a finding's nor a file's.
    """
    known = scenarios.findings()
    for name in wanted:
        if name not in known and Path(name).suffix not in {".toml", ".json"}:
            raise ScenarioError(f"findings {name!r}: there is no such finding{nearest(name, known)}")
    return list(dict.fromkeys(wanted)) or list(known)


def prepare(name: str, *, quick: bool = False, seeds: str | None = None) -> Prepared:
    """Read a finding, plan its settings and check every claim; nothing is trained and nothing written.

    Parameters
    ----------
    name
        A built-in name, or a file with claims.
    quick
        Two seeds and two rounds: everything runs and nothing is decided.
    seeds
        In place of the finding's own.

    Raises
    ------
    ScenarioError
        One line for any mistake, among them a family of claims too large for the seeds to decide.
    """
    file = scenarios.find(name).name
    scenario = scenarios.read(name)
    if not scenario.claim:
        raise ScenarioError(f"{file}: no finding: it has no [[claim]]")
    if (why := undecidable(scenario.claim, len(scenario.seeds))) and seeds is None and not quick:
        raise ScenarioError(f"{file}: claim: {why}")
    own = {s.name: s.set for s in scenario.setting}
    tuned = {s.name for s in scenario.setting if s.tuned}
    made = {}
    for setting in _asked(scenario.claim):
        overrides = (*own.get(setting, ()), *(_quick(scenario, setting in tuned) if quick else ()))
        made[setting] = study.prepare(name, overrides, QUICK_SEEDS if quick else seeds)
        if setting in tuned and not made[setting].scenario.split.validation:
            raise ScenarioError(f"{file}: setting {setting!r}: tuned needs split.validation, the public part")
    grids = {s.name: s.reduction for s in scenario.setting if s.reduction is not None}
    try:
        for setting in grids.keys() & made.keys():
            reductions.check(made[setting])
    except ScenarioError as error:
        raise ScenarioError(f"{file}: setting {setting!r}: {error}") from None
    try:
        for claim in scenario.claim:
            _check(claim, made, grids)
    except ScenarioError as error:
        raise ScenarioError(f"{file}: claim {claim.name!r}: {error}") from None
    return Prepared(name, scenario, made, quick)


def undecidable(claims: Sequence[Claim], seeds: int) -> str:
    """Say why so many seeds cannot decide every claim, either way; nothing where they can.

    Parameters
    ----------
    claims
        Of one finding: the family of Holm's correction, each once a setting.
    seeds
        How many. The least p is 2 / 2^S; that times its parts contradicts a claim of several, and that times
        the size of the family is the least after Holm.
    """
    family = sum(len(claim.settings) for claim in claims)
    parts = max(claim.parts for claim in claims)
    if seeds < LEAST_SEEDS:
        return f"too few seeds: {seeds}, and {LEAST_SEEDS} are the fewest; take more seeds"
    if why := unreachable(family, seeds):
        return f"{why}; take more seeds or fewer claims"
    if family * parts > most(seeds):
        told = f"{family} verdicts, of which one has {parts} parts, need p ≤ .05 / {family * parts}"
        return f"family too large: {told}, which {seeds} seeds cannot reach; take more seeds or fewer steps"
    for claim in claims:
        flag = claim.kind == "threshold" and (claim.a.measure or claim.measure) in FLAGS
        for key, bound in (("at_least", claim.at_least), ("at_most", claim.at_most)):
            if flag and bound is not None:
                whole = 1.0 if key == "at_least" else 0.0
                least = against(int(whole * seeds), seeds, bound, above=key == "at_least")
                if least * family > LEVEL:
                    return f"{claim.name!r}: {key} = {bound:g}: {seeds} seeds that agree do not show it"
    return ""


def _quick(scenario: Scenario, tuned: bool) -> list[str]:
    """Return what ``--quick`` overrides, beside the seeds: few rounds, and two candidates to choose from."""
    overrides = ["training.rounds=2"]
    if tuned and scenario.tune is not None:
        overrides.append(f"tune.seeds=[{scenario.tune.seeds[0]}]")
        most = 2
        for axis in ("learning_rates", "clips", "batch_sizes"):
            if values := getattr(scenario.tune, axis):
                overrides.append(f"tune.{axis}={list(values[:most])}")
                most = 1 if len(values) > 1 else most
    return overrides


def _asked(claims: Sequence[Claim]) -> list[str]:
    """Return the settings that claims read, base first."""
    read = [t.setting or BASE for claim in claims for s in claim.settings for t in claim.terms(s)]
    return sorted(dict.fromkeys(read), key=lambda name: name != BASE)


def _check(claim: Claim, made: dict[str, Plan], grids: Collection[str]) -> None:
    """Refuse a side of a claim that no run will have."""
    for setting in claim.settings:
        for term in claim.terms(setting):
            planned = made[term.setting or BASE]
            labels = [s.label for s in planned.scenario.strategies]
            labels += [ACCURATE, FAIR] if term.setting in grids else []
            groups = planned.runs[0].groups
            epsilons = planned.scenario.privacy.epsilons
            if term.strategy is not None and term.strategy not in labels:
                raise ScenarioError(f"strategy = {term.strategy!r}: not here{nearest(term.strategy, labels)}")
            for group in term.groups:
                if group not in groups and group != EVERYBODY:
                    raise ScenarioError(f"groups: no group {group!r}{nearest(group, groups)}")
            epsilon = float("inf") if term.epsilon is None else term.epsilon
            if epsilon not in epsilons:
                known = ", ".join(str(e) for e in epsilons)
                raise ScenarioError(
                    f"epsilon = {epsilon}: not in privacy.epsilons of {term.setting}: {known}"
                )
            if term.of == "toll" and (float("inf") not in epsilons or epsilon == float("inf")):
                raise ScenarioError("a toll needs a finite ε (or 'clip-only'), and runs at ∞ to pair with")
            if term.of == "price" and "fedavg" not in labels:
                raise ScenarioError("a price needs fedavg among the strategies")


def conduct(
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
        What :func:`prepare` returned.
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
            store.open(ready.scenario, ready.runs, text, command, force=force)
            for run in filter(store.has, ready.runs):
                finished(run)
            failures = study.conduct(ready, store, executor=executor, workers=workers, finished=finished)
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
        about = traits(*table_of(ready.runs[0].data)) if correlated else None
        studies[setting] = Study(groups, folds_of(results.resolved), label, about)
    barred = "quick: few seeds and rounds" if prepared.quick else ""
    made = outcomes(prepared.scenario.claim, studies, barred=barred)
    scenario = prepared.scenario
    points = front(scenario.claim, studies)
    return Finding(scenario, folder, made, chosen, survival(scenario.setting, made), points)
