"""Tables of groups with planted tolls, in place of trained results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fedtoll.findings.quantities import Study

SEEDS = 10
MECHANISMS: dict[Any, str] = {float("inf"): "none", "clip-only": "clip-only"}


def study(
    tolls: Mapping[Any, dict[str, float]],
    *,
    seeds: int = SEEDS,
    noise: float = 0.01,
    start: dict[str, float] | None = None,
    n: dict[str, int] | None = None,
    collapsed: object = None,
    undefined: int = 0,
    salt: int = 0,
) -> Study:
    """Return a study of one strategy whose accuracy falls by a given toll at each ε, plus noise.

    Parameters
    ----------
    tolls
        The toll of each group, by ε (or ``"clip-only"``).
    noise
        The standard deviation over seeds of each group's toll. Its mean over seeds is 0, so the toll is
        exact.
    start
        The accuracy at ∞ by group; .8 by default.
    n
        The test records of a group per seed; 200 by default.
    collapsed
        The ε at which every model is flagged as collapsed.
    undefined
        The number of seeds, from the first, whose accuracy is undefined.
    """
    rng = np.random.default_rng(salt)
    groups = list(next(iter(tolls.values())))
    rows = []
    drawn = rng.normal(0, noise, (seeds, len(tolls), len(groups)))
    drawn -= drawn.mean(axis=0)
    for seed in range(seeds):
        base = {g: (start or {}).get(g, 0.8) + rng.normal(0, 0.02) for g in groups}
        errors = dict(zip(tolls, drawn[seed], strict=True))
        for epsilon, toll in {float("inf"): dict.fromkeys(groups, 0.0), **tolls}.items():
            error = errors.get(epsilon, np.zeros(len(groups)))
            values = {g: base[g] - toll[g] - error[i] for i, g in enumerate(groups)}
            values["(all)"] = float(np.mean(list(values.values())))
            for g, value in values.items():
                records = (n or {}).get(g, 200)
                rows.append(
                    {
                        "strategy": "fedavg",
                        "mechanism": MECHANISMS.get(epsilon, "dp-sgd"),
                        "epsilon": float("inf") if epsilon == "clip-only" else epsilon,
                        "seed": seed,
                        "round": 5,
                        "group": g,
                        "n": records,
                        "positives": records // 4,
                        "accuracy": float("nan") if seed < undefined else value,
                        "log_loss": 1 - value,
                        "selection_rate": value / 4,
                        "collapsed": epsilon == collapsed,
                        "below_majority": False,
                        "weight": 1.0 if g == "(all)" else 1.0 / len(groups),
                    }
                )
    return Study(pd.DataFrame(rows), folds=5, strategy="fedavg", reference="fedavg")
