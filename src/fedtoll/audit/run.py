"""One audit of a scenario: attacks on every strategy and ε, with the results written to ``audit/``."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedtoll.audit import attacks
from fedtoll.audit.bounds import LEVEL, replaced_ceiling
from fedtoll.audit.canaries import craft
from fedtoll.audit.statistics import audit_statistics
from fedtoll.audit.subject import FIRST, LAST, ROUND, SAMPLED, broken, fingerprint, over_claim, settings
from fedtoll.audit.targets import Target, plan_targets, train_targets
from fedtoll.audit.white_box import MIN_OBSERVATIONS, Bound, audit_step, one_run
from fedtoll.privacy.accounting import epsilon, record_epsilon
from fedtoll.privacy.breakdown import events_of
from fedtoll.scenarios.atomic import write_file
from fedtoll.scenarios.client import Client
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.locks import no_links
from fedtoll.scenarios.numbers import write_number, write_numbers
from fedtoll.scenarios.read import find, read
from fedtoll.scenarios.run import NUMERICS, ClientPlan, Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.plan import Plan, plan
from fedtoll.server.store import versions

MIN_TARGETS = 4
"""The smallest number of models: an attack on one needs others that were trained without a record."""

OBSERVATIONS = {
    FIRST: MIN_OBSERVATIONS,
    LAST: MIN_OBSERVATIONS // 2,
    SAMPLED: MIN_OBSERVATIONS // 2,
    ROUND: MIN_OBSERVATIONS,
}
"""The observations on each side by what the attacker sees: for each group half if they take several steps."""


@dataclass(frozen=True)
class Prepared:
    """A planned audit.

    Parameters
    ----------
    scenario, planned
        The scenario, and its runs of one seed, whose clients get the white-box audit.
    halves
        The runs whose models are the targets, each on half of the records.
    seeds
        The seeds of the audit, one for each target model.
    """

    scenario: Scenario
    planned: Plan
    halves: Plan
    seeds: tuple[int, ...]

    @property
    def private(self) -> list[Run]:
        """The runs with a finite ε."""
        return [run for run in self.planned.runs if run.mechanism == "dp-sgd"]

    @property
    def progress_steps(self) -> int:
        """The number of times that :func:`run_audit` calls ``finished``."""
        return len(self.private) + len(self.halves.runs)


def prepare(name: str, overrides: Sequence[str], seeds: str, epsilon: float | None = None) -> Prepared:
    """Read a scenario and plan its audit, without training or writing anything.

    Parameters
    ----------
    name, overrides
        As :func:`fedtoll.scenarios.read.read` takes them.
    seeds
        A range ``A:B`` with one target model for each seed.
    epsilon
        A budget to audit in place of the scenario's finite ones.

    Raises
    ------
    ScenarioError
        If the scenario is invalid, has no finite ε to audit, or has fewer than four seeds.
    """
    if epsilon is not None:
        if not 0 < epsilon < math.inf:
            raise ScenarioError(f"--epsilon {epsilon:g}: must be a finite number greater than 0")
        references = [e for e in read(name, overrides).privacy.epsilons if not _finite(e)]
        literals = [json.dumps(write_number(e)) for e in references]
        overrides = [*overrides, f"privacy.epsilons=[{', '.join([*literals, repr(epsilon)])}]"]
    scenario = read(name, overrides, seeds)
    file = find(name).name
    if (
        scenario.training.on_failure == "skip"
    ):  # skipped replies must be reported, and an audit has no place for them
        raise ScenarioError(
            f"{file}: training.on_failure = 'skip': an audit does not report skipped replies; use 'abort'"
        )
    if scenario.privacy.unit == "client":
        raise ScenarioError(
            f"{file}: privacy.unit = 'client': an audit attacks single records of a client; use 'record'"
        )
    if (trust := scenario.privacy.trust) != "local":
        raise ScenarioError(
            f"{file}: privacy.trust = {trust!r}: an audit attacks messages of single clients, which nobody "
            "sees there; use 'local'"
        )
    if scenario.calibration is not None:
        raise ScenarioError(
            f"{file}: calibration: an audit does not attack the last release; leave [calibration] out"
        )
    if scenario.personal is not None:
        raise ScenarioError(
            f"{file}: personal.kind = {scenario.personal.kind!r}: an audit attacks the server's model and "
            "plain DP-SGD; leave [personal] out"
        )
    if scenario.partition.kind == "declared":
        raise ScenarioError(f"{file}: partition.kind = 'declared': an audit attacks records that are here")
    if scenario.participation.kind != "all":
        kind = scenario.participation.kind
        raise ScenarioError(
            f"{file}: participation.kind = {kind!r}: an audit attacks every round of a client; use 'all'"
        )
    if (start := scenario.training.start) != "initial":
        raise ScenarioError(f"{file}: training.start = {start!r}: an audit starts at the initial model")
    if scenario.client != Client():
        raise ScenarioError(f"{file}: client: an audit attacks plain DP-SGD; leave out the section")
    if not any(_finite(e) for e in scenario.privacy.epsilons):
        raise ScenarioError(f"{file}: privacy.epsilons: no finite ε to audit; give one with --epsilon")
    if len(scenario.seeds) < MIN_TARGETS:
        raise ScenarioError(
            f"--seeds {seeds}: {len(scenario.seeds)} models; an attack needs {MIN_TARGETS} or more"
        )
    first_seed = scenario.model_copy(update={"seeds": scenario.seeds[:1]})
    planned = plan(first_seed, file)
    halves = plan_targets(scenario, file, scenario.seeds, planned)
    return Prepared(scenario, planned, halves, scenario.seeds)


def _finite(epsilon: float | str) -> bool:
    return isinstance(epsilon, float) and math.isfinite(epsilon)


def run_audit(
    prepared: Prepared,
    folder: Path,
    *,
    workers: int | None = None,
    finished: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Perform an audit and write its results to ``folder/audit``; models stored there are not trained again.

    Parameters
    ----------
    prepared
        What :func:`prepare` returned.
    folder
        The results folder.
    workers
        The number of processes, by default one per core.
    finished
        Called after each model and each white-box audit.

    Returns
    -------
    dict
        The content of ``audit.json``: the tables ``canary``, ``membership`` and ``disparity`` as lists of
        rows (undefined as ``None``, infinity as ``"inf"``), ``over_claim``, ``broken``, and the subject of
        the audit.

    Raises
    ------
    ScenarioError
        If the folder cannot be written.
    RunError
        If a run fails.
    """
    place = Path(folder) / "audit"
    no_links(Path(folder))
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScenarioError(f"{place}: cannot be written: {error.strerror or error}") from None
    models = train_targets(prepared.halves, place / "models", workers, finished)
    membership, disparities = _membership(prepared, models)
    canary = _canary(prepared, finished)
    content = {
        "scenario": prepared.scenario.name,
        "settings": settings(prepared.scenario.model_dump(mode="json")),
        "versions": versions(),
        "numerics": NUMERICS,
        **fingerprint(run.model_dump(mode="json") for run in prepared.planned.runs),
        "seeds": list(prepared.seeds),
        "confidence": 1 - LEVEL,
        "over_claim": over_claim(canary, LEVEL),
        "broken": broken(canary, LEVEL),
        "canary": canary,
        "membership": membership,
        "disparity": disparities,
    }
    plain: dict[str, Any] = write_numbers(content)
    text = json.dumps(plain, ensure_ascii=False, indent=1) + "\n"
    try:
        for name, rows in (("canary", canary), ("membership", membership), ("disparity", disparities)):
            write_file(place / f"{name}.parquet", partial(pd.DataFrame(rows).to_parquet, index=False))
        write_file(place / "audit.json", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"{place}: cannot be written: {error.strerror or error}") from None
    return plain


def _canary(prepared: Prepared, finished: Callable[[], None]) -> list[dict[str, Any]]:
    """Bound ε, in every private run, for the client with the least noise that holds each group.

    The last round is observed once for each run, in all clients that have the σ, q and T of the client with
    the least noise.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    federation = prepared.planned.federation
    try:
        for run in prepared.private:
            canaries = craft(run, run.clients[0], federation)
            shared: dict[str, Any] = {"federation": federation, "canaries": canaries}
            least = min(run.clients, key=lambda c: c.noise_multiplier)
            alike = [least, *(c for c in run.clients if c != least and _schedule(c) == _schedule(least))]
            audits = [("", least, [_step(run, ROUND, alike, _seed(prepared, len(rows)), shared)])]
            for group, client in _clients(run, federation).items():
                total = epsilon(tuple(events_of(run, client).values()), *run.guarantee)
                # No two audits share their noise: otherwise all could exceed their claims together.
                seeds = (_seed(prepared, len(rows), len(audits), i) for i in itertools.count())
                views = [FIRST, *[LAST] * (client.steps > 1), *[SAMPLED] * (client.sampling_rate < 1)]
                bounds = [_step(run, view, [client], next(seeds), shared) for view in views]
                bounds.append(one_run(run, client, next(seeds), claim=total, **shared))
                bounds += audit_statistics(run, client, next(seeds), **shared)
                audits.append((group, client, bounds))
            for group, client, bounds in audits:
                key = {
                    "strategy": run.strategy.name,
                    "epsilon": run.epsilon,
                    "group": group,
                    "client": client.id,
                    "public_size": client.size,
                    "sampling_rate": client.sampling_rate,
                    "steps": client.steps,
                    "noise_multiplier": client.noise_multiplier,
                    "engine": run.engine,
                }
                rows += [{**key, **asdict(bound)} for bound in bounds]
            finished()
    finally:
        torch.set_num_threads(threads)
    return rows


def _step(run: Run, view: str, clients: Sequence[ClientPlan], seed: int, shared: dict[str, Any]) -> Bound:
    return audit_step(view, run, clients, seed, observations=OBSERVATIONS[view], **shared)


def _seed(prepared: Prepared, *key: int) -> int:
    return int(np.random.SeedSequence([prepared.seeds[0], 7, *key]).generate_state(1)[0])


def _schedule(client: ClientPlan) -> tuple[float, float, int]:
    return client.noise_multiplier, client.sampling_rate, client.steps


def _clients(run: Run, federation: Federation) -> dict[str, ClientPlan]:
    """Return, for every group, the holder with the least noise; of several, the one with most records."""
    expected_KG = federation.layout.expected_KG
    clients = {}
    for g, group in enumerate(run.groups):
        holders = [c for c in run.clients if expected_KG[c.id, g] > 0]
        if holders:
            clients[group] = min(holders, key=lambda c: (c.noise_multiplier, -expected_KG[c.id, g]))
    return clients


def _membership(
    prepared: Prepared, models: dict[str, Target]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run both attacks on the models of every strategy and ε."""
    rows: list[dict[str, Any]] = []
    disparities: list[dict[str, Any]] = []
    cells: dict[tuple[str, str, float], list[Run]] = {}
    for run in prepared.halves.runs:
        cells.setdefault((run.strategy.name, run.mechanism, run.epsilon), []).append(run)
    for (strategy, mechanism, budget), runs in cells.items():
        logit_TN, member_TN, codes_N = _common([models[run.hash] for run in runs], prepared.halves.federation)
        bound = replaced_ceiling(_epsilon_of_record(runs[0]), runs[0].guarantee[0])
        key = {"strategy": strategy, "mechanism": mechanism, "epsilon": budget}
        for attack in attacks.ATTACKS:
            score_TN = attacks.lira(logit_TN, member_TN) if attack == "lira" else attacks.loss(logit_TN)
            exposures = attacks.exposures(score_TN, member_TN, codes_N, runs[0].groups)
            rows += [{**key, "attack": attack, **asdict(e), "ceiling": bound} for e in exposures]
            disparities.append({**key, "attack": attack, **asdict(attacks.disparity(exposures))})
    return rows, disparities


def _common(models: Sequence[Target], federation: Federation) -> tuple[Any, Any, Any]:
    """Return the scores, memberships and groups of the records that are candidates for every model.

    Records of the public validation part are neither members nor non-members.
    """
    rows_N = models[0].rows_N
    for model in models[1:]:
        if not np.array_equal(rows_N, model.rows_N):
            rows_N = np.intersect1d(rows_N, model.rows_N)
    at = [np.searchsorted(model.rows_N, rows_N) for model in models]
    logit_TN = np.stack([model.logit_N[i] for model, i in zip(models, at, strict=True)])
    member_TN = np.stack([model.member_N[i] for model, i in zip(models, at, strict=True)])
    return logit_TN, member_TN, federation.groups.codes[rows_N]


def _epsilon_of_record(run: Run) -> float:
    """Return a record's ε: its client's, or the sum over all clients that hold a copy of it."""
    if run.mechanism != "dp-sgd":
        return math.inf
    clients = [list(events_of(run, client).values()) for client in run.clients]
    return record_epsilon(clients, run.partition.copies, *run.guarantee)
