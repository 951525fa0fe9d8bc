"""Plan the settings of a finding and check its claims before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedtoll.findings import baselines, reductions
from fedtoll.scenarios import read as scenarios
from fedtoll.scenarios.claims import BASE, LEAST_SEEDS, Claim, Setting
from fedtoll.scenarios.compare import LEVEL, fedavg_label, most, unreachable
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.measures import EVERYBODY, FLAGS
from fedtoll.scenarios.reduction import ACCURATE, FAIR
from fedtoll.scenarios.scenario import Scenario
from fedtoll.scenarios.tune import SECTIONS
from fedtoll.server.plan import Plan
from fedtoll.sweep import run as sweep
from fedtoll.toll.shares import against

QUICK_SEEDS = "0:2"


@dataclass(frozen=True)
class Prepared:
    """A planned finding: the plan of every setting that a claim reads.

    The plan of a tuned setting is the one before tuning.
    """

    name: str
    scenario: Scenario
    plans: dict[str, Plan]
    quick: bool

    @property
    def tuned(self) -> frozenset[str]:
        """The names of the tuned settings."""
        return frozenset(s.name for s in self.scenario.setting if s.tuned)

    @property
    def runs(self) -> int:
        """The number of runs, without those of tuning."""
        return sum(len(planned.runs) for planned in self.plans.values())


def resolve_names(names: Sequence[str]) -> list[str]:
    """Return the findings to run: all built-in ones by default, else the given names or files, each once.

    Raises
    ------
    ScenarioError
        If a name is neither a built-in finding nor a file.
    """
    known = scenarios.findings()
    for name in names:
        if name not in known and Path(name).suffix not in {".toml", ".json"}:
            raise ScenarioError(f"findings {name!r}: no such finding{nearest(name, known)}")
    return list(dict.fromkeys(names)) or list(known)


def check_unique(prepared: Sequence[Prepared]) -> None:
    """Reject two findings with the same name, which would share a folder.

    Raises
    ------
    ScenarioError
        One line that names both.
    """
    first: dict[str, str] = {}
    for finding in prepared:
        other = first.setdefault(finding.scenario.name, finding.name)
        if other != finding.name:
            raise ScenarioError(
                f"findings {finding.name!r}: name = {finding.scenario.name!r} is also the name of {other!r}; "
                "choose another"
            )


def prepare(name: str, *, quick: bool = False, seeds: str | None = None) -> Prepared:
    """Read a finding, plan its settings and check every claim, without training or writing anything.

    Parameters
    ----------
    name
        A built-in name, or a file with claims.
    quick
        Use two seeds and two rounds: everything runs, but nothing is decided.
    seeds
        Seeds in place of the finding's own.

    Raises
    ------
    ScenarioError
        One line for any mistake, including more claims than the seeds can decide.
    """
    file = scenarios.find(name).name
    scenario = scenarios.read(name)
    if not scenario.claim:
        raise ScenarioError(f"{file}: not a finding: it has no [[claim]]")
    if (why := why_undecidable(scenario.claim, len(scenario.seeds))) and seeds is None and not quick:
        raise ScenarioError(f"{file}: claim: {why}")
    _check_skips(name, file, scenario)
    changes = {s.name: s.set for s in scenario.setting}
    tuned = {s.name for s in scenario.setting if s.tuned}
    plans: dict[str, Plan] = {}
    for setting in _settings_read(scenario.claim):
        overrides = (
            *changes.get(setting, ()),
            *(_quick(scenario, setting in tuned) if quick else ()),
        )
        like = next(iter(plans.values())).federation if plans else None
        plans[setting] = sweep.prepare(name, overrides, QUICK_SEEDS if quick else seeds, like=like)
    if tuned & plans.keys():
        _check_public(file, scenario, plans)
    extra: dict[str, list[str]] = {}
    for variant in (s for s in scenario.setting if s.name in plans):
        try:
            extra[variant.name] = _also_trained(variant, plans[variant.name])
        except ScenarioError as error:
            raise ScenarioError(f"{file}: setting {variant.name!r}: {error}") from None
    try:
        for claim in scenario.claim:
            _check(claim, plans, extra)
    except ScenarioError as error:
        raise ScenarioError(f"{file}: claim {claim.name!r}: {error}") from None
    return Prepared(name, scenario, plans, quick)


def _also_trained(setting: Setting, planned: Plan) -> list[str]:
    """Return the names that claims may use besides the strategies' labels; check that they can be trained."""
    names = []
    if setting.reduction is not None:
        reductions.check_supported(planned)
        names += [ACCURATE, FAIR]
    if setting.baseline is not None:
        baselines.check_supported(planned)
        names.append(setting.baseline.kind)
    return names


def _check_skips(name: str, file: str, scenario: Scenario) -> None:
    """Reject ``on_failure = "skip"``, since skipped replies must be reported and a finding does not do so."""
    for setting, overrides in [("", ()), *((s.name, s.set) for s in scenario.setting)]:
        if scenarios.read(name, overrides).training.on_failure == "skip":
            where = f"setting {setting!r}: " if setting else ""
            raise ScenarioError(
                f"{file}: {where}training.on_failure = 'skip': a finding does not report skipped replies; "
                "use 'abort'"
            )


def _check_public(file: str, scenario: Scenario, plans: dict[str, Plan]) -> None:
    """Reject tuning if any setting has other data, another public part or other folds than the scenario."""
    for setting in (s.name for s in scenario.setting if s.tuned and s.name in plans):
        if not scenario.split.validation:
            raise ScenarioError(
                f"{file}: setting {setting!r}: tuned needs split.validation, the public part, in [split]"
            )
    for setting, planned in plans.items():
        for section in ("split", "data"):
            stated, other = (getattr(s, section).model_dump() for s in (scenario, planned.scenario))
            changed = [key for key in stated if key != "exclude" and stated[key] != other[key]]
            if changed:
                raise ScenarioError(
                    f"{file}: setting {setting!r}: set: {section}.{changed[0]} belongs in [{section}], so "
                    "that tuned and untuned settings have the same records"
                )


def why_undecidable(claims: Sequence[Claim], seeds: int) -> str:
    """Return why the seeds cannot decide every claim, either way; empty if they can.

    Parameters
    ----------
    claims
        The claims of one finding. In each of their settings they form the family of Holm's correction.
    seeds
        The number of seeds S. The smallest p-value is 2 / 2^S. A claim with several parts multiplies it by
        their number to be contradicted, and Holm's correction multiplies it by the size of the family.
    """
    family = sum(len(claim.settings) for claim in claims)
    parts = max(claim.parts for claim in claims)
    if seeds < LEAST_SEEDS:
        return f"too few seeds: {seeds}, at least {LEAST_SEEDS} are needed"
    if why := unreachable(family, seeds):
        return f"{why}; use more seeds or fewer claims"
    if family * parts > most(seeds):
        need = f"{family} verdicts, one of them with {parts} parts, need p ≤ .05 / {family * parts}"
        return f"family too large: {need}, which {seeds} seeds cannot reach; use more seeds or fewer steps"
    for claim in claims:
        flag = claim.kind == "threshold" and (claim.a.measure or claim.measure) in FLAGS
        for key, bound in (("at_least", claim.at_least), ("at_most", claim.at_most)):
            if flag and bound is not None:
                flagged = seeds if key == "at_least" else 0
                p = against(flagged, seeds, bound, above=key == "at_least")
                if p * family > LEVEL:
                    return f"{claim.name!r}: {key} = {bound:g}: even {seeds} seeds that agree cannot show it"
    return ""


def _quick(scenario: Scenario, tuned: bool) -> list[str]:
    """Return the overrides of ``--quick`` besides the seeds: two rounds, and two candidates for tuning."""
    overrides = ["training.rounds=2"]
    if tuned and scenario.tune is not None:
        overrides.append(f"tune.seeds=[{scenario.tune.seeds[0]}]")
        limit = 2
        for axis in ("learning_rates", "clips", "batch_sizes"):
            if values := getattr(scenario.tune, axis):
                overrides.append(f"tune.{axis}={list(values[:limit])}")
                limit = 1 if len(values) > 1 else limit
        for section in SECTIONS:
            for key, values in getattr(scenario.tune, section).items():
                overrides.append(f"tune.{section}.{key}={json.dumps(values[:limit])}")
                limit = 1 if len(values) > 1 else limit
    return overrides


def _settings_read(claims: Sequence[Claim]) -> list[str]:
    """Return the settings that claims read, base first."""
    read = [t.setting or BASE for claim in claims for s in claim.settings for t in claim.terms(s)]
    return sorted(dict.fromkeys(read), key=lambda name: name != BASE)


def _check(claim: Claim, plans: dict[str, Plan], extra: Mapping[str, Sequence[str]]) -> None:
    """Reject a claim with a side that no run will have."""
    for setting in claim.settings:
        for term in claim.terms(setting):
            planned = plans[term.setting or BASE]
            names = {s.label: s.name for s in planned.scenario.strategies}
            labels = [*names, *extra.get(term.setting or BASE, ())]
            groups = planned.runs[0].groups
            epsilons = planned.scenario.privacy.epsilons
            if term.strategy is not None and term.strategy not in labels:
                hint = nearest(term.strategy, labels)
                raise ScenarioError(f"strategy = {term.strategy!r}: not in setting {term.setting!r}{hint}")
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
                raise ScenarioError("a toll needs a finite ε (or 'clip-only') and runs at ∞ to pair with")
            if term.of == "price" and fedavg_label(names) is None:
                raise ScenarioError("a price needs fedavg among the strategies")
