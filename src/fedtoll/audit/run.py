"""One audit of a scenario: every strategy and ε attacked, and what was found written to ``audit/``."""

from __future__ import annotations

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
from fedtoll.audit.bounds import LEVEL, mu_at_least, replaced_ceiling
from fedtoll.audit.canaries import canaries
from fedtoll.audit.subject import settings, things
from fedtoll.audit.targets import Attacked, attacked, targets
from fedtoll.audit.white_box import one_run, one_step
from fedtoll.privacy.accounting import epsilon, of_a_record
from fedtoll.privacy.breakdown import events_of
from fedtoll.scenarios.atomic import write_file
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.numbers import write_number, write_numbers
from fedtoll.scenarios.read import find, read
from fedtoll.scenarios.run import NUMERICS, ClientPlan, Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.plan import Plan, plan
from fedtoll.server.store import no_links, versions

FEWEST_TARGETS = 4
"""Models, below which there is no attack: each needs others that did not hold a record."""

_ODD = 1e-3  # the chance, of a sound mechanism, to be called broken


@dataclass(frozen=True)
class Prepared:
    """What will be audited.

    Parameters
    ----------
    scenario, planned
        The scenario, and its runs of one seed, whose clients are audited step by step.
    halves
        The runs whose models are attacked.
    seeds
        Of the audit, one a model.
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
    def pieces(self) -> int:
        """How many times :func:`run_audit` tells that something is finished."""
        return len(self.private) + len(self.halves.runs)


def prepare(name: str, overrides: Sequence[str], seeds: str, epsilon: float | None = None) -> Prepared:
    """Read a scenario and plan its audit; nothing is trained and nothing written.

    Parameters
    ----------
    name, overrides
        As :func:`fedtoll.scenarios.read.read` takes them.
    seeds
        ``A:B``: one target model a seed.
    epsilon
        This budget in place of the scenario's finite ones.

    Raises
    ------
    ScenarioError
        One line; also where there is no finite ε to audit, or fewer than four seeds.
    """
    if epsilon is not None:
        if not 0 < epsilon < math.inf:
            raise ScenarioError(f"--epsilon {epsilon:g}: must be a finite number greater than 0")
        open_ended = [e for e in read(name, overrides).privacy.epsilons if not _finite(e)]
        told = [json.dumps(write_number(e)) for e in open_ended]
        overrides = [*overrides, f"privacy.epsilons=[{', '.join([*told, repr(epsilon)])}]"]
    scenario = read(name, overrides, seeds)
    file = find(name).name
    if scenario.training.on_failure == "skip":  # every skip must be shown, and of these models none is
        raise ScenarioError(
            f"{file}: training.on_failure = 'skip': an audit does not show who is skipped; "
            "leave it at 'abort'"
        )
    if not any(_finite(e) for e in scenario.privacy.epsilons):
        raise ScenarioError(f"{file}: privacy.epsilons: no finite ε to audit; give one with --epsilon")
    if len(scenario.seeds) < FEWEST_TARGETS:
        raise ScenarioError(
            f"--seeds {seeds}: {len(scenario.seeds)} models; an attack needs {FEWEST_TARGETS} or more"
        )
    one = scenario.model_copy(update={"seeds": scenario.seeds[:1]})
    planned = plan(one, file)
    return Prepared(scenario, planned, targets(scenario, file, scenario.seeds, planned), scenario.seeds)


def _finite(epsilon: float | str) -> bool:
    return isinstance(epsilon, float) and math.isfinite(epsilon)


def run_audit(
    prepared: Prepared,
    folder: Path,
    *,
    workers: int | None = None,
    finished: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Audit, and write what was found under ``folder/audit``; models that lie there are not trained again.

    Returns
    -------
    dict
        The content of ``audit.json``: the tables ``canary``, ``membership`` and ``disparity`` as lists of
        rows (undefined as ``None``, infinity as ``"inf"``), ``broken``, and what was audited.

    Raises
    ------
    ScenarioError, RunError
        When the folder cannot be written, or a run fails.
    """
    place = Path(folder) / "audit"
    no_links(Path(folder))
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScenarioError(f"{place}: cannot be written: {error.strerror or error}") from None
    models = attacked(prepared.halves, place / "models", workers, finished)
    membership, disparities = _membership(prepared, models)
    canary = _canary(prepared, finished)
    content = {
        "scenario": prepared.scenario.name,
        "settings": settings(prepared.scenario.model_dump(mode="json")),
        "versions": versions(),
        "numerics": NUMERICS,
        **things(run.model_dump(mode="json") for run in prepared.planned.runs),
        "seeds": list(prepared.seeds),
        "confidence": 1 - LEVEL,
        "over_claim": sum(row["bound"] > row["claim"] for row in canary),
        "broken": _broken(canary),
        "canary": canary,
        "membership": membership,
        "disparity": disparities,
    }
    made: dict[str, Any] = write_numbers(content)
    text = json.dumps(made, ensure_ascii=False, indent=1) + "\n"
    try:
        for name, rows in (("canary", canary), ("membership", membership), ("disparity", disparities)):
            write_file(place / f"{name}.parquet", partial(pd.DataFrame(rows).to_parquet, index=False))
        write_file(place / "audit.json", lambda beside: beside.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"{place}: cannot be written: {error.strerror or error}") from None
    return made


def _broken(canary: list[dict[str, Any]]) -> bool:
    """Say whether any step tells a record better than its σ lets it, so far that chance has no part in it.

    A sound mechanism is called broken with a chance of ``_ODD`` at most, over all bounds together.
    """
    level = _ODD / max(1, len(canary))
    return any(
        bool(mu_at_least(r["false_positives"], r["false_negatives"], r["counted"], level) > r["mu"])
        for r in canary
        if r["counted"]
    )


def _canary(prepared: Prepared, finished: Callable[[], None]) -> list[dict[str, Any]]:
    """Bound ε for the client of every group that is noised least, in every private run."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    federation = prepared.planned.federation
    try:
        for run in prepared.private:
            made = canaries(run, run.clients[0], federation)
            for group, client in _clients(run, federation).items():
                # No two audits share their noise: else all would exceed their claims together.
                key = np.random.SeedSequence([prepared.seeds[0], len(rows), 7])
                seed = int(key.generate_state(1)[0])
                step = one_step(run, client, seed, federation=federation, made=made)
                whole = one_run(run, client, seed + 1, federation=federation, made=made)
                total = epsilon(tuple(events_of(run, client).values()), *run.guarantee)
                rows.append(
                    {
                        "strategy": run.strategy.name,
                        "epsilon": run.epsilon,
                        "group": group,
                        "client": client.id,
                        "public_size": client.size,
                        "sampling_rate": client.sampling_rate,
                        "noise_multiplier": client.noise_multiplier,
                        **asdict(step),
                        "run_claim": total,
                        "run_bound": whole.bound,
                        "run_correct": whole.correct,
                        "run_guesses": whole.guesses,
                        "run_canaries": whole.canaries,
                        "engine": run.engine,
                    }
                )
            finished()
    finally:
        torch.set_num_threads(threads)
    return rows


def _clients(run: Run, federation: Federation) -> dict[str, ClientPlan]:
    """Return for every group the client of least noise among those that hold it; of several the fullest."""
    expected_KG = federation.layout.expected_KG
    made = {}
    for g, group in enumerate(run.groups):
        holders = [c for c in run.clients if expected_KG[c.id, g] > 0]
        if holders:
            made[group] = min(holders, key=lambda c: (c.noise_multiplier, -expected_KG[c.id, g]))
    return made


def _membership(
    prepared: Prepared, models: dict[str, Attacked]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Attack the models of every strategy and ε by both attacks."""
    rows: list[dict[str, Any]] = []
    disparities: list[dict[str, Any]] = []
    cells: dict[tuple[str, str, float], list[Run]] = {}
    for run in prepared.halves.runs:
        cells.setdefault((run.strategy.name, run.mechanism, run.epsilon), []).append(run)
    for (strategy, mechanism, budget), runs in cells.items():
        logit_TN, member_TN, codes_N = _common([models[run.hash] for run in runs], prepared.halves.federation)
        most = replaced_ceiling(_of_a_record(runs[0]), runs[0].guarantee[0])
        key = {"strategy": strategy, "mechanism": mechanism, "epsilon": budget}
        for attack in attacks.ATTACKS:
            score_TN = attacks.lira(logit_TN, member_TN) if attack == "lira" else attacks.loss(logit_TN)
            made = attacks.exposures(score_TN, member_TN, codes_N, runs[0].groups)
            rows += [{**key, "attack": attack, **asdict(e), "ceiling": most} for e in made]
            disparities.append({**key, "attack": attack, **asdict(attacks.disparity(made))})
    return rows, disparities


def _common(made: Sequence[Attacked], federation: Federation) -> tuple[Any, Any, Any]:
    """Return the scores and memberships of the records that every model could have held, and their groups.

    A record of the public validation part is no member and no other.
    """
    rows_N = made[0].rows_N
    for one in made[1:]:
        if not np.array_equal(rows_N, one.rows_N):
            rows_N = np.intersect1d(rows_N, one.rows_N)
    at = [np.searchsorted(one.rows_N, rows_N) for one in made]
    logit_TN = np.stack([one.logit_N[i] for one, i in zip(made, at, strict=True)])
    member_TN = np.stack([one.member_N[i] for one, i in zip(made, at, strict=True)])
    return logit_TN, member_TN, federation.groups.codes[rows_N]


def _of_a_record(run: Run) -> float:
    """Return a record's ε: its client's, or what all the clients that hold a copy spend together."""
    if run.mechanism != "dp-sgd":
        return math.inf
    clients = [list(events_of(run, client).values()) for client in run.clients]
    return of_a_record(clients, run.partition.copies, *run.guarantee)
