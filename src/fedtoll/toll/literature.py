"""The toll in the terms of two papers, for comparison with their results."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll.gap import AT, toll_gap
from fedtoll.toll.limits import ResultsLike
from fedtoll.toll.tolls import ROW, results_toll

_TOLL = ["toll", "toll_se", "toll_low", "toll_high"]


def literature(results: ResultsLike, tolls: Mapping[str, pd.DataFrame] | None = None) -> pd.DataFrame:
    """Return privacy cost (Esipova et al. 2023) and excessive risk (Tran et al. 2021) of every group.

    - Privacy cost π_a = acc(θ*; D_a) − acc(θ̃; D_a), the toll in accuracy; its gap is max − min over groups.
    - Excessive risk R_a = E[L(θ̃; D_a)] − L(θ*; D_a), the toll in log-loss, with the expectation over seeds;
      fairness gap ξ_a = |R_a − R|, where R is the excessive risk over all records.

    θ* is trained without privacy and θ̃ with privacy. The papers measure on the training records of a
    central model, fedtoll on held-out records and in pairs of the same seed.

    Parameters
    ----------
    results
        The results of a scenario.
    tolls
        The results' tolls in ``accuracy`` and ``log_loss``, if already computed.

    Returns
    -------
    pandas.DataFrame
        One row per (strategy, mechanism, epsilon, group): ``n``, ``positives``, ``seeds``, ``privacy_cost``,
        ``privacy_cost_se``, ``privacy_cost_low``, ``privacy_cost_high``, ``privacy_cost_gap`` (of the seed
        means, over the groups with enough records; repeated in each group's row), ``excessive_risk`` (nats),
        ``excessive_risk_se``, ``excessive_risk_low``, ``excessive_risk_high``, ``fairness_gap``, ``too_few``,
        ``collapsed``, ``below_majority``. The 95% intervals are those of the tolls. "(all)" has no fairness
        gap; NaN without a run at ∞.
    """
    if tolls is None:
        tolls = {m: results_toll(results, m) for m in ("accuracy", "log_loss")}
    accuracy, loss = tolls["accuracy"], tolls["log_loss"]
    flags = ["n", "positives", "seeds", "too_few", "collapsed", "below_majority"]
    cost, risk = (
        [f"{name}{end}" for end in ("", "_se", "_low", "_high")]
        for name in ("privacy_cost", "excessive_risk")
    )
    frame = accuracy.rename(columns=dict(zip(_TOLL, cost, strict=True)))[[*ROW, *flags, *cost]].merge(
        loss.rename(columns=dict(zip(_TOLL, risk, strict=True)))[[*ROW, *risk]], on=ROW
    )
    gaps = toll_gap(accuracy)[[*AT, "gap"]].rename(columns={"gap": "privacy_cost_gap"})
    frame = frame.merge(gaps, "left", on=AT)
    everybody = frame["group"] == EVERYBODY
    whole = frame.loc[everybody, [*ROW[:3], "excessive_risk"]].rename(columns={"excessive_risk": "whole"})
    frame = frame.merge(whole, "left", on=ROW[:3])
    frame["fairness_gap"] = (
        (frame["excessive_risk"] - frame["whole"]).abs().where(frame["group"] != EVERYBODY)
    )
    return frame[[*ROW, *flags[:3], *cost, "privacy_cost_gap", *risk, "fairness_gap", *flags[3:]]]
