"""Tuning: every strategy chooses its constants at every ε, on records that are declared public.

How much of a toll does privacy cost, and how much a badly chosen constant? De Oliveira et al. 2023 and
Demelius et al. 2025 disagree; only constants that suit each ε can tell. The choice uses seeds of its own, and
it is not free: every candidate is trained on private records, and what the choice reveals is NOT counted in
the ε shown, unless ``[tune]`` charges it. The validation part is public and the same for every seed and
candidate: nobody trains on it and no seed tests on it. At ε = ∞ nothing is clipped, so ∞ chooses among fewer
candidates.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedtoll.scenarios.budgets import budget_of, mechanism_of
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.fields import CLIP_ONLY
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.scenarios.numbers import write_number
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.tune import Tune
from fedtoll.server.plan import Plan
from fedtoll.server.trainer import Trainer
from fedtoll.sweep import cache
from fedtoll.sweep.candidates import Candidate, candidates, with_constants
from fedtoll.sweep.executor import at_once
from fedtoll.sweep.groups import groups
from fedtoll.sweep.validate import Losses, validation_losses

Choices = dict[str, dict[str, dict[str, Any]]]
"""The constants that were chosen, by ε (as text) and strategy."""

Cell = tuple[str, float | str]
"""A strategy's label and an ε."""


def tune(
    planned: Plan,
    folder: Path,
    *,
    executor: str = "processes",
    workers: int | None = None,
    timeout: float | None = None,
    failed: Callable[[Run, str, str], object] | None = None,
    finished: Callable[[Run], None] = lambda run: None,
) -> Plan:
    """Return a plan whose runs have the constants that their strategy chose at their ε.

    Parameters
    ----------
    planned
        The scenario before tuning: its recipe.
    folder
        The folder with the losses of every candidate; candidates stored there are not trained again.
    executor, workers
        How candidates are distributed, as for runs; they never change a choice.
    timeout
        Seconds after which a candidate's run is stopped and has failed; no limit by default.
    failed
        Called with each run of a candidate that failed, the reason in one line, and its traceback, if any.
        The candidate is never chosen, and its run is trained again by the next call. By default, the first
        failure ends tuning.
    finished
        Called for each run of a candidate, after it was trained or if it was stored already.

    Returns
    -------
    Plan
        With the runs before tuning as ``recipe``, and a row for every candidate in ``facts["tuning"]``:
        ``strategy``, ``mechanism``, ``epsilon``, ``constants``, ``seeds`` (how many it was trained with),
        ``loss`` (the mean over seeds by group and for everybody, in nats; ``None`` if it diverged or failed)
        and ``chosen``; if a run of it failed, also the reason as ``failed``.

    Raises
    ------
    RunError
        If every candidate of a strategy diverged or failed at some ε, one fails without ``failed``, or the
        folder cannot be written.
    """
    section, name = planned.scenario.tune, planned.scenario.name
    if section is None:
        raise ScenarioError(f"{name}: tuning needs [tune]")
    all_candidates = candidates(planned, section)
    trained: dict[str, Losses] = {}
    reasons: dict[str, str] = {}  # why a run failed, by its hash
    alive = all_candidates

    def give_up(run: Run, line: str, trace: str) -> None:
        assert failed is not None
        reasons[run.hash] = line.removeprefix(f"{run.label}: ")
        failed(run, reasons[run.hash], trace)

    def train(some: Sequence[Candidate], count: int) -> None:
        todo = {run.hash: run for c in some for run in c.runs[:count] if run.hash not in trained}
        note = None if failed is None else give_up
        trained.update(
            _losses(list(todo.values()), folder, planned, executor, workers, timeout, note, finished)
        )

    for count in rungs(section):
        train(alive, count)
        alive = _best(alive, trained, reasons, section, count)
    chosen = {(c.strategy, c.epsilon): c for c in alive}
    cells = _cells(all_candidates)

    def diverged() -> list[Cell]:
        return [
            cell
            for cell, c in chosen.items()
            if not math.isfinite(_score(c, trained, section, len(section.seeds)))
        ]

    # One that was best with fewer seeds may diverge with more; then the next best takes its place.
    while spare := {
        cell: best for cell in diverged() if (best := _next_best(cells[cell], trained, reasons, section))
    }:
        train(list(spare.values()), len(section.seeds))
        chosen |= spare
    for strategy, epsilon in diverged():
        cell = cells[strategy, epsilon]
        first = next((reason for c in cell if (reason := _failure(c, reasons))), "")
        what = f"diverged or failed, the first failure: {first}" if first else "diverged"
        raise RunError(f"{name}: tuning {strategy} at ε = {write_number(epsilon)}: every candidate {what}")
    runs = [
        run
        for (strategy, epsilon), best in chosen.items()
        for run in with_constants(planned, strategy, epsilon, best.constants, planned.scenario.seeds)
    ]
    tried = [_row(c, trained, reasons, chosen[c.strategy, c.epsilon] is c) for c in all_candidates]
    facts = {**planned.facts, "tuning": tried}
    return dataclasses.replace(planned, runs=tuple(runs), recipe=planned.runs, facts=facts)


def choices(planned: Plan) -> Choices:
    """Return the constants that were chosen in a tuned plan, by ε (as text) and strategy."""
    found: Choices = {}
    for row in planned.facts["tuning"]:
        if row["chosen"]:
            epsilon = str(write_number(budget_of(row["mechanism"], float(row["epsilon"]))))
            found.setdefault(epsilon, {})[row["strategy"]] = row["constants"]
    return found


def rungs(section: Tune) -> list[int]:
    """Return with how many seeds the remaining candidates are compared, in each rung.

    Examples
    --------
    >>> rungs(Tune(clips=(1.0, 3.0), seeds=(7, 8, 9), method="halving"))
    [1, 2, 3]
    """
    count = len(section.seeds)
    if section.method == "grid":
        return [count]
    return [*(2**i for i in range(count.bit_length()) if 2**i < count), count]


def candidate_runs(planned: Plan, section: Tune) -> list[tuple[Candidate, int]]:
    """Return every candidate with the number of seeds that it may be trained with, for estimates of time."""
    by_cell: dict[Cell, list[Candidate]] = {}
    for candidate in candidates(planned, section):
        by_cell.setdefault((candidate.strategy, candidate.epsilon), []).append(candidate)
    counted = []
    for cell in by_cell.values():
        seeds, kept = dict.fromkeys(range(len(cell)), 0), len(cell)
        for count in rungs(section):
            seeds |= dict.fromkeys(range(kept), count)
            kept = -(-kept // 2)
        counted += [(candidate, seeds[i]) for i, candidate in enumerate(cell) if candidate.runs]
    return counted


def _best(
    alive: Sequence[Candidate],
    trained: dict[str, Losses],
    reasons: dict[str, str],
    section: Tune,
    count: int,
) -> list[Candidate]:
    """Return the candidates that remain after a rung: the better half of each cell, at last the best one.

    One that failed is trained no further, unless all of its cell did.
    """
    best = []
    for cell in _cells(alive).values():
        kept = 1 if count == len(section.seeds) else -(-len(cell) // 2)
        scores = [_score(candidate, trained, section, count) for candidate in cell]
        ranked = sorted(range(len(cell)), key=scores.__getitem__)[:kept]  # ties: the first in the file
        best += [cell[i] for i in sorted(ranked) if not _failure(cell[i], reasons)] or [cell[ranked[0]]]
    return best


def _next_best(
    cell: Sequence[Candidate], trained: dict[str, Losses], reasons: dict[str, str], section: Tune
) -> Candidate | None:
    """Return the best candidate of a cell that was not trained with all seeds, or ``None``.

    The best is that which came farthest, and has the least loss there. One that diverged or failed is none.
    """
    found: list[tuple[int, float, int]] = []
    for i, candidate in enumerate(cell):
        seen = sum(run.hash in trained for run in candidate.runs)
        score = _score(candidate, trained, section, seen) if seen else math.inf
        if seen < len(candidate.runs) and math.isfinite(score) and not _failure(candidate, reasons):
            found.append((-seen, score, i))
    return cell[min(found)[2]] if found else None


def _cells(some: Sequence[Candidate]) -> dict[Cell, list[Candidate]]:
    """Return candidates by strategy and ε."""
    cells: dict[Cell, list[Candidate]] = {}
    for candidate in some:
        cells.setdefault((candidate.strategy, candidate.epsilon), []).append(candidate)
    return cells


def _score(candidate: Candidate, trained: dict[str, Losses], section: Tune, count: int) -> float:
    """Return what to minimise: the mean over seeds of everybody's or the worst group's loss.

    Infinity if a run diverged or failed, because no number is less than NaN.
    """
    if not candidate.runs:  # no candidate was drawn
        return 0.0
    by_seed = []
    for run in candidate.runs[:count]:
        loss = trained[run.hash]
        worst = [v for k, v in loss.items() if k != EVERYBODY] if section.by == "worst group" else []
        by_seed.append(max([loss[EVERYBODY], *worst]) if worst else loss[EVERYBODY])
    score = float(np.mean(by_seed))
    return score if math.isfinite(score) else math.inf


def _failure(candidate: Candidate, reasons: dict[str, str]) -> str:
    """Return why the first run of a candidate that failed did, or an empty string."""
    return next((reasons[run.hash] for run in candidate.runs if run.hash in reasons), "")


def _row(
    candidate: Candidate, trained: dict[str, Losses], reasons: dict[str, str], chosen: bool
) -> dict[str, Any]:
    """Return a candidate as ``resolved.json`` records it."""
    losses = [trained[run.hash] for run in candidate.runs if run.hash in trained.keys() - reasons.keys()]
    failure = _failure(candidate, reasons)
    known = [] if failure else losses
    groups = known[0] if known else {EVERYBODY: math.nan}
    means = {
        g: float(np.mean([loss.get(g, math.nan) for loss in known])) if known else math.nan for g in groups
    }
    return {
        "strategy": candidate.strategy,
        "mechanism": mechanism_of(candidate.epsilon),
        "epsilon": write_number(math.inf if candidate.epsilon == CLIP_ONLY else float(candidate.epsilon)),
        "constants": candidate.constants.to_dict(),
        "seeds": len(losses),
        "loss": {g: value if math.isfinite(value) else None for g, value in means.items()},
        "chosen": chosen,
        **({"failed": failure} if failure else {}),
    }


def _losses(
    runs: Sequence[Run],
    folder: Path,
    planned: Plan,
    executor: str,
    workers: int | None,
    timeout: float | None,
    failed: Callable[[Run, str, str], None] | None,
    finished: Callable[[Run], None],
) -> dict[str, Losses]:
    """Return the losses of every run on the validation part, by the hash of the run; NaN if it failed."""
    by_file = {folder / f"{run.hash}.json": run for run in sorted(runs, key=lambda run: run.seed)}
    seeds = {run.to_json(): run.seed for run in runs}  # runs of one seed share records and draws

    def give_up(file: Path, line: str, trace: str) -> Losses:
        assert failed is not None
        failed(by_file[file], line, trace)
        return {EVERYBODY: math.nan}

    found = cache.complete(
        {file: run.to_json() for file, run in by_file.items()},
        partial(validation_losses, Trainer(planned.federation)),
        load=_load,
        save=lambda file, losses: file.write_text(json.dumps(losses), encoding="utf-8"),
        executor=executor,
        workers=workers,
        share=seeds.get,
        timeout=timeout,
        apart=any(run.has_own_code for run in runs),
        together=lambda files: groups(
            [by_file[file] for file in files],
            planned.federation,
            at_once(executor, workers, len(files)),
            alone=timeout is not None,
        ),
        failed=None if failed is None else give_up,
        finished=lambda file: finished(by_file[file]),
    )
    return {file.stem: losses for file, losses in found.items()}


def _load(file: Path) -> Losses:
    """Read the losses of one run; ValueError if the file is damaged."""
    content = json.loads(file.read_text(encoding="utf-8"))
    numbers = isinstance(content, dict) and all(type(value) in {int, float} for value in content.values())
    if not numbers or EVERYBODY not in content:
        raise ValueError(f"{file}: no losses")
    return dict(content)
