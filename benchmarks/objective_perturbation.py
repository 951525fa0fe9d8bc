"""Objective perturbation next to diffprivlib's: equal weights; accuracy by race at the source's constants.

It needs diffprivlib 0.6.6, which needs a scikit-learn before 1.8, so it has an environment of its own:
``pip install . diffprivlib==0.6.6 "scikit-learn<1.8"``. The constants of ``poor-become-poorer``'s source are
those of its authors' published code: C = 1 and an intercept. Their norm bound √11 is one for each of their
columns; here it is √12, one for each of ours.

**Result.** docs/findings.md, with diffprivlib 0.6.6, scikit-learn 1.7.2 and seeds 0 to 19.

Run: ``python -m benchmarks.objective_perturbation``
"""

from __future__ import annotations

import warnings
from typing import Any, cast

import numpy as np

SEEDS = "0:20"


class TheirDraws:
    """diffprivlib's random numbers behind the two methods that ours asks for."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.RandomState(seed)

    def standard_normal(self, d: int) -> Any:
        """Return a normal direction of d components."""
        return self._rng.standard_normal((d, 4)).sum(axis=1) / 2

    def gamma(self, d: float, scale: float) -> float:
        """Return a Gamma variable as the sum of four."""
        return float(self._rng.gamma(d / 4, scale, 4).sum())


def largest_difference(seed: int = 0) -> float:
    """Return the largest relative difference of weights at norm 1, without an intercept, for equal draws."""
    from diffprivlib.models import LogisticRegression

    from fedtoll.privacy.objective_perturbation import fit

    rng = np.random.default_rng(seed)
    X = rng.normal(size=(20_000, 100))
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = (5 * X[:, 0] + rng.normal(size=len(X)) > 0).astype(np.int64)
    worst = 0.0
    for epsilon, strength in ((0.1, 1.0), (1.0, 0.1), (1.0, 1.0), (8.0, 3.0)):
        draws = cast("np.random.Generator", TheirDraws(seed))
        ours = fit(X, y, epsilon=epsilon, norm=1.0, regularisation=strength, rng=draws)
        model = LogisticRegression(
            epsilon=epsilon,
            data_norm=1.0,
            C=1 / strength,
            fit_intercept=False,
            tol=1e-9,
            max_iter=10_000,
            random_state=seed,
        )
        theirs = model.fit(X, y).coef_[0]
        worst = max(worst, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
    return worst


def accuracies() -> dict[str, dict[str, float]]:
    """Return the mean held-out accuracy at ε = 1 by model and race, over the seeds."""
    from diffprivlib.models import LogisticRegression

    from fedtoll.findings.baselines import public_norm, train, with_constant
    from fedtoll.scenarios.baseline import Baseline
    from fedtoll.scenarios.read import read
    from fedtoll.server.plan import plan

    planned = plan(read("poor-become-poorer", ['privacy.epsilons=["inf", 1]'], SEEDS), "benchmark")
    federation, baseline = planned.federation, Baseline(kind="objective-perturbation")
    norm = (public_norm(federation.source) ** 2 - 1) ** 0.5  # diffprivlib adds the intercept itself
    columns: dict[str, list[list[float]]] = {"ours, ε = ∞": [], "ours, ε = 1": [], "diffprivlib, ε = 1": []}
    for run in planned.runs:
        records = federation.records(run.seed)
        rows, test = records.held[0], records.test
        X, y, codes = records.table.features, records.table.label, records.groups.codes[test]

        def by_group(positive: Any, y: Any = y[test], codes: Any = codes) -> list[float]:
            right = positive == (y == 1)
            return [float(right.mean()), *(float(right[codes == g].mean()) for g in range(codes.max() + 1))]

        weights = train(run, federation, baseline)
        name = "ours, ε = ∞" if run.mechanism == "none" else "ours, ε = 1"
        columns[name].append(by_group(with_constant(X[test]) @ weights >= 0))
        if run.mechanism != "none":
            model = LogisticRegression(epsilon=1.0, data_norm=norm, max_iter=500, random_state=run.seed)
            model.fit(X[rows].astype(np.float64), y[rows])
            columns["diffprivlib, ε = 1"].append(by_group(model.predict(X[test].astype(np.float64)) == 1))
    names = ("everybody", *federation.groups.names)
    return {n: dict(zip(names, np.mean(v, axis=0), strict=True)) for n, v in columns.items()}


def main() -> None:
    """Print both comparisons."""
    warnings.simplefilter("ignore")  # diffprivlib's use of a deprecated option
    print(f"largest relative difference of weights: {largest_difference():.1e}")
    for name, by_group in accuracies().items():
        print(f"{name:20}", *(f"{group} {value:.3f}" for group, value in by_group.items()), sep="  ")


if __name__ == "__main__":
    main()
