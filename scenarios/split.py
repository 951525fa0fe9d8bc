"""Which records train and which test: a table becomes two arrays of row numbers.

Folds are the default. Fold ``seed mod k`` is the test set, and the folds
themselves do not depend on the seed, so k consecutive seeds test every record
exactly once: pooled over seeds, even a small group has test records.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from fedtoll.scenarios.data.table import Attribute, Table
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.streams import Purpose, stream

Kind = Literal["folds", "canonical"]
"""Stratified folds, or the source's own test set whatever the seed."""

KINDS: tuple[Kind, ...] = ("folds", "canonical")


def folds(strata: npt.ArrayLike, k: int) -> npt.NDArray[np.int64]:
    """Return the fold of every record, 0 to k − 1: the same on every call, whatever the seed.

    Within every stratum, and overall, two folds differ by at most one record;
    so they do within every run of consecutive strata. Which records of a
    stratum share a fold is drawn once and for all, because a file may be sorted.

    Parameters
    ----------
    strata : int array of shape (n,)
        The stratum of every record.
    k
        How many folds, 2 to n.

    Returns
    -------
    int64 array of shape (n,)

    Raises
    ------
    ScenarioError
        If k is out of its range.

    Examples
    --------
    >>> np.bincount(folds([0, 0, 0, 0, 1, 1, 1], 2))
    array([4, 3])
    """
    codes = np.asarray(strata)
    n = len(codes)
    _check_folds(k, n)
    order = stream(0, Purpose.SPLIT).permutation(n)
    order = order[np.argsort(codes[order], kind="stable")]
    fold = np.empty(n, dtype=np.int64)
    fold[order] = np.arange(n) % k  # dealt in turn, on from one stratum to the next
    return fold


def split(
    table: Table, groups: Attribute, kind: Kind, k: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the training and the test rows of one seed, both ascending; together they are all rows.

    Parameters
    ----------
    table
        n records.
    groups
        Folds are stratified by group and label, so the training share of a
        group is within one record of its public expectation.
    kind
        ``folds``: fold ``seed mod k`` is tested. ``canonical``: the source's
        own test set is tested; k and seed do not matter.

    Returns
    -------
    train_rows, test_rows : int64 arrays

    Raises
    ------
    ScenarioError
        If the kind is unknown, k is out of range, or the source has no test set of its own.
    """
    if _is_canonical(kind):
        tested = _canonical_test(table)
    else:
        tested = folds(groups.codes * len(table.classes) + table.label, k) == seed % k
    return np.flatnonzero(~tested), np.flatnonzero(tested)


def validation(
    table: Table, groups: Attribute, train_rows: npt.NDArray[np.int64], share: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Take a share of the training rows of every group and label away, to be declared public.

    Returns
    -------
    train_rows, validation_rows : int64 arrays
        Both ascending; together they are what was given.
    """
    if share == 0:
        return train_rows, train_rows[:0]
    strata = (groups.codes * len(table.classes) + table.label)[train_rows]
    taken = np.zeros(len(train_rows), dtype=bool)
    for code in np.unique(strata):
        members = np.flatnonzero(strata == code)
        order = stream(seed, Purpose.VALIDATION, int(code)).permutation(members)
        taken[order[: round(share * len(members))]] = True
    return train_rows[~taken], train_rows[taken]


def training_share(table: Table, groups: Attribute, kind: Kind, k: int) -> tuple[npt.NDArray[np.int64], int]:
    """Return how many training records every group has in expectation, as exact fractions.

    The same for every seed, so public sizes can be made of it.

    Returns
    -------
    numerators : int64 array of shape (len(groups.names),)
    denominator : int
        k for folds, 1 for the canonical split.

    Raises
    ------
    ScenarioError
        As :func:`split` does.
    """
    if _is_canonical(kind):
        train = groups.codes[~_canonical_test(table)]
        return np.bincount(train, minlength=len(groups.names)).astype(np.int64), 1
    _check_folds(k, len(table))
    return groups.counts * (k - 1), k


def _is_canonical(kind: str) -> bool:
    if kind not in KINDS:
        raise ScenarioError(f"split: no kind {kind!r}{nearest(kind, KINDS)}")
    return kind == "canonical"


def _check_folds(k: int, n: int) -> None:
    if n < 2:
        raise ScenarioError(f"split: {n} records cannot be split into a training and a test part")
    if not 2 <= k <= n:
        raise ScenarioError(f"split: {k} folds of {n} records; give a number from 2 to {n}")


def _canonical_test(table: Table) -> npt.NDArray[np.bool_]:
    if table.canonical_test is None:
        raise ScenarioError(
            f"split: data {table.source!r} has no canonical test set; did you mean kind = 'folds'?"
        )
    return table.canonical_test
