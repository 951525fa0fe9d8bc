"""Fairness reductions under DP-SGD: fairlearn's grid search over our classifier, unchanged.

For every ε and seed a grid of models is trained on the one client's records, and two are picked there: the
most accurate, and the one of least disparity. Their held-out measures stand in a table of groups as
strategies of their own, so that claims read them like any other. The points of a grid share their noise, as
all paired runs do: it is a simulation, and such a grid must never be released.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedtoll.findings.failures import naming
from fedtoll.scenarios.atomic import write_file
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.reduction import ACCURATE, FAIR, Reduction
from fedtoll.scenarios.run import Run, budget_of
from fedtoll.server.plan import Plan
from fedtoll.server.trainer import Trainer
from fedtoll.server.workers import spread

Labels = NDArray[np.int64]


def check(planned: Plan) -> None:
    """Refuse a setting that a reduction has no sense in.

    Raises
    ------
    ScenarioError
        If there are several clients or classes, or an epoch is not a round.
    """
    run, training = planned.runs[0], planned.scenario.training
    if len(run.clients) != 1 or run.classes != 2:
        raise ScenarioError("reduction: needs one client and a binary label")
    if training.local_epochs != 1:
        raise ScenarioError("reduction: needs training.local_epochs = 1, since a round is an epoch here")


def reduced(planned: Plan, how: Reduction, folder: Path, workers: int | None = None) -> pd.DataFrame:
    """Return the table of groups of the models that were picked, trained or found.

    Parameters
    ----------
    planned
        The setting; one grid for each ε and seed of its first strategy.
    how
        The grid.
    folder
        The setting's results folder: each grid's table is kept in it.
    workers
        Processes, by default one a core.
    """
    first = planned.runs[0].strategy.name
    runs = [run for run in planned.runs if run.strategy.name == first]
    kept = folder / "reductions"
    kept.mkdir(parents=True, exist_ok=True)
    todo = [run for run in runs if not _file(kept, run, how).exists()]
    jobs = [(run.to_json(), how.model_dump_json()) for run in todo]
    for i, table in spread(partial(grid, Trainer(planned.federation)), jobs, workers):
        write_file(_file(kept, todo[i], how), partial(table.to_parquet, index=False))
    tables = []
    for run in runs:
        table = pd.read_parquet(_file(kept, run, how))
        mechanism, epsilon, seed = run.mechanism, run.epsilon, run.seed
        tables.append(table.assign(mechanism=mechanism, epsilon=epsilon, seed=seed, round=run.rounds))
    return pd.concat(tables, ignore_index=True)


def _file(folder: Path, run: Run, how: Reduction) -> Path:
    key = hashlib.sha256(json.dumps([run.hash, how.model_dump()]).encode()).hexdigest()[:16]
    return folder / f"{key}.parquet"


def grid(trainer: Trainer, job: tuple[str, str]) -> pd.DataFrame:
    """Train one grid, given as the JSON of its run and reduction; return the two picked models' measures."""
    run = Run.from_json(job[0])
    with naming(run):
        return _grid(run, trainer.clients.federation(run), Reduction.model_validate_json(job[1]))


def _grid(run: Run, federation: Federation, how: Reduction) -> pd.DataFrame:
    import torch
    from fairlearn.reductions import DemographicParity, EqualizedOdds, GridSearch

    from fedtoll.server.evaluate import HeldOut
    from fedtoll.sklearn import DPClassifier

    torch.set_num_threads(1)
    of = federation.records(run.seed)
    rows, client = of.held[0], run.clients[0]
    X, y, codes = of.table.features[rows], of.table.label[rows], of.groups.codes[rows]
    privacy: dict[str, Any] = {} if run.delta is None else {"delta": run.delta, "accountant": run.accountant}
    one = DPClassifier(
        budget_of(run.mechanism, run.epsilon),
        clip=run.clip or 1.0,
        epochs=run.rounds,
        batch_size=max(1, round(client.batch_size)),
        learning_rate=run.learning_rate,
        hidden=run.model.hidden,
        public_size=client.size,
        classes=[0, 1],
        **privacy,
        random_state=run.noise_seed,
    )
    constraint = DemographicParity() if how.constraint == "demographic parity" else EqualizedOdds()
    search = GridSearch(one, constraint, grid_size=how.points)
    search.fit(X, y, sensitive_features=codes)
    predicted = [np.asarray(p.predict(X), dtype=np.int64) for p in search.predictors_]
    disparity = [disparities(p, y, codes)[how.constraint] for p in predicted]
    accuracy = [float((p == y).mean()) for p in predicted]
    held = HeldOut(run, federation)
    T = of.table.features[of.test]
    tables = []
    for label, best in ((ACCURATE, int(np.argmax(accuracy))), (FAIR, int(np.nanargmin(disparity)))):
        measured = pd.DataFrame(held.measure(_probabilities(search.predictors_[best], T)))
        tables.append(measured.assign(strategy=label, weight=np.nan))
    return pd.concat(tables, ignore_index=True)


def _probabilities(predictor: Any, X: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ``[N, 2]`` scores; where a point's labels are all one, fairlearn's model is a constant."""
    made = np.asarray(predictor.predict_proba(X), dtype=np.float64)
    if made.shape[1] == 2:
        return made
    positive = np.asarray(predictor.predict(X), dtype=np.float64)
    return np.stack([1 - positive, positive], axis=1)


def disparities(predicted: Labels, label: Labels, codes: Labels) -> dict[str, float]:
    """Return both differences over groups, maximum minus minimum; NaN where a group has no rate.

    Examples
    --------
    >>> one = np.array([0, 0, 1, 1])
    >>> disparities(np.array([1, 0, 1, 1]), np.array([1, 0, 1, 0]), one)
    {'demographic parity': 0.5, 'equalized odds': 1.0}
    """

    def rate(chosen: NDArray[np.bool_]) -> list[float]:
        cells = [predicted[chosen & (codes == g)] for g in np.unique(codes)]
        return [float(cell.mean()) if cell.size else float("nan") for cell in cells]

    everybody = np.ones(len(label), dtype=bool)
    odds = max(np.ptp(rate(label == 1)), np.ptp(rate(label == 0)))
    return {"demographic parity": float(np.ptp(rate(everybody))), "equalized odds": float(odds)}
