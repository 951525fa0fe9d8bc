"""Fairness reductions under DP-SGD: fairlearn's unmodified grid search over our classifier.

For every ε and seed, a grid of models is trained on the single client's records. Two are picked on the same
records: the most accurate model and the one with the smallest disparity. Their held-out measures are rows of
a table of groups, with strategy names of their own, so that claims read them like any other strategy. The
points of a grid share their noise, as all paired runs do. This is a simulation; such a grid must never be
released.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedtoll.findings.models import table_of_groups
from fedtoll.scenarios.budgets import budget_of
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.reduction import ACCURATE, FAIR, Reduction
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import Plan
from fedtoll.server.trainer import Trainer
from fedtoll.sweep.failures import errors_name_run

Labels = NDArray[np.int64]


def check_supported(planned: Plan) -> None:
    """Reject a setting in which a reduction cannot be trained.

    Raises
    ------
    ScenarioError
        If there are several clients, more than two classes, or a round is not one epoch.
    """
    run, training = planned.runs[0], planned.scenario.training
    if len(run.clients) != 1 or run.classes != 2:
        raise ScenarioError("reduction: needs one client and a binary label")
    if training.local_epochs != 1:
        raise ScenarioError("reduction: needs training.local_epochs = 1, because a round is one epoch here")


def run_grids(planned: Plan, reduction: Reduction, folder: Path, workers: int | None = None) -> pd.DataFrame:
    """Return the table of groups of the picked models; grids stored in the folder are not trained again.

    Parameters
    ----------
    planned
        The setting; every ε and seed of its first strategy gets one grid.
    reduction
        The constraint and the size of the grid.
    folder
        The folder with the table of each grid.
    workers
        The number of processes, by default one per core.

    Raises
    ------
    RunError
        If a grid fails, or the folder cannot be written.
    """
    return table_of_groups(planned, reduction, folder, run_grid, workers=workers)


def run_grid(trainer: Trainer, job: tuple[str, str]) -> pd.DataFrame:
    """Train one grid, given its run and reduction as JSON; return the measures of the two picked models."""
    run = Run.from_json(job[0])
    with errors_name_run(run):
        return _grid(run, trainer.clients.federation(run), Reduction.model_validate_json(job[1]))


def _grid(run: Run, federation: Federation, reduction: Reduction) -> pd.DataFrame:
    import torch
    from fairlearn.reductions import DemographicParity, EqualizedOdds, GridSearch

    from fedtoll.server.evaluate import HeldOut
    from fedtoll.sklearn import DPClassifier

    torch.set_num_threads(1)
    records = federation.records(run.seed)
    rows, client = records.held[0], run.clients[0]
    X, y, codes = records.table.features[rows], records.table.label[rows], records.groups.codes[rows]
    privacy: dict[str, Any] = {} if run.delta is None else {"delta": run.delta, "accountant": run.accountant}
    classifier = DPClassifier(
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
    constraint = DemographicParity() if reduction.constraint == "demographic parity" else EqualizedOdds()
    search = GridSearch(classifier, constraint, grid_size=reduction.points)
    search.fit(X, y, sensitive_features=codes)
    predicted = [np.asarray(p.predict(X), dtype=np.int64) for p in search.predictors_]
    disparity = [disparities(p, y, codes)[reduction.constraint] for p in predicted]
    accuracy = [float((p == y).mean()) for p in predicted]
    evaluation = HeldOut(run, federation)
    T = records.table.features[records.test]
    tables = []
    for label, best in ((ACCURATE, int(np.argmax(accuracy))), (FAIR, int(np.nanargmin(disparity)))):
        measured = pd.DataFrame(evaluation.measure(_probabilities(search.predictors_[best], T)))
        tables.append(measured.assign(strategy=label, weight=np.nan))
    return pd.concat(tables, ignore_index=True)


def _probabilities(predictor: Any, X: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return scores ``[N, 2]``; if the labels of a point are all the same, its model is a constant."""
    scores = np.asarray(predictor.predict_proba(X), dtype=np.float64)
    if scores.shape[1] == 2:
        return scores
    positive = np.asarray(predictor.predict(X), dtype=np.float64)
    return np.stack([1 - positive, positive], axis=1)


def disparities(predicted: Labels, label: Labels, codes: Labels) -> dict[str, float]:
    """Return both disparities, maximum minus minimum over groups; NaN if a rate of a group is undefined.

    Examples
    --------
    >>> codes = np.array([0, 0, 1, 1])
    >>> disparities(np.array([1, 0, 1, 1]), np.array([1, 0, 1, 0]), codes)
    {'demographic parity': 0.5, 'equalized odds': 1.0}
    """

    def rates(selected: NDArray[np.bool_]) -> list[float]:
        cells = [predicted[selected & (codes == g)] for g in np.unique(codes)]
        return [float(cell.mean()) if cell.size else float("nan") for cell in cells]

    everybody = np.ones(len(label), dtype=bool)
    odds = max(np.ptp(rates(label == 1)), np.ptp(rates(label == 0)))
    return {"demographic parity": float(np.ptp(rates(everybody))), "equalized odds": float(odds)}
