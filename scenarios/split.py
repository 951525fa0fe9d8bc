"""Which records train, which test and which are public: a table becomes arrays of row numbers.

Folds are the default. Fold ``seed mod k`` is the test set, and the folds
themselves do not depend on the seed, so k consecutive seeds test every record
exactly once: pooled over seeds, even a small group has test records. A public
part does not depend on it either, and is taken away first.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from fedtoll.scenarios.data.table import Attribute, Table
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.streams import Purpose, stream

Rows = npt.NDArray[np.int64]

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
    table: Table, groups: Attribute, kind: Kind, k: int, seed: int, validation: float = 0.0
) -> tuple[Rows, Rows]:
    """Return the training and the test rows of one seed, both ascending; with the public ones they are all.

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
    validation
        The share of the public part, which neither trains nor tests.

    Returns
    -------
    train_rows, test_rows : int64 arrays

    Raises
    ------
    ScenarioError
        If the kind is unknown, k is out of range, or the source has no test set of its own.
    """
    private = _private(table, groups, kind, validation)
    if _is_canonical(kind):
        tested = _canonical_test(table)[private]
    else:
        tested = folds(_strata(table, groups)[private], k) == seed % k
    return private[~tested], private[tested]


def public(table: Table, groups: Attribute, kind: Kind, share: float) -> Rows:
    """Return the rows that are declared public, ascending: the same for every seed, so that none tests them.

    They are a share of every group and label; of the canonical split, of its training part.
    """
    if share == 0:
        return np.empty(0, dtype=np.int64)
    strata = _strata(table, groups)
    if _is_canonical(kind):
        strata = np.where(_canonical_test(table), -1, strata)
    taken = []
    for code in np.unique(strata[strata >= 0]):
        order = stream(0, Purpose.VALIDATION, int(code)).permutation(np.flatnonzero(strata == code))
        taken.append(order[: round(share * len(order))])
    return np.sort(np.concatenate(taken))


def training_share(
    table: Table,
    of: Attribute,
    kind: Kind,
    k: int,
    *,
    groups: Attribute | None = None,
    validation: float = 0.0,
) -> tuple[npt.NDArray[np.int64], int]:
    """Return how many training records every value of an attribute has in expectation, as exact fractions.

    The same for every seed, so public sizes can be made of it.

    Parameters
    ----------
    table, of
        The records, and the value of each.
    kind, k
        The split.
    groups, validation
        The scenario's groups, by which the public part is drawn, and its share.

    Returns
    -------
    numerators : int64 array of shape (len(of.names),)
    denominator : int
        k for folds, 1 for the canonical split.

    Raises
    ------
    ScenarioError
        As :func:`split` does.
    """
    canonical = _is_canonical(kind)
    rows = _private(table, groups or of, kind, validation)
    if canonical:
        rows = rows[~_canonical_test(table)[rows]]
    else:
        _check_folds(k, len(rows))
    counts = np.bincount(of.codes[rows], minlength=len(of.names)).astype(np.int64)
    return (counts, 1) if canonical else (counts * (k - 1), k)


def _strata(table: Table, groups: Attribute) -> Rows:
    return np.asarray(groups.codes * len(table.classes) + table.label, dtype=np.int64)


def _private(table: Table, groups: Attribute, kind: Kind, validation: float) -> Rows:
    """Return the rows that are not public."""
    private = np.ones(len(table), dtype=bool)
    private[public(table, groups, kind, validation)] = False
    return np.flatnonzero(private)


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
