"""The toll and the price of every group, in pairs of runs with the same seed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedtoll.scenarios.measures import RUN, measure_named
from fedtoll.toll.gap import add_gaps
from fedtoll.toll.intervals import half_width, hall_ends, mean_skewness, nan_if_zero
from fedtoll.toll.limits import ResultsLike, folds_of, price_reference, too_few

ROW = ["strategy", "mechanism", "epsilon", "group"]
"""The columns that name one row of :func:`toll`."""


def results_toll(results: ResultsLike, measure: str = "log_loss") -> pd.DataFrame:
    """Return :func:`toll` for a results folder, with the folds and the price reference of its scenario.

    Parameters
    ----------
    results
        The results of a scenario.
    measure
        A name of :data:`MEASURES`.
    """
    resolved = results.resolved
    return toll(results.groups, measure, folds_of(resolved), price_reference(resolved))


def toll(
    groups: pd.DataFrame,
    measure: str = "log_loss",
    folds: int | None = None,
    reference: str | None = "fedavg",
) -> pd.DataFrame:
    """Return the toll and the price of every group at the final round.

    Intervals are studentised over seeds and corrected for skewness (Hall 1992;
    :func:`~fedtoll.toll.intervals.seed_interval`). The estimand is the mean over all seeds that could be
    drawn, for *this* table of records. For the population that the table was drawn from, see
    :func:`~fedtoll.toll.joint.joint_intervals`. On real runs of adult-race, with ten seeds, they cover the
    mean of other seeds in 92 to 97%, by group and block of seeds, where t intervals cover in 90 to 98%
    (``benchmarks/coverage.py``).

    Parameters
    ----------
    groups
        The results' table of groups: one row per run, round and group.
    measure
        A name of :data:`MEASURES`. If lower is better, the utility is minus the measure.
    folds
        The number of disjoint test sets that the seeds cycle through (:func:`folds_of`), so that no test
        record is counted twice in ``n``. ``None``: every seed has its own test records.
    reference
        Label of the strategy that prices refer to, FedAvg by default. A label does not identify a strategy:
        for a results folder, :func:`price_reference` returns the right one. ``None`` leaves prices undefined.

    Returns
    -------
    pandas.DataFrame
        One row per (strategy, mechanism, epsilon, group), from no privacy to the tightest, with

        - ``measure``; ``n``, ``positives``: test records pooled over the distinct test sets;
          ``n_per_seed``, ``positives_per_seed``: the average per test set; ``too_few``: whether the pooled
          records are too few for a claim
        - ``runs``: seeds run; ``seeds``: number of pairs; ``undefined``: seeds dropped because the measure is
          undefined on either side of the pair
        - ``value``, ``value_sd``: mean and standard deviation of the measure over all seeds run;
          ``paired_value``: its mean over the pairs, so that ``paired_value`` and ``toll`` have the same seeds
        - ``toll``, ``toll_se``, ``toll_low``, ``toll_high``: U(∞) − U(ε) with a 95% interval. NaN without a
          run at ∞; with one seed all but ``toll`` are NaN. There is no interval either if all seeds give
          exactly the same toll, because the measure is then too coarse. A rate's ends are within −1 and 1
        - ``clipping``, ``clipping_se``: the part of the toll due to clipping alone, U(∞) − U(clip-only), in
          each dp-sgd row; ``noise``, ``noise_se``: the rest, U(clip-only) − U(ε), paired. Both use the
          ``part_seeds`` seeds with all three runs, so the parts add up to the toll over these; NaN without
          clip-only runs
        - ``price``, ``price_se``, ``price_low``, ``price_high``: U(reference at ∞) − U(ε); NaN without the
          reference at ∞
        - ``collapsed``, ``below_majority``: share of seeds with this flag
        - ``gap_seeds``, ``gap_low``, ``gap_high``, ``disparity_corrected``: for all groups together, repeated
          in each row; ``gap_toll``, ``gap_value``: the group's toll and measure over the seeds that have all
          groups, NaN for groups that take no part; see :func:`~fedtoll.toll.gap.toll_gap`

    Raises
    ------
    ScenarioError
        If the measure is unknown.
    """
    final = paired(groups, measure, reference)
    frame = record_counts(final, folds).join(
        final.assign(paired_value=final["value"].where(final["toll"].notna()))
        .groupby(ROW, sort=False)
        .agg(
            runs=("seed", "size"),
            seeds=("toll", "count"),
            undefined=("undefined", "sum"),
            value=("value", "mean"),
            value_sd=("value", "std"),
            paired_value=("paired_value", "mean"),
            toll=("toll", "mean"),
            toll_se=("toll", "sem"),
            toll_skew=("toll", "skew"),
            part_seeds=("clipping", "count"),
            clipping=("clipping", "mean"),
            clipping_se=("clipping", "sem"),
            noise=("noise", "mean"),
            noise_se=("noise", "sem"),
            price=("price", "mean"),
            price_se=("price", "sem"),
            price_skew=("price", "skew"),
            priced=("price", "count"),
        )
    )
    non_private = frame.index.get_level_values("mechanism") == "none"
    for name, seeds in (("toll", "seeds"), ("price", "priced")):
        mean, n = frame[name], frame[seeds]
        se = np.where(non_private, frame[f"{name}_se"], nan_if_zero(frame[f"{name}_se"], mean.abs()))
        moment = frame[f"{name}_skew"].fillna(0) * (n - 2) / (n * (n - 1)).clip(lower=1) ** 0.5  # g₁ from G₁
        ends = hall_ends(mean, se, half_width(1.0, n), mean_skewness(moment, n))
        most = np.inf if measure_named(measure).unit else 1.0  # rates differ by at most 1
        frame[f"{name}_low"], frame[f"{name}_high"] = np.clip(ends, -most, most)
    frame = frame.drop(columns=["priced", "toll_skew", "price_skew"]).reset_index()
    frame.insert(4, "measure", measure)
    return sort_by_privacy(add_gaps(frame, final, measure_named(measure)))


def paired(groups: pd.DataFrame, measure: str, reference: str | None = None) -> pd.DataFrame:
    """Return one row per run and group at the final round, with the toll, its parts and the price.

    Adds columns to those of ``groups``: ``value``; ``utility``; this seed's ``toll``, ``clipping``, ``noise``
    and ``price``; and ``undefined``, whether the measure is undefined on either side of this seed's pair.
    """
    sign = measure_named(measure).sign
    last = groups.groupby(RUN, sort=False)["round"].transform("max")
    final = groups[groups["round"] == last]
    final = final.assign(value=final[measure].astype(float))
    final["utility"] = sign * final["value"]
    key = ["strategy", "seed", "group"]
    for mechanism, name in (("none", "reference"), ("clip-only", "clipped")):
        other = final.loc[final["mechanism"] == mechanism, [*key, "utility"]].rename(
            columns={"utility": name}
        )
        final = final.merge(other.assign(**{f"has_{name}": True}), "left", on=key, validate="many_to_one")
    free = (final["mechanism"] == "none") & (final["strategy"] == reference)
    best = final.loc[free, ["seed", "group", "utility"]].rename(columns={"utility": "price_base"})
    final = final.merge(best, "left", on=["seed", "group"], validate="many_to_one")
    final["toll"] = final["reference"] - final["utility"]
    final["price"] = final["price_base"] - final["utility"]
    split = (final["reference"] - final["clipped"]).where(
        (final["mechanism"] == "dp-sgd") & final["toll"].notna()
    )
    final["clipping"] = split
    final["noise"] = final["toll"] - split
    final["undefined"] = final["utility"].isna() | (
        final["has_reference"].notna() & final["reference"].isna()
    )
    return final.drop(columns=["has_reference", "has_clipped"])


def record_counts(final: pd.DataFrame, folds: int | None) -> pd.DataFrame:
    """Return records, positives and flags by :data:`ROW`, as documented in :func:`toll`."""
    final = final.assign(fold=final["seed"] % (folds or np.inf))
    pooled = final.groupby([*ROW, "fold"], sort=False)[["n", "positives"]].mean()
    pooled = pooled.groupby(ROW, sort=False).sum(min_count=1).round().astype({"n": int})
    if pooled["positives"].notna().all():  # with more than two classes there are no positives
        pooled = pooled.astype({"positives": int})
    flags = final.groupby(ROW, sort=False).agg(
        n_per_seed=("n", "mean"),
        positives_per_seed=("positives", "mean"),
        collapsed=("collapsed", "mean"),
        below_majority=("below_majority", "mean"),
    )
    frame = pooled.join(flags)
    frame["too_few"] = too_few(frame["n"], frame["positives"])
    return frame


def sort_by_privacy(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort from no privacy to the tightest; strategies and groups keep their order of appearance."""
    if frame.empty:
        return frame
    rank = frame["mechanism"].map({"none": 0, "clip-only": 1, "dp-sgd": 2})
    strategy = frame["strategy"].map({s: i for i, s in enumerate(frame["strategy"].unique())})
    keys = pd.DataFrame({"rank": rank, "tightness": -frame["epsilon"], "strategy": strategy})
    order = keys.sort_values(["rank", "tightness", "strategy"], kind="stable").index
    return frame.loc[order].reset_index(drop=True)
