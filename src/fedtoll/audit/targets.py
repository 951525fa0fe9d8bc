"""Target models: runs of the scenario, each trained on a random half of the same records.

They are trained by the complete system (strategy, rounds, privacy), in runs that keep half of every group
(``partition.keep``). Seed s of an audit is seed s · folds of a run, so that all runs share one fold.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedtoll.scenarios.atomic import write_file
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.plan import Plan, plan
from fedtoll.server.store import versions
from fedtoll.server.trainer import Trainer
from fedtoll.sweep.workers import spread

HALF = 0.5
"""The share of each group's records on which one model is trained."""


@dataclass(frozen=True, eq=False)
class Target:
    """One target model: its members, and φ = log(p / (1 − p)) of every record's true class.

    Parameters
    ----------
    rows_N
        The rows of the candidate records: neither test records nor declared public.
    member_N
        Whether a client trained on them.
    logit_N
        φ under the final model.
    """

    rows_N: NDArray[np.int64]
    member_N: NDArray[np.bool_]
    logit_N: NDArray[np.float64]


def plan_targets(scenario: Scenario, file: str, seeds: Sequence[int], planned: Plan) -> Plan:
    """Plan the target models: every strategy and ε of the scenario, on half of its records for every seed.

    The table is that of ``planned``, a plan of the same scenario.
    """
    names = planned.federation.groups.names
    keep = {name: HALF * scenario.partition.keep.get(name, 1.0) for name in names}
    folds = scenario.split.folds if scenario.split.kind == "folds" else 1
    halved = scenario.model_copy(
        update={
            "partition": scenario.partition.model_copy(update={"keep": keep}),
            "seeds": tuple(folds * s for s in seeds),
        }
    )
    return plan(halved, file, like=planned.federation)


def train_target(trainer: Trainer, text: str) -> Target:
    """Train one run, given as JSON, and return what an attacker sees of its final model."""
    import torch

    from fedtoll.clients import losses, model

    run = Run.from_json(text)
    final: list[Any] = []

    def observe(round: int, parameters: Any) -> None:
        final[:] = parameters

    trainer.train(run, observe)
    records = trainer.clients.federation(run).records(run.seed)
    every = np.arange(len(records.table))
    rows = np.setdiff1d(every, np.concatenate([records.test, records.validation]))
    module = model.build(run.model, records.table.features.shape[1], run.classes, run.precision)
    model.put(module, final)
    module.eval()
    features = torch.from_numpy(records.table.features[rows]).to(model.DTYPES[run.precision])
    with torch.no_grad():
        probability = losses.probabilities(module(features).double()).numpy()
    true = probability[np.arange(len(rows)), records.table.label[rows]]
    rest = np.where(np.eye(run.classes, dtype=bool)[records.table.label[rows]], 0.0, probability).sum(axis=1)
    logit = np.log(np.maximum(true, 1e-300)) - np.log(np.maximum(rest, 1e-300))
    logit = logit.astype(np.float32).astype(np.float64)  # as stored
    return Target(rows, np.isin(rows, np.concatenate(records.held)), logit)


def train_targets(
    planned: Plan, folder: Path, workers: int | None, finished: Callable[[], None]
) -> dict[str, Target]:
    """Return every target model by the hash of its run; models stored in the folder are not trained again.

    Raises
    ------
    RunError
        If a run fails or workers keep dying.
    ScenarioError
        If the folder cannot be written; models stored before that remain.
    """
    with _errors_name_folder(folder):
        folder.mkdir(parents=True, exist_ok=True)
    suffix = hashlib.sha256(json.dumps(versions()).encode()).hexdigest()[:8]  # no model of other versions
    files = {run.hash: folder / f"{run.hash}-{suffix}.parquet" for run in planned.runs}
    models: dict[str, Target] = {}
    todo = []
    for run in sorted(planned.runs, key=lambda r: r.seed):  # runs of one seed share records and draws
        if (stored := _load(files[run.hash])) is None:
            todo.append(run)
        else:
            models[run.hash] = stored
            finished()
    train = partial(train_target, Trainer(planned.federation))
    for i, result in spread(train, [run.to_json() for run in todo], workers):
        run = todo[i]
        with _errors_name_folder(folder):
            _save(files[run.hash], result)
        models[run.hash] = result
        finished()
    return models


@contextmanager
def _errors_name_folder(folder: Path) -> Iterator[None]:
    """Raise a ScenarioError that names the folder in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise ScenarioError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _save(file: Path, result: Target) -> None:
    """Write one model's scores, about 4 bytes a record, atomically."""
    frame = pd.DataFrame(
        {"record": result.rows_N, "member": result.member_N, "logit": result.logit_N.astype(np.float32)}
    )
    options: dict[str, Any] = {
        "compression": "zstd",
        "use_dictionary": False,
        "column_encoding": {"record": "DELTA_BINARY_PACKED"},
    }
    write_file(file, lambda temporary: frame.to_parquet(temporary, index=False, **options))


def _load(file: Path) -> Target | None:
    """Return a stored model's scores; None if the file is missing or damaged."""
    try:
        frame = pd.read_parquet(file)
    except (OSError, ValueError):
        return None
    return Target(
        frame["record"].to_numpy(np.int64),
        frame["member"].to_numpy(np.bool_),
        frame["logit"].to_numpy(np.float64),
    )
