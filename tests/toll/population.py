"""Simulated runs from a population with known tolls, with variance over seeds, folds and rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tests.toll.tables import INF, FakeResults, resolved


@dataclass(frozen=True)
class Components:
    """Standard deviations of the parts of d_sr = μ + a_s + b_r + e_sr, the difference of seed s on row r."""

    seed: float
    row: float
    rest: float
    mean: float = 0.1


def differences(
    rng: np.random.Generator, sd: Components, groups: int, n: int, fold_S: np.ndarray, folds: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a table of ``groups`` independent groups with ``n`` rows per fold, and each seed's differences.

    Rows are skewed to the right: a few people lose a lot.

    Returns
    -------
    differences of shape [seeds, groups, n], and each group's mean over all seeds that could be drawn [groups]
    """
    row_FGN = sd.row * (rng.exponential(size=(folds, groups, n)) - 1)
    seed_SG = sd.seed * rng.normal(size=(len(fold_S), groups))
    rest_SGN = sd.rest * rng.normal(size=(len(fold_S), groups, n))
    drawn = sd.mean + seed_SG[:, :, None] + row_FGN[fold_S] + rest_SGN
    return drawn, sd.mean + row_FGN.mean(axis=(0, 2))


def rates(
    rng: np.random.Generator, sd: Components, groups: int, n: int, fold_S: np.ndarray, folds: int = 5
) -> tuple[np.ndarray, np.ndarray, float]:
    """Draw hits at ∞ minus hits at ε per seed and row; return them with the means of table and population.

    A row is a hit if its score plus the seed's shift and the residual is positive; at ε scores are lower.
    """
    from scipy.special import ndtr

    row_FGN = sd.row * rng.normal(size=(folds, groups, n))
    hits = []
    for mean in (0.0, -sd.mean):
        seed_SG1 = sd.seed * rng.normal(size=(len(fold_S), groups, 1))
        rest_SGN = sd.rest * rng.normal(size=(len(fold_S), groups, n))
        hits.append(mean + seed_SG1 + row_FGN[fold_S] + rest_SGN > 0)
    rest, total = np.hypot(sd.seed, sd.rest), np.sqrt(sd.seed**2 + sd.row**2 + sd.rest**2)
    table_G = (ndtr(row_FGN / rest) - ndtr((row_FGN - sd.mean) / rest)).mean(axis=(0, 2))
    return hits[0].astype(float) - hits[1], table_G, float(0.5 - ndtr(-sd.mean / total))


def as_results(drawn_SGN: np.ndarray, fold_S: np.ndarray, folds: int = 5) -> FakeResults:
    """Return results whose runs have these differences in log-loss; every row has 15 nats at ∞."""
    seeds, groups, n = drawn_SGN.shape
    rows = groups * n
    group = np.repeat([f"g{i}" for i in range(groups)], n)
    frames = []
    for s in range(seeds):
        for mechanism, epsilon, more in (("none", INF, 0.0), ("dp-sgd", 0.5, drawn_SGN[s].reshape(-1))):
            frames.append(
                pd.DataFrame(
                    {
                        "strategy": "fedavg",
                        "mechanism": mechanism,
                        "epsilon": epsilon,
                        "seed": s,
                        "record": fold_S[s] * rows + np.arange(rows),
                        "group": group,
                        "label": 1,
                        "score": np.exp(-15.0 - np.broadcast_to(more, rows)),
                    }
                )
            )
    return FakeResults(
        pd.DataFrame(), resolved(("fedavg",), (INF, 0.5), folds), pd.concat(frames, ignore_index=True)
    )


def draw(
    rng: np.random.Generator, sd: Components, groups: int, n: int, seeds: int = 10, folds: int = 5
) -> FakeResults:
    """Draw the runs of consecutive seeds on one table."""
    fold_S = np.arange(seeds) % folds
    return as_results(differences(rng, sd, groups, n, fold_S, folds)[0], fold_S, folds)
