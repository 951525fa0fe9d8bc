"""Partition training records among clients.

A client's *public size* is a constant of the plan, counted once from the public
counts of the whole table: neither the seed nor the records that the client
receives change it. Sampling rate, steps and batch normaliser follow from it, so
they reveal nothing about any record. The number of records that a client holds may
differ from its public size by a few and is never recounted. The seed decides which
records go to which client.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedtoll.scenarios.data.table import Attribute, Table
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.scenario import Partition, Split
from fedtoll.scenarios.split import training_share
from fedtoll.scenarios.streams import Purpose, stream

Rows = npt.NDArray[np.int64]
"""Row numbers of a table, ascending."""

Shares = npt.NDArray[np.float64]

OTHERS = "*"
"""The key, in ``partition.clients``, of all groups that are not named."""


@dataclasses.dataclass(frozen=True)
class Client:
    """The public facts of a client.

    Parameters
    ----------
    id
        0, 1, ... in the order of the plan; the partition id of a Flower node.
    group
        The group whose records it holds; empty if it may hold records of any group.
    size
        Its public size: a declared number of records, at least 1.
    """

    id: int
    group: str
    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """The plan of a partition.

    Clients and shares are public. So are the expected counts, if the source is public or every client has a
    public group; otherwise they are exact counts of private records, and only the experimenter may see them.

    Parameters
    ----------
    clients
        In the order of the plan.
    strata
        The stratum of every record.
    shares_KS
        The share of each stratum that each client holds; columns sum to 1.
    in_turn
        Whether the records of a stratum are dealt in turn to the clients with a share of it. All of these
        clients then have the same share.
    expected_KG
        The number of records of each group that each client is expected to hold.
    """

    clients: tuple[Client, ...]
    strata: Attribute
    shares_KS: Shares
    in_turn: bool
    expected_KG: Shares


def layout(table: Table, groups: Attribute, spec: Partition, split: Split) -> Layout:
    """Plan a partition.

    Raises
    ------
    ScenarioError
        If a name is unknown, a client would hold no records, or a matrix of shares does not fit the groups.
    """
    if spec.kind == "declared":
        return _declared(groups, spec)
    for name in spec.keep:
        if name not in groups.names:
            raise ScenarioError(f"partition.keep: no group {name!r}{nearest(name, groups.names)}")
    declared: tuple[str, ...] = ()
    stratum_of_client: tuple[str, ...] = ()
    if spec.kind in {"group", "column"}:
        strata, stratum_of_client = _strata_by_client(table, groups, spec)
        shares = np.array([[float(s == name) for s in strata.names] for name in stratum_of_client])
        shares /= shares.sum(axis=0)
        declared = stratum_of_client if spec.kind == "group" else ()
    elif spec.kind == "shares":
        strata, shares = groups, _stated_shares(groups, spec)
    else:
        strata, shares = _drawn_shares(table, groups, spec)
    in_turn = spec.kind in {"group", "column"} or (spec.kind == "iid" and spec.skew == 0)
    counts_SG = _training_counts(table, groups, strata, spec, split)
    expected = shares @ counts_SG * spec.copies
    sizes = np.floor(expected.sum(axis=1) + 1e-6).astype(int)
    if sizes.min() < 1:
        client = int(sizes.argmin())
        if stratum_of_client:
            name = stratum_of_client[client]
            code = strata.names.index(name)
            raise ScenarioError(
                f"partition: group {name!r} of {strata.name} has {strata.counts[code]} records, "
                f"{math.floor(counts_SG[code].sum() + 1e-6)} for training: "
                f"too few for {stratum_of_client.count(name)} clients"
            )
        raise ScenarioError(
            f"partition: client {client} of {len(sizes)} would hold none of "
            f"{math.floor(expected.sum())} training records; give fewer clients or larger shares"
        )
    planned = tuple(Client(k, declared[k] if declared else "", int(n)) for k, n in enumerate(sizes))
    return Layout(planned, strata, shares, in_turn, expected)


def _declared(groups: Attribute, spec: Partition) -> Layout:
    """Return the layout of clients with records of their own: what they declare, and nothing else.

    The expected counts of a client without a declared group are not a number: nobody here knows them.
    """
    expected = np.full((len(spec.holders), len(groups.names)), np.nan)
    for row, holder in zip(expected, spec.holders, strict=True):
        if holder.group:
            if holder.group not in groups.names:
                known = nearest(holder.group, groups.names)
                raise ScenarioError(f"partition.holders: no group {holder.group!r}{known}")
            row[:] = 0.0
            row[groups.names.index(holder.group)] = holder.size
    clients = tuple(Client(k, holder.group, holder.size) for k, holder in enumerate(spec.holders))
    return Layout(clients, groups, np.zeros_like(expected), False, expected)


def _strata_by_client(table: Table, groups: Attribute, spec: Partition) -> tuple[Attribute, tuple[str, ...]]:
    """Return the strata, and the stratum whose records each client holds."""
    strata = groups
    if spec.kind == "column":
        if spec.column not in table.attributes:
            raise ScenarioError(
                f"partition.column = {spec.column!r}: no attribute of {table.source!r}"
                f"{nearest(spec.column, table.attributes)}"
            )
        strata = table.attributes[spec.column]
    assert isinstance(spec.clients, dict)
    for name in spec.clients:
        if name != OTHERS and name not in strata.names:
            raise ScenarioError(f"partition: no group {name!r} of {strata.name}{nearest(name, strata.names)}")
    numbers = {name: spec.clients.get(name, spec.clients.get(OTHERS, 1)) for name in strata.names}
    for name, count in zip(strata.names, strata.counts, strict=True):
        if count == 0:
            raise ScenarioError(
                f"partition: group {name!r} of {strata.name} has no records in {table.source!r}"
            )
        if numbers[name] > count:
            raise ScenarioError(
                f"partition: group {name!r} of {strata.name} has {count} records: "
                f"too few for {numbers[name]} clients"
            )
    stratum_of_client = tuple(name for name, number in numbers.items() for _ in range(number))
    for name in strata.names:
        if numbers[name] < spec.copies:
            raise ScenarioError(
                f"partition.copies = {spec.copies}: {name!r} has {numbers[name]} clients; "
                f"give at least {spec.copies}"
            )
    return strata, stratum_of_client


def _stated_shares(groups: Attribute, spec: Partition) -> Shares:
    """Return the matrix of shares that a scenario states, its columns rescaled to sum to 1."""
    shares = np.array(spec.shares)
    if shares.shape[1] != len(groups.names):
        raise ScenarioError(
            f"partition.shares: {shares.shape[1]} columns for {len(groups.names)} groups: "
            f"{', '.join(groups.names)}"
        )
    return np.asarray(shares / shares.sum(axis=0))


def _drawn_shares(table: Table, groups: Attribute, spec: Partition) -> tuple[Attribute, Shares]:
    """Return the strata and shares of ``iid`` and ``dirichlet``, where the number of clients is given."""
    assert isinstance(spec.clients, int)
    if spec.clients > len(table) * spec.copies:
        raise ScenarioError(
            f"partition.clients = {spec.clients}: more than the {len(table)} records of {table.source!r}"
        )
    if spec.kind == "iid":
        if spec.clients < spec.copies:
            raise ScenarioError(f"partition.copies = {spec.copies}: more than the {spec.clients} clients")
        sizes = np.arange(1, spec.clients + 1) ** -float(spec.skew)
        everybody = Attribute("everybody", np.zeros(len(table), dtype=np.int64), ("everybody",))
        return everybody, (sizes / sizes.sum())[:, None]
    strata = groups if spec.over == "group" else Attribute("label", table.label, table.classes)
    alphas = [spec.alpha or 1.0] * spec.clients
    return strata, stream(spec.draw, Purpose.LAYOUT).dirichlet(alphas, len(strata.names)).T


def _training_counts(
    table: Table, groups: Attribute, strata: Attribute, spec: Partition, split: Split
) -> Shares:
    """Return the expected number of training records that clients hold, by stratum and group."""
    cells = len(strata.names) * len(groups.names)
    crossed = Attribute("", strata.codes * len(groups.names) + groups.codes, ("",) * cells)
    numerators, denominator = training_share(
        table, crossed, split.kind, split.folds, groups=groups, validation=split.validation
    )
    keep = np.array([spec.keep.get(name, 1.0) for name in groups.names])
    return np.asarray(numerators.reshape(len(strata.names), -1) * keep / denominator)


def deal(plan: Layout, groups: Attribute, spec: Partition, train_rows: Rows, seed: int) -> tuple[Rows, ...]:
    """Return the rows of every client, ascending; they depend on the seed alone.

    Parameters
    ----------
    plan, groups, spec
        The result of :func:`layout`, and its arguments.
    train_rows : int64 array
        The rows to distribute.
    seed
        The seed of the run.
    """
    rows = _keep(groups, spec, train_rows, seed)
    parts_of_client: list[list[Rows]] = [[] for _ in plan.clients]
    codes = plan.strata.codes[rows]
    for code in range(len(plan.strata.names)):
        shuffled = stream(seed, Purpose.PARTITION, code).permutation(rows[codes == code])
        for k, part in _parts(plan, spec, code, shuffled):
            parts_of_client[k].append(part)
    empty = np.empty(0, dtype=np.int64)
    return tuple(np.sort(np.concatenate([empty, *parts])) for parts in parts_of_client)


def owners(plan: Layout, spec: Partition, rows: Rows, seed: int) -> Rows:
    """Return the position of the client that each held-out row is dealt to, by the rule for training rows.

    A held-out record is dealt as if it were a training record of its stratum. If clients hold one group each,
    a client gets held-out records of its group; if they hold one value of a column, of that value; if they
    hold shares of all groups, the same shares of the held-out records. The draw is one of its own, and
    depends on the seed alone. Every row goes to one client.

    Parameters
    ----------
    plan, spec
        The result of :func:`layout`, and its argument; every record is with one client.
    rows : int64 array
        The held-out rows.
    seed
        The seed of the run.
    """
    codes, found = plan.strata.codes[rows], np.empty(len(rows), dtype=np.int64)
    for code, name in enumerate(plan.strata.names):
        shuffled = stream(seed, Purpose.HELD_OUT, code).permutation(np.flatnonzero(codes == code))
        if spec.kind == "declared":
            holders = [k for k, client in enumerate(plan.clients) if client.group == name]
            parts = [(k, shuffled[i :: len(holders)]) for i, k in enumerate(holders)]
        else:
            parts = list(_parts(plan, spec, code, shuffled))
        for k, part in parts:
            found[part] = k
    return found


def _parts(plan: Layout, spec: Partition, code: int, shuffled: Rows) -> Sequence[tuple[int, Rows]]:
    """Return the parts of one stratum, each with the client that holds it."""
    share_K = plan.shares_KS[:, code]
    if not plan.in_turn:
        ends = np.rint(np.cumsum(share_K) * len(shuffled)).astype(int)
        return list(enumerate(np.split(shuffled, ends[:-1])))
    holders = np.flatnonzero(share_K).tolist()
    return [
        (holders[(i + copy) % len(holders)], shuffled[i :: len(holders)])
        for copy in range(spec.copies)
        for i in range(len(holders))
    ]


def _keep(groups: Attribute, spec: Partition, rows: Rows, seed: int) -> Rows:
    """Return the training rows that clients hold: all, less what ``keep`` leaves out of some groups."""
    keep = np.ones(len(rows), dtype=bool)
    for name, share in spec.keep.items():
        code = groups.names.index(name)
        members = np.flatnonzero(groups.codes[rows] == code)
        order = stream(seed, Purpose.KEEP, code).permutation(members)
        keep[order[round(share * len(members)) :]] = False
    return rows[keep]
