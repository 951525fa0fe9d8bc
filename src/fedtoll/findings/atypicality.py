"""How unlike the crowd each group is, and whether what it loses goes with that, seed by seed.

Atypicality is a squared distance between means: of a group's records, and of all other records. A mean over
few records is off by chance, so the plain distance would call every small group atypical; what chance is
expected to add is taken off, and the rest is unbiased and may be negative. It is the experimenter's view:
computed from all records, by nobody in the federation.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedtoll.scenarios.data.table import Attribute, Table
from fedtoll.toll.intervals import permutation_p

Floats = NDArray[np.float64]


def traits(table: Table, groups: Attribute) -> pd.DataFrame:
    """Return the traits of every group that has records, indexed by its name.

    Parameters
    ----------
    table
        All records; what is not among the features does not count.
    groups
        The group of every record.

    Returns
    -------
    pandas.DataFrame
        ``size``, its records; ``atypicality``, NaN with fewer than two records inside or outside: with x the
        features and the label (an indicator of each class but the first), d features in all,
        ‖mean_g x − mean_rest x‖² − Σ_d (s²_g / n_g + s²_rest / n_rest).
    """
    label = np.eye(len(table.classes))[table.label][:, 1:]
    x = np.concatenate([table.features.astype(np.float64), label], axis=1)
    n = groups.counts
    sums, squares = _by_group(x, groups), _by_group(x**2, groups)
    made = {}
    for code in np.flatnonzero(n):
        inside = _mean_and_error(sums[code], squares[code], int(n[code]))
        outside = _mean_and_error(
            sums.sum(0) - sums[code], squares.sum(0) - squares[code], len(x) - int(n[code])
        )
        apart = float(((inside[0] - outside[0]) ** 2).sum() - inside[1] - outside[1])
        made[groups.names[code]] = {"size": float(n[code]), "atypicality": apart}
    return pd.DataFrame.from_dict(made, orient="index")


def _by_group(x: Floats, groups: Attribute) -> Floats:
    """Return the sum of ``[N, D]`` rows of every group, ``[G, D]``."""
    made = np.zeros((len(groups.names), x.shape[1]))
    np.add.at(made, groups.codes, x)
    return made


def _mean_and_error(total: Floats, squares: Floats, n: int) -> tuple[Floats, float]:
    """Return the mean, and the sum over coordinates of its squared standard error."""
    if n < 2:
        return np.full_like(total, np.nan), np.nan
    mean = total / n
    return mean, float((np.maximum(squares / n - mean**2, 0) * n / (n - 1)).sum() / n)


def rank_correlation(
    values: pd.DataFrame, along: pd.Series[float], given: pd.Series[float] | None = None
) -> pd.Series[float]:
    """Return Spearman's correlation over groups, one a seed.

    Parameters
    ----------
    values
        One row a seed, one column a group.
    along
        The trait of every group.
    given
        Another trait that is held constant: the partial correlation of ranks.

    Returns
    -------
    pandas.Series
        NaN where a value is missing, where there are fewer than four groups, or where ranks do not differ.

    Examples
    --------
    >>> values = pd.DataFrame({"a": [1.0, 4.0], "b": [2.0, 3.0], "c": [3.0, 2.0], "d": [4.0, 1.0]})
    >>> rank_correlation(values, pd.Series({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.9})).round(6).tolist()
    [1.0, -1.0]
    """
    names = [g for g in values.columns if g in along.index and not np.isnan(along[g])]
    if len(names) < 4:
        return pd.Series(np.nan, index=values.index)
    trait = np.asarray(along[names].rank(), dtype=np.float64)
    other = None if given is None else np.asarray(given[names].rank(), dtype=np.float64)
    ranks = values[names].rank(axis=1).to_numpy()
    whole = values[names].notna().all(axis=1).to_numpy()
    made = [_correlation(row, trait, other) if ok else np.nan for row, ok in zip(ranks, whole, strict=True)]
    return pd.Series(made, index=values.index, dtype=float)


DRAWS = 9_999
"""Shuffles of the groups, from a fixed stream; up to 7 groups all of them are gone through."""


def shuffled(values: pd.DataFrame, along: pd.Series[float], given: pd.Series[float] | None = None) -> float:
    """Return p of the correlation of seed-means with a trait when groups are shuffled, two-sided.

    Seeds share their groups: a correlation that every seed repeats is one draw of groups, and more seeds do
    not make it more. The trait is shuffled against the mean values, which do not go with it under the null;
    with ``given``, what is left of its ranks beyond that (Freedman and Lane 1983).

    Parameters
    ----------
    values, along, given
        As of :func:`rank_correlation`; seeds in which a value is missing are left out.

    Returns
    -------
    float
        Exact up to 7 groups; then (1 + count) / (1 + draws). NaN where there is no correlation.

    Examples
    --------
    >>> trait = pd.Series(np.arange(6.0), index=list("abcdef"))
    >>> shuffled(pd.DataFrame([trait, trait]), trait) == 2 / 720
    True
    """
    names = [g for g in values.columns if g in along.index and not np.isnan(along[g])]
    whole = values[names].dropna()
    if len(names) < 4 or not len(whole):
        return float("nan")
    x, y = (np.asarray(v.rank(), dtype=np.float64) for v in (whole.mean(), along[names]))
    z = np.ones((len(names), 1))
    if given is not None:
        z = np.column_stack([z, given[names].rank()])
    project = np.eye(len(names)) - z @ np.linalg.pinv(z)
    x, y = project @ x, project @ y
    if min(x @ x, y @ y) < 1e-9:
        return float("nan")
    if len(names) <= 7:
        orders = np.array(list(itertools.permutations(range(len(names)))))
    else:
        rng = np.random.default_rng(0)
        drawn = rng.permuted(np.tile(np.arange(len(names)), (DRAWS, 1)), axis=1)
        orders = np.concatenate([np.arange(len(names))[None], drawn])
    dealt = y[orders] @ project
    return permutation_p((dealt @ x) / np.sqrt((dealt**2).sum(axis=1).clip(1e-12)))


def _correlation(x: Floats, y: Floats, z: Floats | None) -> float:
    r = _pearson(x, y)
    if z is None:
        return r
    xz, yz = _pearson(x, z), _pearson(y, z)
    rest = (1 - xz**2) * (1 - yz**2)
    return float((r - xz * yz) / np.sqrt(rest)) if rest > 1e-12 else float("nan")


def _pearson(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else float("nan")
