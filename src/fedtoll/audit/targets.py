"""The models that are attacked: the scenario's own runs, each on a random half of the same records.

They are trained by the whole system (strategy, rounds, privacy), on runs in which the scenario keeps half
of every group (``partition.keep``). Seed s of an audit is seed s · folds of a run, so all share one fold.
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
from fedtoll.server.workers import spread

HALF = 0.5
"""The share of each group's records that one model is trained on."""


@dataclass(frozen=True, eq=False)
class Attacked:
    """One model: who was in, and φ = log(p / (1 − p)) of every record's true class.

    Parameters
    ----------
    rows_N
        The records: those that are neither tested on nor declared public.
    member_N
        Whether any client held them.
    logit_N
        φ under the final model.
    """

    rows_N: NDArray[np.int64]
    member_N: NDArray[np.bool_]
    logit_N: NDArray[np.float64]


def targets(scenario: Scenario, file: str, seeds: Sequence[int], planned: Plan) -> Plan:
    """Plan the models: the scenario's strategies and ε, on a half of its records for every seed.

    ``planned`` is a plan of the scenario itself, whose table is shared.
    """
    names = planned.federation.groups.names
    keep = {name: HALF * scenario.partition.keep.get(name, 1.0) for name in names}
    apart = scenario.split.folds if scenario.split.kind == "folds" else 1
    halved = scenario.model_copy(
        update={
            "partition": scenario.partition.model_copy(update={"keep": keep}),
            "seeds": tuple(apart * s for s in seeds),
        }
    )
    return plan(halved, file, like=planned.federation)


def attack(trainer: Trainer, text: str) -> Attacked:
    """Train one run, given as JSON, and look at its final model as an attacker does."""
    import torch

    from fedtoll.clients import losses, model

    run = Run.from_json(text)
    final: list[Any] = []

    def look(round: int, made: Any) -> None:
        final[:] = made

    trainer.train(run, look)
    of = trainer.clients.federation(run).records(run.seed)
    every = np.arange(len(of.table))
    rows = np.setdiff1d(every, np.concatenate([of.test, of.validation]))
    module = model.build(run.model, of.table.features.shape[1], run.classes, run.precision)
    model.put(module, final)
    module.eval()
    features = torch.from_numpy(of.table.features[rows]).to(model.DTYPES[run.precision])
    with torch.no_grad():
        probability = losses.probabilities(module(features).double()).numpy()
    own = probability[np.arange(len(rows)), of.table.label[rows]]
    rest = np.where(np.eye(run.classes, dtype=bool)[of.table.label[rows]], 0.0, probability).sum(axis=1)
    logit = np.log(np.maximum(own, 1e-300)) - np.log(np.maximum(rest, 1e-300))
    logit = logit.astype(np.float32).astype(np.float64)  # as it is kept
    return Attacked(rows, np.isin(rows, np.concatenate(of.held)), logit)


def attacked(
    planned: Plan, folder: Path, workers: int | None, finished: Callable[[], None]
) -> dict[str, Attacked]:
    """Return every model by its run's hash; those that the folder keeps are not trained again.

    Raises
    ------
    RunError
        When a run failed, or a worker died.
    ScenarioError
        When the folder cannot be written; the models that it holds by then are kept.
    """
    with _written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    marked = hashlib.sha256(json.dumps(versions()).encode()).hexdigest()[:8]
    files = {run.hash: folder / f"{run.hash}-{marked}.parquet" for run in planned.runs}
    made: dict[str, Attacked] = {}
    todo = []
    for run in sorted(planned.runs, key=lambda r: r.seed):  # runs of one seed share records and draws
        if (kept := _kept(files[run.hash])) is None:
            todo.append(run)
        else:
            made[run.hash] = kept
            finished()
    for i, result in spread(
        partial(attack, Trainer(planned.federation)), [run.to_json() for run in todo], workers
    ):
        run = todo[i]
        with _written(folder):
            _keep(files[run.hash], result)
        made[run.hash] = result
        finished()
    return made


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Tell an error of the disk in one line."""
    try:
        yield
    except OSError as error:
        raise ScenarioError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _keep(file: Path, result: Attacked) -> None:
    """Write one model's scores beside and rename the file."""
    frame = pd.DataFrame(
        {"record": result.rows_N, "member": result.member_N, "logit": result.logit_N.astype(np.float32)}
    )
    small: dict[str, Any] = {  # 4 bytes a record: the scores
        "compression": "zstd",
        "use_dictionary": False,
        "column_encoding": {"record": "DELTA_BINARY_PACKED"},
    }
    write_file(file, lambda beside: frame.to_parquet(beside, index=False, **small))


def _kept(file: Path) -> Attacked | None:
    try:
        frame = pd.read_parquet(file)
    except (OSError, ValueError):
        return None
    return Attacked(
        frame["record"].to_numpy(np.int64),
        frame["member"].to_numpy(np.bool_),
        frame["logit"].to_numpy(np.float64),
    )
