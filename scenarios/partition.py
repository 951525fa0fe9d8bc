"""Who holds which records: training rows become clients.

A client's *public size* is a constant of the plan, counted once from the whole
table's public group counts: neither the seed nor the records that the client
comes to hold change it. Sampling rate, steps and batch normaliser follow from
it, so that they reveal nothing about any record; the number of rows held may
differ from it by a few, and nobody ever recounts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fedtoll.scenarios.data.table import Attribute, Table
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.split import Kind, training_share
from fedtoll.scenarios.streams import Purpose, stream

Rows = npt.NDArray[np.int64]
"""Ascending row numbers of a table."""

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
    table: Table, groups: Attribute, per_group: Mapping[str, int], kind: Kind, k: int
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
    numerators, denominator = training_share(table, groups, kind, k)
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


def iid(table: Table, groups: Attribute, number: int, kind: Kind, k: int) -> tuple[Client, ...]:
    """Return ``number`` clients of equal public size who hold records of any group.

    Raises
    ------
    ScenarioError
        If there are fewer training records than clients.
    """
    numerators, denominator = training_share(table, groups, kind, k)
    records = int(numerators.sum()) // denominator
    if records < number:
        raise ScenarioError(f"partition: {records} training records are too few for {number} clients")
    return tuple(Client(i, "", records // number) for i in range(number))


def partition(
    table: Table, groups: Attribute, clients: Sequence[Client], train_rows: Rows, seed: int
) -> tuple[Rows, ...]:
    """Return the rows that every client holds: a group's rows, shuffled and dealt to its clients.

    Every training row is held by exactly one client, and clients of one group
    differ by at most one row. The shuffle depends on seed and group alone. Clients
    without a declared group are dealt all rows together.

    Parameters
    ----------
    table, groups
        As given to :func:`clients`.
    clients
        What :func:`clients` returned.
    train_rows : int64 array
        The rows to deal out.
    seed
        Of the run.

    Returns
    -------
    tuple of int64 arrays
        Aligned with ``clients``, each ascending.

    Raises
    ------
    ValueError
        If a training row belongs to a group that has no client.
    """
    members: dict[str, list[int]] = {}
    for position, client in enumerate(clients):
        members.setdefault(client.group, []).append(position)
    held: list[Rows] = [np.empty(0, dtype=np.int64)] * len(clients)
    if set(members) == {""}:
        shuffled = stream(seed, Purpose.PARTITION).permutation(train_rows)
        return tuple(np.sort(shuffled[i :: len(clients)]) for i in range(len(clients)))
    codes = groups.codes[train_rows]
    for code, name in enumerate(groups.names):
        rows = train_rows[codes == code]
        holders = members.get(name, [])
        if len(rows) and not holders:
            raise ValueError(
                f"{len(rows)} training rows of group {name!r} of {table.source!r} have no client"
            )
        shuffled = stream(seed, Purpose.PARTITION, code).permutation(rows)
        for i, position in enumerate(holders):
            held[position] = np.sort(shuffled[i :: len(holders)])
    return tuple(held)
