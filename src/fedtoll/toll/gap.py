"""Toll gaps and disparities between groups, and the Pareto front of strategies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedtoll.scenarios.measures import EVERYBODY, MEASURES, Measure
from fedtoll.toll.intervals import Floats, half_width, nan_if_zero
from fedtoll.toll.limits import LEVEL

AT = ["strategy", "mechanism", "epsilon"]
"""The columns that name one row of :func:`toll_gap`."""


def toll_gap(tolls: pd.DataFrame) -> pd.DataFrame:
    """Return the toll gap and the disparity of every strategy at every ε, from seed means.

    The gap is the maximum minus the minimum over groups of the *seed-mean* tolls; a mean of per-seed gaps
    would mostly measure noise. A maximum minus a minimum is still biased upward, more so for smaller groups,
    so read it with its interval. Groups are compared over the same seeds: a seed in which the toll of one of
    them is undefined is left out for all, because seeds differ in more than their noise.

    Parameters
    ----------
    tolls
        A table returned by :func:`toll`. "(all)" and groups with too few records are left out.

    Returns
    -------
    pandas.DataFrame
        One row per (strategy, mechanism, epsilon) with

        - ``groups`` (number of groups compared), ``seeds`` (those in which the toll of each is defined),
          ``gap``, ``worst_group``, ``worst_toll``, ``best_group``, ``best_toll``, all over these seeds; NaN
          with fewer than two groups, and no group names if all tolls are equal
        - ``gap_low``, ``gap_high``: conservative 95% interval of the gap of the expected tolls. All pairs of
          groups have simultaneous (Bonferroni) t intervals over seeds. The gap is the largest pairwise
          difference, so it lies between the largest lower end and the largest upper end. Coverage exceeds
          95%, and the interval includes 0 if no pair of groups differs significantly. NaN with fewer than
          two seeds in which every group is defined
        - ``disparity``: maximum minus minimum over groups of the seed-mean measure, over the seeds in which
          it is defined for each of them (whether or not they have a run at ∞)
        - ``disparity_corrected``: the between-group *variance* of a rate (in squared units), corrected for
          the sampling of test records: S²_K − (1/K) Σ_k p̂_k(1 − p̂_k)/(n_k − 1), averaged over seeds (Lum,
          Zhang and Bower 2022). It is unbiased and therefore negative about half the time if groups do not
          differ: neither truncate it nor take its root. NaN if the measure is not a proportion of records
        - ``everybody``: the seed-mean utility over all records (minus the measure if lower is better);
          ``everybody_toll``: its toll
        - ``on_front``: whether the strategy is Pareto-efficient at its mechanism and ε: no other has at least
          the utility and at most the gap, with one of the two strictly better. ``False`` without a gap
    """
    rows = [dict(zip(AT, key, strict=True)) | _row(part) for key, part in tolls.groupby(AT, sort=False)]
    frame = pd.DataFrame(rows)
    if rows:
        frame["on_front"] = _front(frame)
    return frame


def _row(part: pd.DataFrame) -> dict[str, Any]:
    claimed = part[(part["group"] != EVERYBODY) & ~part["too_few"]]
    defined = claimed.dropna(subset="gap_toll").set_index("group")["gap_toll"]
    level = claimed["gap_value"].dropna()
    everybody = part[part["group"] == EVERYBODY]
    enough = len(defined) > 1
    differ = enough and defined.max() > defined.min()
    nan = float("nan")
    return {
        "groups": len(defined),
        "seeds": part["gap_seeds"].iloc[0],
        "gap": defined.max() - defined.min() if enough else nan,
        "gap_low": part["gap_low"].iloc[0] if enough else nan,
        "gap_high": part["gap_high"].iloc[0] if enough else nan,
        "worst_group": defined.idxmax() if differ else None,
        "worst_toll": defined.max() if enough else nan,
        "best_group": defined.idxmin() if differ else None,
        "best_toll": defined.min() if enough else nan,
        "disparity": np.ptp(level) if len(level) > 1 else nan,
        "disparity_corrected": part["disparity_corrected"].iloc[0],
        "everybody": MEASURES[part["measure"].iloc[0]].sign * everybody["value"].iloc[0]
        if len(everybody)
        else nan,
        "everybody_toll": everybody["toll"].iloc[0] if len(everybody) else nan,
    }


def _front(frame: pd.DataFrame) -> list[bool]:
    """Return for each row whether it is Pareto-efficient among those at its mechanism and ε."""
    defined = frame.dropna(subset=["everybody", "gap"])
    efficient = set()
    for _, part in defined.groupby(["mechanism", "epsilon"], sort=False):
        utility, gap = part["everybody"].to_numpy(), part["gap"].to_numpy()
        for i, index in enumerate(part.index):
            as_good = (utility >= utility[i]) & (gap <= gap[i])
            better = (utility > utility[i]) | (gap < gap[i])
            if not (as_good & better).any():
                efficient.add(index)
    return [index in efficient for index in frame.index]


def add_gaps(rows: pd.DataFrame, final: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Add the columns that :func:`toll_gap` needs single seeds for; see :func:`~fedtoll.toll.tolls.toll`.

    Parameters
    ----------
    rows
        One row per (strategy, mechanism, epsilon, group), with ``too_few``.
    final
        One row per run and group, with ``toll``, ``value``, ``n`` and ``positives``.

    Returns
    -------
    pandas.DataFrame
        The rows in their order, with ``gap_seeds``, ``gap_low``, ``gap_high``, ``disparity_corrected`` for
        all groups together, and ``gap_toll``, ``gap_value`` of each group.
    """
    claimed = rows.loc[~rows["too_few"] & (rows["group"] != EVERYBODY), [*AT, "group"]]
    final = final.merge(claimed, on=[*AT, "group"])
    denominator = {
        "n": final["n"],
        "positives": final["positives"],
        "negatives": final["n"] - final["positives"],
        "": final["n"] * np.nan,
    }[measure.of]
    final = final.assign(denominator=denominator.astype(float))
    counted = {name: np.zeros(len(final), dtype=bool) for name in ("toll", "value")}
    table = []
    for key, part in final.groupby(AT, sort=False):
        seed, seeds = pd.factorize(part["seed"], sort=True)
        group, names = pd.factorize(part["group"], sort=True)
        toll_SG, value_SG, n_SG = np.full((3, len(seeds), len(names)), np.nan)
        for x_SG, name in ((toll_SG, "toll"), (value_SG, "value"), (n_SG, "denominator")):
            x_SG[seed, group] = part[name]
        for x_SG, name in ((toll_SG, "toll"), (value_SG, "value")):
            counted[name][part.index] = complete(x_SG)[seed]
        table.append((*key, complete(toll_SG).sum(), *gap_interval(toll_SG), between_groups(value_SG, n_SG)))
    columns = [*AT, "gap_seeds", "gap_low", "gap_high", "disparity_corrected"]
    together = pd.DataFrame(table, columns=columns).astype({"epsilon": float})
    final = final.assign(**{f"gap_{name}": final[name].where(kept) for name, kept in counted.items()})
    each = final.groupby([*AT, "group"], sort=False)[["gap_toll", "gap_value"]].mean().reset_index()
    frame = rows.merge(together, "left", on=AT).merge(each, "left", on=[*AT, "group"])
    return frame.assign(gap_seeds=frame["gap_seeds"].fillna(0).astype(int))


def gap_interval(toll_SG: Floats) -> tuple[float, float]:
    """Return a conservative 95% interval of max_g − min_g of expected tolls; see :func:`toll_gap`.

    Parameters
    ----------
    toll_SG
        Shape ``[seeds, groups]``. Groups that are undefined in every seed are dropped first, then seeds in
        which a group is undefined.
    """
    toll_SG = drop_undefined(toll_SG)
    seeds, groups = toll_SG.shape
    if seeds < 2 or groups < 2:
        return float("nan"), float("nan")
    first, second = np.triu_indices(groups, 1)
    difference_SP = toll_SG[:, first] - toll_SG[:, second]
    mean_P = np.abs(difference_SP.mean(axis=0))
    se_P = difference_SP.std(axis=0, ddof=1) / np.sqrt(seeds)
    scale = 1e3 * np.abs(toll_SG).max()  # differences of tolls are rounded relative to the tolls
    alike_P = np.isnan(nan_if_zero(mean_P, scale))  # no gap: a width of zero says nothing wrong
    half_P = half_width(np.where(alike_P, se_P, nan_if_zero(se_P, scale)), seeds, LEVEL / len(first))
    return max(0.0, float((mean_P - half_P).max())), float((mean_P + half_P).max())


def between_groups(rate_SG: Floats, n_SG: Floats) -> float:
    """Return the corrected between-group variance of a rate, averaged over seeds; see :func:`toll_gap`.

    Parameters
    ----------
    rate_SG, n_SG
        The rate of each seed and group and its denominator, shape ``[seeds, groups]``. Groups that are
        undefined in every seed are dropped first, then seeds in which a group is undefined or has one record.

    Examples
    --------
    >>> between_groups(np.array([[0.5, 0.5]]), np.array([[101.0, 101.0]]))  # they differ less than by chance
    -0.0025
    """
    rate_SG = np.where(n_SG > 1, rate_SG, np.nan)
    defined = ~np.isnan(rate_SG)
    groups = defined.any(axis=0)
    seeds = defined[:, groups].all(axis=1)
    rate, n = rate_SG[seeds][:, groups], n_SG[seeds][:, groups]
    if not rate.shape[0] or rate.shape[1] < 2:
        return float("nan")
    spread_S = rate.var(axis=1, ddof=1)
    chance_S = (rate * (1 - rate) / (n - 1)).mean(axis=1)
    return float((spread_S - chance_S).mean())


def drop_undefined(x_SG: Floats) -> Floats:
    """Drop groups that are NaN in every seed, then seeds with a NaN."""
    return x_SG[complete(x_SG)][:, ~np.isnan(x_SG).all(axis=0)]


def complete(x_SG: Floats) -> NDArray[np.bool_]:
    """Return which seeds have every group that is defined in any seed; without such a group, none."""
    undefined = np.isnan(x_SG)
    groups = ~undefined.all(axis=0)
    return np.asarray(~undefined[:, groups].any(axis=1) & groups.any())
