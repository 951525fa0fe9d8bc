"""How fast utility grows with ε: the mean of one slope per seed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fedtoll.scenarios.measures import measure_named
from fedtoll.toll.intervals import seed_interval
from fedtoll.toll.tolls import paired, record_counts


def slopes(groups: pd.DataFrame, measure: str = "log_loss", folds: int | None = None) -> pd.DataFrame:
    """Return the slope of every group's utility over ln ε, by strategy.

    The least-squares slope is fitted per seed and then averaged. Noise is shared across ε, so the points of
    one seed lie on a smooth curve; pooling them would count one draw several times.

    Parameters
    ----------
    groups
        The results' table of groups.
    measure
        A name of :data:`MEASURES`. If privacy costs utility, the slope is positive.
    folds
        The number of disjoint test sets, as for :func:`~fedtoll.toll.tolls.toll`.

    Returns
    -------
    pandas.DataFrame
        One row per (strategy, group): ``epsilons`` (number of finite ε), ``n``, ``positives`` (pooled),
        ``runs`` (seeds run), ``seeds`` (seeds with utility defined at every ε, which the slope is based on),
        ``slope``, ``slope_low``, ``slope_high`` (utility per unit of ln ε, 95% interval over seeds),
        ``too_few``, and ``collapsed`` and ``below_majority`` (shares of runs over all ε). NaN with fewer than
        two ε.
    """
    measure_named(measure)
    final = paired(groups, measure)
    final = final[final["mechanism"] == "dp-sgd"]
    counts = record_counts(final, folds).reset_index()
    rows = []
    for (strategy, group), part in final.groupby(["strategy", "group"], sort=False):
        wide = part.pivot(index="seed", columns="epsilon", values="utility")  # noqa: PD010
        count = counts[(counts["strategy"] == strategy) & (counts["group"] == group)]
        slope = _slopes(np.log(wide.columns.to_numpy(dtype=float)), wide.to_numpy(dtype=float))
        mean, low, high = seed_interval(slope)
        rows.append(
            {
                "strategy": strategy,
                "group": group,
                "measure": measure,
                "epsilons": wide.shape[1],
                "n": count["n"].max(),
                "positives": count["positives"].max(),
                "runs": len(wide),
                "seeds": int(np.count_nonzero(~np.isnan(slope))),
                "slope": float(mean),
                "slope_low": float(low),
                "slope_high": float(high),
                "too_few": bool(count["too_few"].any()),
                "collapsed": float(part["collapsed"].mean()),
                "below_majority": float(part["below_majority"].mean()),
            }
        )
    return pd.DataFrame(rows)


def _slopes(x_E: np.ndarray, y_SE: np.ndarray) -> np.ndarray:
    """Return the slope of each row; NaN if a value in the row is NaN or there are fewer than two x."""
    centred = x_E - x_E.mean()
    if len(x_E) < 2:
        return np.full(len(y_SE), np.nan)
    return np.asarray(y_SE @ centred / (centred @ centred))
