"""The records of a run: its table, who holds which rows, and which rows are held out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios import partition, split
from fedtoll.scenarios.data import load
from fedtoll.scenarios.data.table import Attribute, Table
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Data, Split


@dataclass(frozen=True, eq=False)
class Records:
    """One table, partitioned.

    Parameters
    ----------
    table
        All records, without the excluded columns.
    groups
        The group of every record.
    held
        The row numbers that each client holds, in the order of the plan's clients.
    test
        The row numbers held out.
    """

    table: Table
    groups: Attribute
    held: tuple[NDArray[np.int64], ...]
    test: NDArray[np.int64]


def table_of(data: Data) -> tuple[Table, Attribute]:
    """Return a scenario's table without the excluded columns, and the group of every record."""
    return _table(data.source, data.groups, data.exclude)


@lru_cache(maxsize=4)
def _table(source: str, groups: tuple[str, ...], exclude: tuple[str, ...]) -> tuple[Table, Attribute]:
    table = load(source)
    return table.without(exclude), table.groups(groups)


def records(run: Run) -> Records:
    """Return the records of a run; loaded once a process, partitioned once a seed."""
    clients = tuple(partition.Client(c.id, c.group, c.size) for c in run.clients)
    return _records(run.data, run.split, clients, run.seed)


@lru_cache(maxsize=8)
def _records(data: Data, how: Split, clients: tuple[partition.Client, ...], seed: int) -> Records:
    table, groups = table_of(data)
    train, test = split.split(table, groups, how.kind, how.folds, seed)
    return Records(table, groups, partition.partition(table, groups, clients, train, seed), test)
