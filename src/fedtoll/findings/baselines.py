"""Central baselines: another private mechanism on the same records as the strategies.

For every ε and seed one model is trained on the single client's records. Its held-out measures are rows of a
table of groups with a strategy name of its own, so that claims read them like any other strategy. What comes
after the objective is the same as everywhere: the same records, held-out records and measures.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedtoll.findings.models import table_of_groups
from fedtoll.privacy import objective_perturbation
from fedtoll.scenarios.baseline import Baseline
from fedtoll.scenarios.data.source import TRANSFORMS, Categorical, Source
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.fields import CLIP_ONLY
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.streams import Purpose, stream
from fedtoll.server.plan import Plan
from fedtoll.server.trainer import Trainer
from fedtoll.sweep.failures import errors_name_run


def check_supported(planned: Plan) -> None:
    """Reject a setting in which a baseline cannot be trained.

    Raises
    ------
    ScenarioError
        If there are several clients, more than two classes, a clip-only run, or a feature without bounds.
    """
    run = planned.runs[0]
    if len(run.clients) != 1 or run.classes != 2:
        raise ScenarioError("baseline: needs one client and a binary label")
    if CLIP_ONLY in planned.scenario.privacy.epsilons:
        raise ScenarioError("baseline: clips nothing, so privacy.epsilons must not have 'clip-only'")
    if not math.isfinite(public_norm(planned.federation.source, run.data.exclude)):
        raise ScenarioError(
            f"baseline: needs bounds for every number of data {planned.federation.source.name!r}"
        )


def public_norm(source: Source, exclude: tuple[str, ...] = ()) -> float:
    """Return the largest norm that the declared facts allow a record to have, with a constant feature of 1.

    Parameters
    ----------
    source
        The data source; its facts are public independently of the records.
    exclude
        Columns that are not among the features.

    Returns
    -------
    float
        Infinite if a number has no bounds.
    """
    squares = 1.0  # the constant
    for column in source.columns:
        if column.name in exclude:
            continue
        if isinstance(column, Categorical):
            squares += 1.0
        elif math.isinf(column.low) or math.isinf(column.high):
            return math.inf
        else:
            ends = (float(TRANSFORMS[column.transform](bound)) for bound in (column.low, column.high))
            squares += max(abs((end - column.centre) / column.scale) for end in ends) ** 2
    return math.sqrt(squares)


def run_baselines(
    planned: Plan,
    baseline: Baseline,
    folder: Path,
    *,
    executor: str = "processes",
    workers: int | None = None,
) -> pd.DataFrame:
    """Return the table of groups of the baseline; models stored in the folder are not trained again.

    Parameters
    ----------
    planned
        The setting; every ε and seed of its first strategy gets one model.
    baseline
        The mechanism and its constant.
    folder
        The folder with the table of each model.
    executor, workers
        How the models are distributed; they never change a result.

    Raises
    ------
    RunError
        If a model cannot be trained, or the folder cannot be written.
    """
    return table_of_groups(planned, baseline, folder, run_baseline, executor=executor, workers=workers)


def run_baseline(trainer: Trainer, job: tuple[str, str]) -> pd.DataFrame:
    """Train one model, given its run and baseline as JSON, and return its measures by group."""
    run = Run.from_json(job[0])
    with errors_name_run(run):
        return _measured(run, trainer.clients.federation(run), Baseline.model_validate_json(job[1]))


def _measured(run: Run, federation: Federation, baseline: Baseline) -> pd.DataFrame:
    from threadpoolctl import threadpool_limits

    from fedtoll.server.evaluate import HeldOut

    records = federation.records(run.seed)
    with threadpool_limits(1):
        weights = train(run, federation, baseline)
        scores = with_constant(records.table.features[records.test]) @ weights
    positive = np.exp(-np.logaddexp(0, -scores))
    rows = HeldOut(run, federation).measure(np.stack([1 - positive, positive], axis=1))
    return pd.DataFrame(rows).assign(strategy=baseline.kind, weight=np.nan)


def train(run: Run, federation: Federation, baseline: Baseline) -> NDArray[np.float64]:
    """Return the weights of the baseline for one run, shape ``[d + 1]``; the last is that of the constant.

    At ε = ∞ they are those of scikit-learn's logistic regression with the same regularisation.
    """
    records = federation.records(run.seed)
    rows = records.held[0]
    X, y = with_constant(records.table.features[rows]), records.table.label[rows]
    if run.mechanism == "none":
        from sklearn.linear_model import LogisticRegression

        constants = {"C": 1 / baseline.regularisation, "fit_intercept": False}
        model = LogisticRegression(**constants, solver="newton-cholesky", tol=1e-8, max_iter=200)
        return np.asarray(model.fit(X, y).coef_[0], dtype=np.float64)
    return objective_perturbation.fit(
        X,
        y,
        epsilon=run.epsilon,
        norm=public_norm(federation.source, run.data.exclude),
        regularisation=baseline.regularisation,
        rng=stream(run.noise_seed, Purpose.OBJECTIVE),
    )


def with_constant(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the features with a last column of ones, shape ``[n, d + 1]``."""
    return np.column_stack([features, np.ones(len(features))]).astype(np.float64)
