"""Refutation by tuning: every ε chooses its own constants, on records that are declared public.

Does a toll gap come from privacy, or from constants that were fit for ε = ∞ alone? (De Oliveira et al. 2023
and Demelius et al. 2025 disagree.) The choice is made with seeds of its own, and it is not free: every
candidate is trained on private records, and picking among K models costs the composition of all K, which is
NOT counted in the ε that is shown. The validation part is public, the same for every seed and setting:
nobody trains on it and no seed tests it, and the setting that is held against lacks it too. At ε = ∞ nothing
is clipped, so that it chooses among fewer candidates and tolls lean down.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedtoll.findings.failures import naming
from fedtoll.scenarios.atomic import write_bytes
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.numbers import write_number
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.tune import Tune
from fedtoll.server.plan import Plan
from fedtoll.server.trainer import Trainer
from fedtoll.server.workers import spread

Losses = dict[str, float]
"""Mean log-loss on the validation part by group, and of everybody."""


def tuned(
    name: str, planned: Plan, folder: Path, workers: int | None = None
) -> tuple[Plan, dict[str, tuple[str, ...]]]:
    """Return a plan whose every ε has the constants that it chose, and what each chose.

    Parameters
    ----------
    name
        The scenario's name or file.
    planned
        The setting before tuning.
    folder
        The setting's results folder: what was trained to choose is kept in it, and found by the next command.
    workers
        Processes, by default one a core.

    Raises
    ------
    RunError
        If at some ε no candidate can be chosen.
    """
    how = planned.scenario.tune
    if how is None:
        raise ScenarioError(f"{name}: a tuned setting needs [tune]")
    candidates = {e: combinations(how, e) for e in planned.scenario.privacy.epsilons}
    plans: dict[tuple[float | str, tuple[str, ...]], Plan] = {}
    for epsilon in planned.scenario.privacy.epsilons:
        for overrides in candidates[epsilon]:
            plans[epsilon, overrides] = _with(planned, epsilon, overrides, how.seeds)
    losses = _losses(
        [run for made in plans.values() for run in made.runs], folder / "tuning", planned.federation, workers
    )
    chosen: dict[float | str, tuple[str, ...]] = {}
    for epsilon in planned.scenario.privacy.epsilons:
        scores = {
            c: _score([losses[r.hash] for r in plans[epsilon, c].runs], how) for c in candidates[epsilon]
        }
        # NaN, of a run that diverged, is greater than nothing: it would win if it came first.
        finite = {c: score if math.isfinite(score) else math.inf for c, score in scores.items()}
        if min(finite.values()) == math.inf:
            raise RunError(f"{name}: tuning at ε = {epsilon}: every candidate diverged or failed")
        chosen[epsilon] = min(candidates[epsilon], key=finite.__getitem__)
    seeds = planned.scenario.seeds
    parts = {e: _with(planned, e, overrides, seeds) for e, overrides in chosen.items()}
    runs = tuple(run for part in parts.values() for run in part.runs)
    words = {str(write_number(e)): overrides for e, overrides in chosen.items()}
    return Plan(planned.scenario, runs, planned.federation), words


def combinations(how: Tune, epsilon: float | str) -> list[tuple[str, ...]]:
    """Return every combination as overrides, in the order of the file; at ε = ∞ nothing is clipped.

    Examples
    --------
    >>> how = Tune(learning_rates=(0.5, 2.0), clips=(1.0,))
    >>> combinations(how, 1.0)
    [('training.learning_rate=0.5', 'training.clip=1.0'), ('training.learning_rate=2.0', 'training.clip=1.0')]
    >>> combinations(how, math.inf)
    [('training.learning_rate=0.5',), ('training.learning_rate=2.0',)]
    """
    axes = {
        "training.learning_rate": how.learning_rates,
        "training.clip": () if epsilon == math.inf else how.clips,
        "training.batch_size": how.batch_sizes,
    }
    stated = [[f"{key}={value}" for value in values] for key, values in axes.items() if values]
    return list(itertools.product(*stated))


def _with(planned: Plan, epsilon: float | str, overrides: Sequence[str], seeds: Sequence[int]) -> Plan:
    """Return the plan of one ε with other constants."""
    from fedtoll.server.plan import plan

    scenario = planned.scenario
    training = scenario.training.model_dump()
    for override in overrides:
        key, _, value = override.partition("=")
        word = key.removeprefix("training.")
        training[word] = int(value) if word == "batch_size" else float(value)
        if word == "batch_size":
            training["sampling_rate"] = None
    narrowed = scenario.model_copy(
        update={
            "seeds": tuple(seeds),
            "training": type(scenario.training)(**training),
            "privacy": scenario.privacy.model_copy(update={"epsilons": (epsilon,)}),
        }
    )
    return plan(narrowed, f"{scenario.name} (tuned)", like=planned.federation)


def _score(losses: Sequence[Losses], how: Tune) -> float:
    """Return what is made least: the mean over seeds of everybody's loss, or of the worst group's."""
    from fedtoll.scenarios.measures import EVERYBODY

    each = [
        loss[EVERYBODY]
        if how.by == "everybody"
        else float(np.max([v for k, v in loss.items() if k != EVERYBODY], initial=loss[EVERYBODY]))
        for loss in losses
    ]
    return float(np.mean(each))


def _losses(
    runs: Sequence[Run], folder: Path, federation: Federation, workers: int | None
) -> dict[str, Losses]:
    """Return the losses of every run on the validation part, trained or found."""
    known = {}
    for run in runs:
        file = folder / f"{run.hash}.json"
        if file.exists():
            known[run.hash] = json.loads(file.read_text(encoding="utf-8"))
    todo = {run.hash: run for run in runs if run.hash not in known}
    if not todo:
        return known
    folder.mkdir(parents=True, exist_ok=True)
    texts = [run.to_json() for run in sorted(todo.values(), key=lambda r: r.seed)]
    for _, (name, losses) in spread(partial(validation_losses, Trainer(federation)), texts, workers):
        write_bytes(folder / f"{name}.json", json.dumps(losses).encode())
        known[name] = losses
    return known


def validation_losses(trainer: Trainer, text: str) -> tuple[str, Losses]:
    """Train one run, given as JSON, and return its hash and its model's losses on the validation part.

    Of a run that diverged everybody's loss is NaN.
    """
    import torch

    from fedtoll.clients import losses, model
    from fedtoll.scenarios.measures import EVERYBODY

    torch.set_num_threads(1)
    run = Run.from_json(text)
    last: dict[str, Any] = {}
    try:
        with naming(run):
            trainer.train(run, lambda round, made: last.update(model=made))
    except RunError as error:
        if error.__cause__ is not None:  # no divergence, but an error in somebody's code
            raise
        return run.hash, {EVERYBODY: math.nan}
    of = trainer.clients.federation(run).records(run.seed)
    features = torch.from_numpy(of.table.features[of.validation]).to(model.DTYPES[run.precision])
    module = model.build(run.model, features.shape[1], run.classes, run.precision)
    model.put(module, last["model"])
    with torch.no_grad():
        labels = torch.from_numpy(of.table.label[of.validation])
        nats = losses.per_example(module(features), labels).double().numpy()
    codes = of.groups.codes[of.validation]
    there = [(code, name) for code, name in enumerate(of.groups.names) if (codes == code).any()]
    by_group = {name: float(nats[codes == code].mean()) for code, name in there}
    return run.hash, {**by_group, EVERYBODY: float(nats.mean())}
