"""The table of predictions as arrays: integer codes for runs and groups, and utilities per record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedtoll.scenarios.measures import RUN

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """Predictions with runs and groups as integer codes.

    Parameters
    ----------
    runs
        One row per run: strategy, mechanism, ε and seed, in order of first appearance.
    run, group
        Run and group of every prediction as codes, shape ``[N]``.
    groups
        The group names, indexed by code.
    """

    runs: pd.DataFrame
    run: Codes
    group: Codes
    groups: tuple[str, ...]


def encode(predictions: pd.DataFrame) -> Encoded:
    """Replace the names of runs and groups by codes; each column is hashed once."""
    key = np.zeros(len(predictions), dtype=np.int64)
    for column in RUN:
        codes, values = pd.factorize(predictions[column])
        key = key * (len(values) + 1) + codes
    run, first = pd.factorize(key)
    group, names = pd.factorize(predictions["group"])
    starts = np.full(len(first), len(predictions), dtype=np.int64)
    np.minimum.at(starts, run, np.arange(len(run)))
    runs = predictions[RUN].iloc[starts].reset_index(drop=True)
    return Encoded(runs, run.astype(np.int64), group.astype(np.int64), tuple(map(str, names)))


def utilities(predictions: pd.DataFrame, measure: str) -> Floats:
    """Return each prediction's contribution to its group's utility, which is the mean over records.

    Parameters
    ----------
    predictions
        The results' table: ``label``, and ``score`` of the positive class or ``score_0``, ``score_1``, ...
    measure
        A name in :data:`ROWS`.

    Returns
    -------
    float array of shape (N,)
        Log-likelihood in nats, or 1 for a hit and 0 for a miss; minus that for ``fpr``. NaN for records that
        the measure does not cover; with more than two classes, that is all records for the rates of a
        positive class.
    """
    label = predictions["label"].to_numpy()
    if "score" in predictions:
        score = predictions["score"].to_numpy(dtype=float)
        probability, guess = np.where(label == 1, score, 1 - score), (score >= 0.5).astype(np.int64)
        covered = {
            "log_loss": None,
            "accuracy": None,
            "selection_rate": None,
            "tpr": label == 1,
            "fpr": label != 1,
        }[measure]
    else:
        columns = sorted(
            (c for c in predictions if str(c).startswith("score_")), key=lambda c: int(str(c)[6:])
        )
        scores = predictions[columns].to_numpy(dtype=float)
        probability, guess = scores[np.arange(len(label)), label], scores.argmax(axis=1)
        covered = None if measure in {"log_loss", "accuracy"} else np.zeros(len(label), dtype=bool)
    if measure == "log_loss":
        utility = np.log(np.clip(probability, 1e-15, 1.0))
    elif measure == "accuracy":
        utility = (guess == label).astype(float)
    else:
        utility = (-1.0 if measure == "fpr" else 1.0) * guess
    return utility if covered is None else np.where(covered, utility, np.nan)


ROWS = ("log_loss", "accuracy", "tpr", "fpr", "selection_rate")
"""The measures that are means over records and can therefore be computed per prediction."""
