"""The differences that fairlearn's users expect, and one of the federated literature, from predictions."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from fedtoll.scenarios.measures import RUN
from fedtoll.toll.predictions import coded
from fedtoll.toll.tolls import by_privacy

_NAMES = ("demographic_parity_difference", "equalized_odds_difference", "puffle_disparity")


def fairness(
    predictions: pd.DataFrame, threshold: float = 0.5, without: Collection[str] = ()
) -> pd.DataFrame:
    """Return the differences between groups that fairlearn's users expect, the mean over seeds of each run's.

    ``demographic_parity_difference`` is the maximum minus the minimum over groups of the selection rate;
    ``equalized_odds_difference`` the larger of the same differences of the true- and of the false-positive
    rate: fairlearn's definitions, and its figures to the last digit, from counts. Where a group lacks
    positives or negatives, fairlearn reads its rate as 0 and makes a difference out of nothing; here such a
    run's equalised odds are undefined (NaN), dropped from the mean and counted. ``puffle_disparity`` is
    max_z |P(ŷ = 1 | z) − P(ŷ = 1 | ≠ z)|, a group against all others (Corbucci et al. 2024).

    Parameters
    ----------
    predictions
        The results' table of predictions.
    threshold
        The score from which a record is predicted positive.
    without
        Groups that take no part, e.g. for they are too small.

    Returns
    -------
    pandas.DataFrame
        One row a (strategy, mechanism, epsilon): the three with their ``_se`` over seeds, ``seeds``,
        and ``undefined``, the seeds whose equalised odds are undefined. With more than two classes there
        is no ``score`` of a positive class, and all are NaN.
    """
    score = predictions.get("score", pd.Series(np.nan, index=predictions.index)).to_numpy(dtype=float)
    positive, selected = predictions["label"].to_numpy() == 1, score >= threshold
    code = coded(predictions)
    shape = (len(code.runs), len(code.groups))
    within = [group not in without for group in code.groups]

    def count(rows: np.ndarray) -> np.ndarray:
        """Count rows by run and group."""
        cell = code.run[rows] * shape[1] + code.group[rows]
        counts_RG = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
        return counts_RG[:, within].astype(float)

    scored = ~np.isnan(score)
    there_RG = count(np.ones(len(predictions), dtype=bool)) > 0
    n_RG, positives_RG = count(scored), count(scored & positive)
    selected_RG, hits_RG = count(selected), count(selected & positive)
    rest_RG = n_RG.sum(axis=1, keepdims=True) - n_RG
    with np.errstate(invalid="ignore"):
        selection_RG = selected_RG / n_RG
        tpr_RG, fpr_RG = hits_RG / positives_RG, (selected_RG - hits_RG) / (n_RG - positives_RG)
        others_RG = (selected_RG.sum(axis=1, keepdims=True) - selected_RG) / rest_RG
    several = there_RG.sum(axis=1) > 1  # of one group there is no difference
    made = (
        _apart(selection_RG, there_RG),
        np.maximum(_apart(tpr_RG, there_RG), _apart(fpr_RG, there_RG)),
        np.where(there_RG, np.abs(selection_RG - others_RG), -np.inf).max(axis=1, initial=-np.inf),
    )
    runs = code.runs.assign(**{k: np.where(several, v, np.nan) for k, v in zip(_NAMES, made, strict=True)})
    runs = runs.iloc[np.flatnonzero(there_RG.any(axis=1))]
    grouped = runs.groupby(RUN[:3], sort=False)
    frame = grouped[list(_NAMES)].mean().join(grouped[list(_NAMES)].sem().add_suffix("_se"))
    frame["seeds"] = grouped.size()
    frame["undefined"] = frame["seeds"] - grouped[_NAMES[1]].count()
    return by_privacy(frame.reset_index())


def _apart(rate_RG: np.ndarray, there_RG: np.ndarray) -> np.ndarray:
    """Return maximum minus minimum over the groups that are there; one undefined rate makes it undefined."""
    high, low = np.where(there_RG, rate_RG, -np.inf), np.where(there_RG, rate_RG, np.inf)
    return np.asarray(high.max(axis=1, initial=-np.inf) - low.min(axis=1, initial=np.inf))
