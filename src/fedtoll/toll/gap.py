"""Who pays most and least, how far groups are apart, and which strategies nobody beats in both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fedtoll.scenarios.measures import EVERYBODY, MEASURES, Measure
from fedtoll.toll.intervals import Floats, half_width
from fedtoll.toll.limits import LEVEL

AT = ["strategy", "mechanism", "epsilon"]
"""The columns that name one row of :func:`toll_gap`."""


def toll_gap(tolls: pd.DataFrame) -> pd.DataFrame:
    """Return the toll gap and the disparity of every strategy at every ε, from seed means.

    The gap is the maximum minus the minimum over groups of the *seed-mean* tolls: a mean of per-seed gaps
    would mostly measure noise. Even so a maximum minus a minimum is biased upward, the more the smaller
    the groups: read it with its interval.

    Parameters
    ----------
    tolls
        What :func:`toll` returned. "(all)" and the groups with too few records take no part.

    Returns
    -------
    pandas.DataFrame
        One row a (strategy, mechanism, epsilon) with

        - ``groups`` (how many were compared), ``gap``, ``worst_group``, ``worst_toll``, ``best_group``,
          ``best_toll``; NaN with fewer than two groups; no names where no group differs
        - ``gap_low``, ``gap_high``: conservative 95% interval of the gap of the expected tolls. All pairs of
          groups have simultaneous (Bonferroni) t intervals over seeds, and the gap is the largest difference
          of a pair, so it lies between the largest lower and the largest upper end. It covers more often
          than 95%, includes 0 where nothing tells groups apart, and is NaN with fewer than two seeds in
          which every group is defined
        - ``disparity``: maximum minus minimum over groups of the seed-mean measure
        - ``disparity_corrected``: the between-group *variance* of a rate (in squared units), with sampling of
          test records taken off: S²_K − (1/K) Σ_k p̂_k(1 − p̂_k)/(n_k − 1), the mean over seeds (Lum, Zhang
          and Bower 2022). Unbiased, so negative about half the time where groups do not differ: do not
          truncate it, and take no root. NaN for a measure that is no proportion of records
        - ``everybody``: the seed-mean utility over all records (minus the measure where lower is better);
          ``everybody_toll``: its toll
        - ``on_front``: whether no other strategy at the same mechanism and ε has both at least the utility of
          everybody and at most the gap, and one of them better (Pareto); ``False`` without a gap
    """
    rows = [dict(zip(AT, key, strict=True)) | _row(part) for key, part in tolls.groupby(AT, sort=False)]
    frame = pd.DataFrame(rows)
    if rows:
        frame["on_front"] = _front(frame)
    return frame


def _row(part: pd.DataFrame) -> dict[str, Any]:
    claimed = part[(part["group"] != EVERYBODY) & ~part["too_few"]]
    known = claimed.dropna(subset="toll").set_index("group")["toll"]
    everybody = part[part["group"] == EVERYBODY]
    enough = len(known) > 1
    apart = enough and known.max() > known.min()
    nan = float("nan")
    return {
        "groups": len(known),
        "gap": known.max() - known.min() if enough else nan,
        "gap_low": part["gap_low"].iloc[0] if enough else nan,
        "gap_high": part["gap_high"].iloc[0] if enough else nan,
        "worst_group": known.idxmax() if apart else None,
        "worst_toll": known.max() if enough else nan,
        "best_group": known.idxmin() if apart else None,
        "best_toll": known.min() if enough else nan,
        "disparity": np.ptp(claimed["value"].dropna()) if claimed["value"].count() > 1 else nan,
        "disparity_corrected": part["disparity_corrected"].iloc[0],
        "everybody": MEASURES[part["measure"].iloc[0]].sign * everybody["value"].iloc[0]
        if len(everybody)
        else nan,
        "everybody_toll": everybody["toll"].iloc[0] if len(everybody) else nan,
    }


def _front(frame: pd.DataFrame) -> list[bool]:
    """Say of each row whether it is Pareto-efficient among those at its mechanism and ε."""
    known = frame.dropna(subset=["everybody", "gap"])
    on = set()
    for _, part in known.groupby(["mechanism", "epsilon"], sort=False):
        utility, gap = part["everybody"].to_numpy(), part["gap"].to_numpy()
        for i, index in enumerate(part.index):
            as_good = (utility >= utility[i]) & (gap <= gap[i])
            better = (utility > utility[i]) | (gap < gap[i])
            if not (as_good & better).any():
                on.add(index)
    return [index in on for index in frame.index]


def of_seeds(final: pd.DataFrame, rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return what a gap's row needs of single seeds: ``gap_low``, ``gap_high``, ``disparity_corrected``.

    Parameters
    ----------
    final
        One row a run and group, with ``toll``, ``value``, ``n`` and ``positives``.
    rows
        One row a (strategy, mechanism, epsilon, group), with ``too_few``.
    """
    claimed = rows.loc[~rows["too_few"] & (rows["group"] != EVERYBODY), [*AT, "group"]]
    final = final.merge(claimed, on=[*AT, "group"])
    of = {
        "n": final["n"],
        "positives": final["positives"],
        "negatives": final["n"] - final["positives"],
        "": final["n"] * np.nan,
    }[measure.of]
    final = final.assign(of=of.astype(float))
    found = []
    for key, part in final.groupby(AT, sort=False):
        seed, seeds = pd.factorize(part["seed"], sort=True)
        group, names = pd.factorize(part["group"], sort=True)
        toll_SG, value_SG, of_SG = np.full((3, len(seeds), len(names)), np.nan)
        for x_SG, name in ((toll_SG, "toll"), (value_SG, "value"), (of_SG, "of")):
            x_SG[seed, group] = part[name]
        found.append((*key, *gap_interval(toll_SG), between_groups(value_SG, of_SG)))
    return pd.DataFrame(found, columns=[*AT, "gap_low", "gap_high", "disparity_corrected"]).astype(
        {"epsilon": float}
    )


def gap_interval(toll_SG: Floats) -> tuple[float, float]:
    """Return a conservative 95% interval of max_g − min_g of expected tolls; see :func:`toll_gap`.

    Parameters
    ----------
    toll_SG
        Shape ``[seeds, groups]``. Groups that are undefined in every seed are left out, then seeds in which
        a group is undefined.
    """
    toll_SG = complete(toll_SG)
    seeds, groups = toll_SG.shape
    if seeds < 2 or groups < 2:
        return float("nan"), float("nan")
    first, second = np.triu_indices(groups, 1)
    apart_SP = toll_SG[:, first] - toll_SG[:, second]
    mean_P = np.abs(apart_SP.mean(axis=0))
    se_P = apart_SP.std(axis=0, ddof=1) / np.sqrt(seeds)
    half_P = half_width(np.where((se_P == 0) & (mean_P > 0), np.nan, se_P), seeds, LEVEL / len(first))
    return max(0.0, float((mean_P - half_P).max())), float((mean_P + half_P).max())


def between_groups(rate_SG: Floats, n_SG: Floats) -> float:
    """Return the corrected between-group variance of a rate, the mean over seeds; see :func:`toll_gap`.

    Parameters
    ----------
    rate_SG, n_SG
        The rate of each seed and group and the records it is of, shape ``[seeds, groups]``. Groups that are
        undefined in every seed are left out, then seeds in which a group is undefined or has one record.

    Examples
    --------
    >>> between_groups(np.array([[0.5, 0.5]]), np.array([[101.0, 101.0]]))  # less apart than chance alone
    -0.0025
    """
    rate_SG = np.where(n_SG > 1, rate_SG, np.nan)
    there = ~np.isnan(rate_SG)
    groups = there.any(axis=0)
    seeds = there[:, groups].all(axis=1)
    rate, n = rate_SG[seeds][:, groups], n_SG[seeds][:, groups]
    if not rate.shape[0] or rate.shape[1] < 2:
        return float("nan")
    spread_S = rate.var(axis=1, ddof=1)
    chance_S = (rate * (1 - rate) / (n - 1)).mean(axis=1)
    return float((spread_S - chance_S).mean())


def complete(x_SG: Floats) -> Floats:
    """Leave out groups that are NaN in every seed, then seeds with a NaN."""
    x_SG = x_SG[:, ~np.isnan(x_SG).all(axis=0)]
    return x_SG[~np.isnan(x_SG).any(axis=1)]
