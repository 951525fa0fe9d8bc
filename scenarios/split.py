"""Split a table into training, test and public rows.

By default, fold ``seed mod k`` is the test set. The folds themselves do not depend
on the seed, so k consecutive seeds test every record exactly once, and even a
small group has test records once the seeds are pooled. The public part does not
depend on the seed either and is taken away first.
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
"""Stratified folds, or the source's own test set for every seed."""

KINDS: tuple[Kind, ...] = ("folds", "canonical")


def folds(strata: npt.ArrayLike, k: int) -> npt.NDArray[np.int64]:
    """Return the fold of every record, 0 to k − 1, independent of the seed.

    The sizes of two folds differ by at most one record: overall, in every stratum
    and in every run of consecutive strata. Which records of a stratum share a fold is
    random, because a file may be sorted, but the same on every call.

    Parameters
    ----------
    strata : int array of shape (n,)
        The stratum of every record.
    k
        The number of folds, 2 to n.

    Returns
    -------
    int64 array of shape (n,)

    Raises
    ------
    ScenarioError
        If k is out of range.

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
    fold[order] = np.arange(n) % k  # in turn, without starting over at the next stratum
    return fold


def split(
    table: Table, groups: Attribute, kind: Kind, k: int, seed: int, validation: float = 0.0
) -> tuple[Rows, Rows]:
    """Return the training and the test rows of one seed, both ascending; all other rows are public.

    Parameters
    ----------
    table
        n records.
    groups
        Folds are stratified by group and label, so the training share of a
        group is within one record of its public expectation.
    kind
        ``folds``: test on fold ``seed mod k``. ``canonical``: test on the source's own
        test set; k and seed do not matter.
    validation
        The share of the public part, which is neither trained nor tested on.

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
    """Return the rows that are declared public, ascending; the same for every seed, so that none tests them.

    They are a share of every group and label; with the canonical split, of its training part.
    """
    if share == 0:
        return np.empty(0, dtype=np.int64)
    strata = _strata(table, groups)
    if _is_canonical(kind):
        strata = np.where(_canonical_test(table), -1, strata)
    chosen = []
    for code in np.unique(strata[strata >= 0]):
        order = stream(0, Purpose.VALIDATION, int(code)).permutation(np.flatnonzero(strata == code))
        chosen.append(order[: round(share * len(order))])
    return np.sort(np.concatenate(chosen))


def training_share(
    table: Table,
    attribute: Attribute,
    kind: Kind,
    k: int,
    *,
    groups: Attribute | None = None,
    validation: float = 0.0,
) -> tuple[npt.NDArray[np.int64], int]:
    """Return the expected number of training records of every value of an attribute, as exact fractions.

    It is the same for every seed, so public sizes can be derived from it.

    Parameters
    ----------
    table, attribute
        The records, and the value of each.
    kind, k
        The split.
    groups, validation
        The scenario's groups, by which the public part is drawn, and its share.

    Returns
    -------
    numerators : int64 array of shape (len(attribute.names),)
    denominator : int
        k for folds, 1 for the canonical split.

    Raises
    ------
    ScenarioError
        In the same cases as :func:`split`.
    """
    canonical = _is_canonical(kind)
    rows = _private(table, groups or attribute, kind, validation)
    if canonical:
        rows = rows[~_canonical_test(table)[rows]]
    else:
        _check_folds(k, len(rows))
    counts = np.bincount(attribute.codes[rows], minlength=len(attribute.names)).astype(np.int64)
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
