"""A converged central model, which says how good the reference at ε = ∞ could be.

Tolls and prices are differences to ε = ∞. If training stops there before it converges, they say too little.
Logistic regression is convex, so the model that fits all clients' records best is known up to its tolerance.
"""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import Plan
from fedtoll.sweep import cache

SEEDS = 2
"""How many of the scenario's seeds are compared, in pairs with their runs at ε = ∞."""

PENALTY = 1e-4
"""Weight of the squared norm, as in scikit-learn's 1 / C: one-hot features have no unique best model."""


def converged(planned: Plan, folder: Path) -> dict[str, Any] | None:
    """Return the held-out log-loss of a converged logistic regression on the records of all clients together.

    Parameters
    ----------
    planned
        The scenario's plan.
    folder
        The folder with the losses of each seed; those stored there are not computed again.

    Returns
    -------
    dict or None
        ``seeds``, and ``log_loss``: everybody's, in nats, one per seed. ``None`` if the scenario's model is
        not a binary logistic regression, it has no run at ε = ∞, all clients' records have one label, or
        they are on SuperNodes.
    """
    free = {run.seed: run for run in planned.runs if run.mechanism == "none"}
    runs = [free[seed] for seed in planned.scenario.seeds[:SEEDS] if seed in free]
    if planned.scenario.model.kind != "logistic" or not runs or runs[0].classes > 2:
        return None
    if planned.scenario.partition.kind == "declared":  # the records are not here
        return None
    found = cache.complete(
        {folder / f"{run.hash}.json": run.to_json() for run in runs},
        partial(log_loss, planned.federation),
        load=lambda file: float(file.read_text(encoding="utf-8")),
        save=lambda file, loss: file.write_text(json.dumps(loss), encoding="utf-8"),
        executor="serial",
    )
    known = {run.seed: loss for run, loss in zip(runs, found.values(), strict=True) if math.isfinite(loss)}
    return {"seeds": list(known), "log_loss": list(known.values())} if known else None


def log_loss(federation: Federation, text: str) -> float:
    """Return the held-out log-loss of the best logistic regression for one run's records, given as JSON."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    run = Run.from_json(text)
    records = Federation.of(run, like=federation).records(run.seed)
    rows, test = np.concatenate(records.held), records.test
    features, label = records.table.features.astype(np.float64), records.table.label
    if len(np.unique(label[rows])) < 2:
        return math.nan
    with threadpool_limits(1):
        model = LogisticRegression(C=1 / PENALTY, solver="newton-cholesky", tol=1e-8, max_iter=200)
        model.fit(features[rows], label[rows])
        scores = model.decision_function(features[test])
    return float(np.logaddexp(0, np.where(label[test] == 1, -scores, scores)).mean())
