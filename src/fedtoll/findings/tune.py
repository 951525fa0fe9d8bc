"""Tuning: every ε chooses its own constants on records that are declared public.

Does a toll gap come from privacy, or from constants that suit only ε = ∞? (De Oliveira et al. 2023 and
Demelius et al. 2025 disagree.) The choice uses its own seeds, and it is not free: every candidate is trained
on private records, and choosing among K models costs the composition of all K, which is NOT counted in the ε
shown. The validation part is public and the same for every seed and setting: nobody trains on it, no seed
tests on it, and the untuned setting leaves it out too. At ε = ∞ nothing is clipped, so ∞ chooses among fewer
candidates, which biases tolls downwards.
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

from fedtoll.findings import cache
from fedtoll.findings.failures import errors_name_run
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.numbers import write_number
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.tune import Tune
from fedtoll.server.plan import Plan
from fedtoll.server.trainer import Trainer

Losses = dict[str, float]
"""The mean log-loss on the validation part, by group and for everybody."""


def tune(
    name: str, planned: Plan, folder: Path, workers: int | None = None
) -> tuple[Plan, dict[str, tuple[str, ...]]]:
    """Return a plan in which every ε has the constants that it chose, and these constants.

    Parameters
    ----------
    name
        The scenario's name or file.
    planned
        The setting before tuning.
    folder
        The folder with the losses of every candidate; candidates stored there are not trained again.
    workers
        The number of processes, by default one per core.

    Returns
    -------
    tuple
        The plan, and for each ε (as a string) the overrides that it chose.

    Raises
    ------
    RunError
        If every candidate diverged at some ε, a candidate fails, or the folder cannot be written.
    """
    grid, epsilons = planned.scenario.tune, planned.scenario.privacy.epsilons
    if grid is None:
        raise ScenarioError(f"{name}: a tuned setting needs [tune]")
    plans = {e: {c: _plan_with(planned, e, c, grid.seeds) for c in candidates(grid, e)} for e in epsilons}
    runs = [run for by_constants in plans.values() for p in by_constants.values() for run in p.runs]
    losses = _losses(runs, folder, planned.federation, workers)
    chosen: dict[float | str, tuple[str, ...]] = {}
    for epsilon, by_constants in plans.items():
        scores = {c: _score([losses[run.hash] for run in p.runs], grid) for c, p in by_constants.items()}
        # A diverged run scores NaN. No number is less than NaN, so min would choose it if it came first.
        finite = {c: score if math.isfinite(score) else math.inf for c, score in scores.items()}
        if min(finite.values()) == math.inf:
            raise RunError(f"{name}: tuning at ε = {epsilon}: every candidate diverged or failed")
        chosen[epsilon] = min(finite, key=finite.__getitem__)
    parts = [_plan_with(planned, e, overrides, planned.scenario.seeds) for e, overrides in chosen.items()]
    plan = Plan(planned.scenario, tuple(run for part in parts for run in part.runs), planned.federation)
    return plan, {str(write_number(e)): overrides for e, overrides in chosen.items()}


def candidates(grid: Tune, epsilon: float | str) -> list[tuple[str, ...]]:
    """Return every combination of constants as overrides, in the order of the file; ε = ∞ has no clip.

    Examples
    --------
    >>> grid = Tune(learning_rates=(0.5, 2.0), clips=(1.0,))
    >>> candidates(grid, 1.0)
    [('training.learning_rate=0.5', 'training.clip=1.0'), ('training.learning_rate=2.0', 'training.clip=1.0')]
    >>> candidates(grid, math.inf)
    [('training.learning_rate=0.5',), ('training.learning_rate=2.0',)]
    """
    axes = {
        "training.learning_rate": grid.learning_rates,
        "training.clip": () if epsilon == math.inf else grid.clips,
        "training.batch_size": grid.batch_sizes,
    }
    stated = [[f"{key}={value}" for value in values] for key, values in axes.items() if values]
    return list(itertools.product(*stated))


def _plan_with(planned: Plan, epsilon: float | str, overrides: Sequence[str], seeds: Sequence[int]) -> Plan:
    """Return the plan of one ε with other constants and seeds."""
    from fedtoll.server.plan import plan

    scenario = planned.scenario
    training = scenario.training.model_dump()
    for override in overrides:
        key, _, value = override.removeprefix("training.").partition("=")
        training[key] = int(value) if key == "batch_size" else float(value)
        if key == "batch_size":
            training["sampling_rate"] = None
    narrowed = scenario.model_copy(
        update={
            "seeds": tuple(seeds),
            "training": type(scenario.training)(**training),
            "privacy": scenario.privacy.model_copy(update={"epsilons": (epsilon,)}),
        }
    )
    return plan(narrowed, f"{scenario.name} (tuned)", like=planned.federation)


def _score(losses: Sequence[Losses], grid: Tune) -> float:
    """Return the quantity to minimise: the mean over seeds of everybody's loss, or of the worst group's."""
    from fedtoll.scenarios.measures import EVERYBODY

    by_seed = [
        loss[EVERYBODY]
        if grid.by == "everybody"
        else float(np.max([v for k, v in loss.items() if k != EVERYBODY], initial=loss[EVERYBODY]))
        for loss in losses
    ]
    return float(np.mean(by_seed))


def _losses(
    runs: Sequence[Run], folder: Path, federation: Federation, workers: int | None
) -> dict[str, Losses]:
    """Return the losses of every run on the validation part, by the hash of the run."""
    ordered = sorted(runs, key=lambda run: run.seed)  # runs of one seed share records and draws
    found = cache.complete(
        {folder / f"{run.hash}.json": run.to_json() for run in ordered},
        partial(validation_losses, Trainer(federation)),
        load=lambda file: json.loads(file.read_text(encoding="utf-8")),
        save=lambda file, losses: file.write_text(json.dumps(losses), encoding="utf-8"),
        workers=workers,
    )
    return {file.stem: losses for file, losses in found.items()}


def validation_losses(trainer: Trainer, text: str) -> Losses:
    """Train one run, given as JSON, and return its losses on the validation part.

    If the run diverged, the loss of everybody is NaN.
    """
    import torch

    from fedtoll.clients import losses, model
    from fedtoll.scenarios.measures import EVERYBODY

    torch.set_num_threads(1)
    run = Run.from_json(text)
    last: dict[str, Any] = {}
    try:
        with errors_name_run(run):
            trainer.train(run, lambda round, parameters: last.update(parameters=parameters))
    except RunError as error:
        if error.__cause__ is not None:  # an error in the code of a strategy or model, not divergence
            raise
        return {EVERYBODY: math.nan}
    records = trainer.clients.federation(run).records(run.seed)
    features = torch.from_numpy(records.table.features[records.validation]).to(model.DTYPES[run.precision])
    module = model.build(run.model, features.shape[1], run.classes, run.precision)
    model.put(module, last["parameters"])
    with torch.no_grad():
        labels = torch.from_numpy(records.table.label[records.validation])
        nats = losses.per_example(module(features), labels).double().numpy()
    codes = records.groups.codes[records.validation]
    present = [(code, name) for code, name in enumerate(records.groups.names) if (codes == code).any()]
    by_group = {name: float(nats[codes == code].mean()) for code, name in present}
    return {**by_group, EVERYBODY: float(nats.mean())}
