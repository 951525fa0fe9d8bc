"""The table of predictions as numbers: codes in place of names, runs in one order, records in another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedtoll.scenarios.measures import RUN

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Coded:
    """Predictions by run and group.

    Parameters
    ----------
    runs
        One row a run: its strategy, mechanism, ε and seed, in the order they came.
    run, group
        Code of the run and of the group of every prediction, shape ``[N]``.
    groups
        The names behind the groups' codes.
    """

    runs: pd.DataFrame
    run: Codes
    group: Codes
    groups: tuple[str, ...]


def coded(predictions: pd.DataFrame) -> Coded:
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
    return Coded(runs, run.astype(np.int64), group.astype(np.int64), tuple(map(str, names)))


def utilities(predictions: pd.DataFrame, measure: str) -> Floats:
    """Return what each prediction adds to its group's utility, a mean of rows; NaN where it takes no part.

    Parameters
    ----------
    predictions
        The results' table: ``label``, and ``score`` of the positive class or ``score_0``, ``score_1``, ...
    measure
        A key of :data:`ROWS`.

    Returns
    -------
    float array of shape (N,)
        Log-likelihood in nats; 1 or 0 for a hit or a miss. Of the rates of a positive class every row is NaN
        with more than two classes.
    """
    label = predictions["label"].to_numpy()
    if "score" in predictions:
        score = predictions["score"].to_numpy(dtype=float)
        chosen, guess = np.where(label == 1, score, 1 - score), (score >= 0.5).astype(np.int64)
        parts = {
            "log_loss": None,
            "accuracy": None,
            "selection_rate": None,
            "tpr": label == 1,
            "fpr": label != 1,
        }
        takes_part = parts[measure]
    else:
        columns = sorted(
            (c for c in predictions if str(c).startswith("score_")), key=lambda c: int(str(c)[6:])
        )
        scores = predictions[columns].to_numpy(dtype=float)
        chosen, guess = scores[np.arange(len(label)), label], scores.argmax(axis=1)
        takes_part = None if measure in {"log_loss", "accuracy"} else np.zeros(len(label), dtype=bool)
    if measure == "log_loss":
        utility = np.log(np.clip(chosen, 1e-15, 1.0))
    elif measure == "accuracy":
        utility = (guess == label).astype(float)
    else:
        utility = (-1.0 if measure == "fpr" else 1.0) * guess
    return utility if takes_part is None else np.where(takes_part, utility, np.nan)


ROWS = ("log_loss", "accuracy", "tpr", "fpr", "selection_rate")
"""The measures that are means over records, so that predictions give them row by row."""
