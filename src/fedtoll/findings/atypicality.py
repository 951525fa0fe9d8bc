"""How atypical each group is, and whether its loss correlates with that, seed by seed.

Atypicality is the squared distance between the mean of a group's records and the mean of all others. The mean
of a few records is noisy, so the plain distance would make every small group look atypical. The expected
contribution of chance is therefore subtracted; the result is unbiased and can be negative. It is the
experimenter's view: it needs all records, so no party of the federation could compute it.
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
    """Return the traits of every group that has records, indexed by group name.

    Parameters
    ----------
    table
        All records; only the features and the label count.
    groups
        The group of every record.

    Returns
    -------
    pandas.DataFrame
        ``size``, the number of records; ``atypicality``, NaN with fewer than two records inside or outside
        the group: ‖mean_g x − mean_rest x‖² − Σ_d (s²_g / n_g + s²_rest / n_rest), where x has the features
        and the label (an indicator of each class but the first) and d runs over its coordinates.
    """
    label = np.eye(len(table.classes))[table.label][:, 1:]
    x = np.concatenate([table.features.astype(np.float64), label], axis=1)
    n = groups.counts
    sums, squares = _by_group(x, groups), _by_group(x**2, groups)
    rows = {}
    for code in np.flatnonzero(n):
        inside = _mean_and_error(sums[code], squares[code], int(n[code]))
        outside = _mean_and_error(
            sums.sum(0) - sums[code], squares.sum(0) - squares[code], len(x) - int(n[code])
        )
        distance = float(((inside[0] - outside[0]) ** 2).sum() - inside[1] - outside[1])
        rows[groups.names[code]] = {"size": float(n[code]), "atypicality": distance}
    return pd.DataFrame.from_dict(rows, orient="index")


def _by_group(x: Floats, groups: Attribute) -> Floats:
    """Return the sum of the ``[N, D]`` rows over each group, ``[G, D]``."""
    sums = np.zeros((len(groups.names), x.shape[1]))
    np.add.at(sums, groups.codes, x)
    return sums


def _mean_and_error(total: Floats, squares: Floats, n: int) -> tuple[Floats, float]:
    """Return the mean and the sum over coordinates of its squared standard error."""
    if n < 2:
        return np.full_like(total, np.nan), np.nan
    mean = total / n
    return mean, float((np.maximum(squares / n - mean**2, 0) * n / (n - 1)).sum() / n)


def rank_correlation(
    values: pd.DataFrame, along: pd.Series[float], given: pd.Series[float] | None = None
) -> pd.Series[float]:
    """Return Spearman's correlation over groups for each seed.

    Parameters
    ----------
    values
        One row per seed and one column per group.
    along
        The trait of every group.
    given
        Another trait to control for, which gives the partial correlation of ranks.

    Returns
    -------
    pandas.Series
        NaN where a value is missing, there are fewer than four groups, or all ranks are equal.

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
    complete = values[names].notna().all(axis=1).to_numpy()
    rho = [_correlation(row, trait, other) if ok else np.nan for row, ok in zip(ranks, complete, strict=True)]
    return pd.Series(rho, index=values.index, dtype=float)


DRAWS = 9_999
"""The number of random permutations of the groups; with up to 7 groups all permutations are used."""


def group_permutation_p(
    values: pd.DataFrame, along: pd.Series[float], given: pd.Series[float] | None = None
) -> float:
    """Return the two-sided permutation p-value, over groups, of the correlation of seed-means with a trait.

    All seeds share the same groups. A correlation that every seed repeats is still one sample of groups, so
    more seeds do not add evidence about groups. The trait is permuted against the mean values, which are
    unrelated to it under the null hypothesis; with ``given``, its residual ranks (Freedman and Lane 1983).

    Parameters
    ----------
    values, along, given
        As in :func:`rank_correlation`; seeds with a missing value are left out.

    Returns
    -------
    float
        Exact with up to 7 groups; then (1 + count) / (1 + draws). NaN where the correlation is undefined.

    Examples
    --------
    >>> trait = pd.Series(np.arange(6.0), index=list("abcdef"))
    >>> group_permutation_p(pd.DataFrame([trait, trait]), trait) == 2 / 720
    True
    """
    names = [g for g in values.columns if g in along.index and not np.isnan(along[g])]
    complete = values[names].dropna()
    if len(names) < 4 or not len(complete):
        return float("nan")
    x, y = (np.asarray(v.rank(), dtype=np.float64) for v in (complete.mean(), along[names]))
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
    permuted = y[orders] @ project
    return permutation_p((permuted @ x) / np.sqrt((permuted**2).sum(axis=1).clip(1e-12)))


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
