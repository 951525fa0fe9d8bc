"""How fast utility grows with ε: one slope a seed, then their mean."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedtoll.scenarios.measures import measure_named
from fedtoll.toll.intervals import t_interval
from fedtoll.toll.tolls import counted, paired


def slopes(groups: pd.DataFrame, measure: str = "log_loss", folds: int | None = None) -> pd.DataFrame:
    """Return each group's slope of utility over log ε (natural logarithm), by strategy.

    The least-squares slope is taken per seed and then averaged: noise is shared over ε, so the points of one
    seed lie on one smooth curve, and pooling them would count one draw several times.

    Parameters
    ----------
    groups
        The results' table of groups.
    measure
        A name of :data:`MEASURES`; its utility grows with ε where privacy costs.
    folds
        As :func:`~fedtoll.toll.tolls.toll` takes it.

    Returns
    -------
    pandas.DataFrame
        One row a (strategy, group): ``epsilons`` (how many finite ones), ``n``, ``positives`` (pooled),
        ``runs`` (seeds run), ``seeds`` (with utility defined at every ε: those behind the slope),
        ``slope``, ``slope_low``, ``slope_high`` (utility a unit of ln ε, 95% t interval over seeds),
        ``too_few``, and ``collapsed`` and ``below_majority``, shares of runs over all ε. NaN with fewer than
        two ε.
    """
    measure_named(measure)
    final = paired(groups, measure)
    final = final[final["mechanism"] == "dp-sgd"]
    flags = counted(final, folds).reset_index()
    rows = []
    for (strategy, group), part in final.groupby(["strategy", "group"], sort=False):
        wide = part.pivot(index="seed", columns="epsilon", values="utility")  # noqa: PD010
        own = flags[(flags["strategy"] == strategy) & (flags["group"] == group)]
        slope = _slopes(np.log(wide.columns.to_numpy(dtype=float)), wide.to_numpy(dtype=float))
        mean, low, high = t_interval(slope)
        rows.append(
            {
                "strategy": strategy,
                "group": group,
                "measure": measure,
                "epsilons": wide.shape[1],
                "n": own["n"].max(),
                "positives": own["positives"].max(),
                "runs": len(wide),
                "seeds": int(np.count_nonzero(~np.isnan(slope))),
                "slope": float(mean),
                "slope_low": float(low),
                "slope_high": float(high),
                "too_few": bool(own["too_few"].any()),
                "collapsed": float(part["collapsed"].mean()),
                "below_majority": float(part["below_majority"].mean()),
            }
        )
    return pd.DataFrame(rows)


def _slopes(x_E: np.ndarray, y_SE: np.ndarray) -> np.ndarray:
    """Return the slope of each row; NaN where one of its values is, or with fewer than two x."""
    centred = x_E - x_E.mean()
    if len(x_E) < 2:
        return np.full(len(y_SE), np.nan)
    return np.asarray(y_SE @ centred / (centred @ centred))
