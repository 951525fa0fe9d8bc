"""Group fairness from the groups' rates: two of fairlearn's measures and one of the federated literature."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from fedtoll.scenarios.measures import EVERYBODY, RUN
from fedtoll.toll.tolls import sort_by_privacy

_NAMES = ("demographic_parity_difference", "equalized_odds_difference", "puffle_disparity")


def fairness(groups: pd.DataFrame, without: Collection[str] = ()) -> pd.DataFrame:
    """Return three differences between groups, averaged over seeds.

    ``demographic_parity_difference`` is the maximum minus the minimum selection rate over groups.
    ``equalized_odds_difference`` is the larger of the same difference in true-positive rates and in
    false-positive rates. Both follow fairlearn's definitions and agree with it to the last digit. For a group
    without positives or negatives, however, fairlearn takes the rate as 0, which creates a spurious
    difference; here equalised odds are then undefined (NaN), left out of the mean and counted.
    ``puffle_disparity`` is max_z |P(ŷ = 1 | z) − P(ŷ = 1 | ≠ z)|, one group against all others (Corbucci et
    al. 2024).

    Parameters
    ----------
    groups
        The results' table of groups, with the rates at a threshold of .5; the last round counts.
    without
        Groups to leave out, e.g. because they are too small.

    Returns
    -------
    pandas.DataFrame
        One row per (strategy, mechanism, epsilon): the three measures with their ``_se`` over seeds,
        ``seeds``, and ``undefined``, the number of seeds whose equalised odds are undefined. With more than
        two classes there is no positive class, and all measures are NaN.
    """
    last = groups.groupby(RUN, sort=False)["round"].transform("max")
    kept = ~groups["group"].isin([EVERYBODY, *without]) & (groups["n"] > 0)
    rows = groups[(groups["round"] == last) & kept]
    run = rows.groupby(RUN, sort=False).ngroup().to_numpy()
    group, names = pd.factorize(rows["group"])
    runs = rows[RUN].drop_duplicates(ignore_index=True)
    shape = (len(runs), len(names))

    def by_run(values: pd.Series[float]) -> np.ndarray:
        """Return one row per run and one column per group, 0 for a group that a run does not have."""
        table_RG = np.zeros(shape)
        table_RG[run, group] = values
        return table_RG

    n, positives = rows["n"].astype(float), rows["positives"].astype(float)
    hits = (rows["tpr"] * positives).where(positives > 0, positives * 0).round()
    false_alarms = (rows["fpr"] * (n - positives)).where(positives < n, positives * 0).round()
    present_RG = by_run(n) > 0
    n_RG, positives_RG = by_run(n.where(positives.notna())), by_run(positives)
    hits_RG, selected_RG = by_run(hits), by_run(hits + false_alarms)
    rest_RG = n_RG.sum(axis=1, keepdims=True) - n_RG
    with np.errstate(invalid="ignore"):
        selection_RG = selected_RG / n_RG
        tpr_RG, fpr_RG = hits_RG / positives_RG, (selected_RG - hits_RG) / (n_RG - positives_RG)
        others_RG = (selected_RG.sum(axis=1, keepdims=True) - selected_RG) / rest_RG
    several = present_RG.sum(axis=1) > 1  # a single group has no difference
    values = (
        _spread(selection_RG, present_RG),
        np.maximum(_spread(tpr_RG, present_RG), _spread(fpr_RG, present_RG)),
        np.where(present_RG, np.abs(selection_RG - others_RG), -np.inf).max(axis=1, initial=-np.inf),
    )
    runs = runs.assign(**{k: np.where(several, v, np.nan) for k, v in zip(_NAMES, values, strict=True)})
    grouped = runs.groupby(RUN[:3], sort=False)
    frame = grouped[list(_NAMES)].mean().join(grouped[list(_NAMES)].sem().add_suffix("_se"))
    frame["seeds"] = grouped.size()
    frame["undefined"] = frame["seeds"] - grouped[_NAMES[1]].count()
    return sort_by_privacy(frame.reset_index())


def _spread(rate_RG: np.ndarray, present_RG: np.ndarray) -> np.ndarray:
    """Return maximum minus minimum over the groups present, NaN if any of their rates is undefined."""
    high, low = np.where(present_RG, rate_RG, -np.inf), np.where(present_RG, rate_RG, np.inf)
    return np.asarray(high.max(axis=1, initial=-np.inf) - low.min(axis=1, initial=np.inf))
