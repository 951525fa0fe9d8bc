"""What a finding asks, before anything is trained: its settings planned, and every claim checked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedtoll.findings import reductions
from fedtoll.scenarios import read as scenarios
from fedtoll.scenarios.claims import BASE, LEAST_SEEDS, Claim
from fedtoll.scenarios.compare import LEVEL, fedavg_label, most, unreachable
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.measures import EVERYBODY, FLAGS
from fedtoll.scenarios.reduction import ACCURATE, FAIR
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server import sweep
from fedtoll.server.plan import Plan
from fedtoll.toll.shares import against

QUICK_SEEDS = "0:2"


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


def apart(prepared: Sequence[Prepared]) -> None:
    """Refuse two findings of one name: they would share a folder.

    Raises
    ------
    ScenarioError
        One line that names both.
    """
    first: dict[str, str] = {}
    for one in prepared:
        other = first.setdefault(one.scenario.name, one.name)
        if other != one.name:
            raise ScenarioError(
                f"findings {one.name!r}: name = {one.scenario.name!r} is that of {other!r} too; give another"
            )


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
    _check_skips(name, file, scenario)
    own = {s.name: s.set for s in scenario.setting}
    tuned = {s.name for s in scenario.setting if s.tuned}
    made: dict[str, Plan] = {}
    for setting in _asked(scenario.claim):
        overrides = (*own.get(setting, ()), *(_quick(scenario, setting in tuned) if quick else ()))
        like = next(iter(made.values())).federation if made else None
        made[setting] = sweep.prepare(name, overrides, QUICK_SEEDS if quick else seeds, like=like)
    if tuned & made.keys():
        _check_public(file, scenario, made)
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


def _check_skips(name: str, file: str, scenario: Scenario) -> None:
    """Refuse to skip replies: every skip must be shown, and neither tuning nor a verdict shows any."""
    for setting, overrides in [("", ()), *((s.name, s.set) for s in scenario.setting)]:
        if scenarios.read(name, overrides).training.on_failure == "skip":
            where = f"setting {setting!r}: " if setting else ""
            raise ScenarioError(
                f"{file}: {where}training.on_failure = 'skip': a finding does not show who is skipped; "
                "leave it at 'abort'"
            )


def _check_public(file: str, scenario: Scenario, made: dict[str, Plan]) -> None:
    """Refuse to tune where any setting has another public part, or other folds, than the scenario."""
    for setting in (s.name for s in scenario.setting if s.tuned and s.name in made):
        if not scenario.split.validation:
            raise ScenarioError(
                f"{file}: setting {setting!r}: tuned needs split.validation, the public part, in [split]"
            )
    for setting, planned in made.items():
        for section in ("split", "data"):
            stated, other = (getattr(s, section).model_dump() for s in (scenario, planned.scenario))
            changed = [key for key in stated if key != "exclude" and stated[key] != other[key]]
            if changed:
                raise ScenarioError(
                    f"{file}: setting {setting!r}: set: {section}.{changed[0]} belongs in [{section}], so "
                    "that what tuning is held against has the same records"
                )


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
            names = {s.label: s.name for s in planned.scenario.strategies}
            labels = [*names]
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
            if term.of == "price" and fedavg_label(names) is None:
                raise ScenarioError("a price needs fedavg among the strategies")
