"""Who holds which records: training rows become clients.

A client's *public size* is a constant of the plan, counted once from the whole
table's public counts: neither the seed nor the records that the client comes to
hold change it. Sampling rate, steps and batch normaliser follow from it, so that
they reveal nothing about any record; the number of rows held may differ from it
by a few, and nobody ever recounts. The seed deals the records.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fedtoll.scenarios.data.table import Attribute, Table
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.scenario import Partition, Split
from fedtoll.scenarios.split import Kind, training_share
from fedtoll.scenarios.streams import Purpose, stream

Rows = npt.NDArray[np.int64]
"""Ascending row numbers of a table."""

Shares = npt.NDArray[np.float64]

OTHERS = "*"
"""In ``per_group``: every group that is not named."""


@dataclasses.dataclass(frozen=True)
class Client:
    """What is public about a client.

    Parameters
    ----------
    id
        0, 1, ... in the order of the plan; the partition id of a Flower node.
    group
        The group whose records it holds; empty where it may hold records of any.
    size
        Its public size: a declared number of records, at least 1.
    """

    id: int
    group: str
    size: int


def clients(
    table: Table,
    groups: Attribute,
    per_group: Mapping[str, int],
    kind: Kind,
    k: int,
    *,
    public_by: Attribute | None = None,
    validation: float = 0.0,
) -> tuple[Client, ...]:
    """Return the clients of a partition by group: each holds records of one group.

    Parameters
    ----------
    table, groups
        The records and the group of each; only the groups' counts are used.
    per_group
        The number of clients of a group, by its name; ``"*"`` stands for the
        groups not named, 1 where it is not given.
    kind, k
        The split, whose training share makes the public sizes:
        ⌊n (k − 1) / k / m⌋ for folds, ⌊canonical training count / m⌋ for the
        canonical split, for a group of n records and m clients.
    public_by, validation
        The groups by which the public part is drawn (by default these), and its share: it is no part of n.

    Returns
    -------
    tuple of Client
        In the order of the groups' codes, ids from 0.

    Raises
    ------
    ScenarioError
        If a name is not a group's, a number is not positive, a group has no
        record, or its training records are too few for its clients.
    """
    for name, number in per_group.items():
        if name != OTHERS and name not in groups.names:
            raise ScenarioError(f"partition: no group {name!r} of {groups.name}{nearest(name, groups.names)}")
        if number < 1:
            raise ScenarioError(f"partition: {number} clients of group {name!r}; give 1 or more")
    counts = groups.counts
    numerators, denominator = training_share(table, groups, kind, k, groups=public_by, validation=validation)
    made: list[Client] = []
    for code, name in enumerate(groups.names):
        number = per_group.get(name, per_group.get(OTHERS, 1))
        if counts[code] == 0:
            raise ScenarioError(
                f"partition: group {name!r} of {groups.name} has no record in {table.source!r}"
            )
        size = int(numerators[code]) // (denominator * number)
        if size < 1:
            raise ScenarioError(
                f"partition: group {name!r} of {groups.name} has {counts[code]} records, "
                f"{int(numerators[code]) // denominator} for training: too few for {number} clients"
            )
        made += [Client(len(made) + i, name, size) for i in range(number)]
    return tuple(made)


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """A partition, planned.

    Parameters
    ----------
    clients
        In the order of the plan.
    strata
        The stratum of every record: shares are of strata.
    shares_KS
        The share of each stratum that each client holds; columns sum to 1.
    in_turn
        Whether a stratum's records are dealt in turn to the clients that have a share, which is the same
        for all of them.
    expected_KG
        How many records of each group a client is expected to hold: public, like the sizes.
    """

    clients: tuple[Client, ...]
    strata: Attribute
    shares_KS: Shares
    in_turn: bool
    expected_KG: Shares


def layout(table: Table, groups: Attribute, how: Partition, split: Split) -> Layout:
    """Plan a partition.

    Raises
    ------
    ScenarioError
        If a name is unknown, a client would hold nothing, or a matrix does not fit.
    """
    for name in how.keep:
        if name not in groups.names:
            raise ScenarioError(f"partition.keep: no group {name!r}{nearest(name, groups.names)}")
    declared: tuple[str, ...] = ()
    if how.kind in {"group", "column"}:
        strata, of = _holders(table, groups, how, split)
        shares = np.array([[float(s == name) for s in strata.names] for name in of])
        shares /= shares.sum(axis=0)
        declared = of if how.kind == "group" else ()
    elif how.kind == "shares":
        strata, shares = groups, _stated(groups, how)
    else:
        strata, shares = _drawn(table, groups, how)
    in_turn = how.kind in {"group", "column"} or (how.kind == "iid" and how.skew == 0)
    expected = shares @ _training_counts(table, groups, strata, how, split) * how.copies
    sizes = np.floor(expected.sum(axis=1) + 1e-6).astype(int)
    if sizes.min() < 1:
        raise ScenarioError(
            f"partition: client {sizes.argmin()} of {len(sizes)} would hold none of "
            f"{math.floor(expected.sum())} training records; give fewer clients or larger shares"
        )
    made = tuple(Client(k, declared[k] if declared else "", int(n)) for k, n in enumerate(sizes))
    return Layout(made, strata, shares, in_turn, expected)


def _holders(
    table: Table, groups: Attribute, how: Partition, split: Split
) -> tuple[Attribute, tuple[str, ...]]:
    """Return the strata, and the one of which each client holds records."""
    strata = groups
    if how.kind == "column":
        if how.column not in table.attributes:
            raise ScenarioError(
                f"partition.column = {how.column!r}: no attribute of {table.source!r}"
                f"{nearest(how.column, table.attributes)}"
            )
        strata = table.attributes[how.column]
    assert isinstance(how.clients, dict)
    made = clients(
        table,
        strata,
        how.clients,
        split.kind,
        split.folds,
        public_by=groups,
        validation=split.validation,
    )
    of = tuple(c.group for c in made)
    for name in strata.names:
        if of.count(name) < how.copies:
            raise ScenarioError(
                f"partition.copies = {how.copies}: {name!r} has {of.count(name)} clients; "
                f"give {how.copies} or more"
            )
    return strata, of


def _stated(groups: Attribute, how: Partition) -> Shares:
    """Return the matrix of shares that a scenario states."""
    shares = np.array(how.shares)
    if shares.shape[1] != len(groups.names):
        raise ScenarioError(
            f"partition.shares: {shares.shape[1]} columns for {len(groups.names)} groups: "
            f"{', '.join(groups.names)}"
        )
    sums = shares.sum(axis=0)
    for name, total in zip(groups.names, sums, strict=True):
        if abs(total - 1) > 1e-6:
            raise ScenarioError(f"partition.shares: the shares of {name!r} add up to {total:.6g}, not 1")
    return np.asarray(shares / sums)


def _drawn(table: Table, groups: Attribute, how: Partition) -> tuple[Attribute, Shares]:
    """Return strata and shares of clients whose number is given."""
    assert isinstance(how.clients, int)
    if how.kind == "iid":
        if how.clients < how.copies:
            raise ScenarioError(f"partition.copies = {how.copies}: there are {how.clients} clients")
        sizes = np.arange(1, how.clients + 1) ** -float(how.skew)
        everybody = Attribute("everybody", np.zeros(len(table), dtype=np.int64), ("everybody",))
        return everybody, (sizes / sizes.sum())[:, None]
    strata = groups if how.over == "group" else Attribute("label", table.label, table.classes)
    alphas = [how.alpha or 1.0] * how.clients
    return strata, stream(how.draw, Purpose.LAYOUT).dirichlet(alphas, len(strata.names)).T


def _training_counts(
    table: Table, groups: Attribute, strata: Attribute, how: Partition, split: Split
) -> Shares:
    """Return how many training records of each stratum and group are dealt, in expectation: public."""
    cells = len(strata.names) * len(groups.names)
    crossed = Attribute("", strata.codes * len(groups.names) + groups.codes, ("",) * cells)
    numerators, denominator = training_share(
        table, crossed, split.kind, split.folds, groups=groups, validation=split.validation
    )
    kept = np.array([how.keep.get(name, 1.0) for name in groups.names])
    return np.asarray(numerators.reshape(len(strata.names), -1) * kept / denominator)


def deal(plan: Layout, groups: Attribute, how: Partition, train_rows: Rows, seed: int) -> tuple[Rows, ...]:
    """Return the rows that every client holds, each ascending; the seed alone decides.

    Parameters
    ----------
    plan, groups, how
        What :func:`layout` was given and returned.
    train_rows : int64 array
        The rows to deal out.
    seed
        Of the run.
    """
    rows = _kept(groups, how, train_rows, seed)
    held: list[list[Rows]] = [[] for _ in plan.clients]
    codes = plan.strata.codes[rows]
    for code in range(len(plan.strata.names)):
        shuffled = stream(seed, Purpose.PARTITION, code).permutation(rows[codes == code])
        for k, part in _parts(plan, how, code, shuffled):
            held[k].append(part)
    empty = np.empty(0, dtype=np.int64)
    return tuple(np.sort(np.concatenate([empty, *parts])) for parts in held)


def _parts(plan: Layout, how: Partition, code: int, shuffled: Rows) -> Sequence[tuple[int, Rows]]:
    """Return the parts of one stratum and the clients that hold them."""
    share_K = plan.shares_KS[:, code]
    if not plan.in_turn:
        ends = np.rint(np.cumsum(share_K) * len(shuffled)).astype(int)
        return list(enumerate(np.split(shuffled, ends[:-1])))
    holders = np.flatnonzero(share_K).tolist()
    return [
        (holders[(i + copy) % len(holders)], shuffled[i :: len(holders)])
        for copy in range(how.copies)
        for i in range(len(holders))
    ]


def _kept(groups: Attribute, how: Partition, rows: Rows, seed: int) -> Rows:
    """Return the training rows that are dealt: of some groups, a share."""
    keep = np.ones(len(rows), dtype=bool)
    for name, share in how.keep.items():
        code = groups.names.index(name)
        members = np.flatnonzero(groups.codes[rows] == code)
        order = stream(seed, Purpose.KEEP, code).permutation(members)
        keep[order[round(share * len(members)) :]] = False
    return rows[keep]
