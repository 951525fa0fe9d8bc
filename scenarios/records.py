"""The records of a run: its table, the rows of every client, and the rows held out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios import partition, split
from fedtoll.scenarios.data import Source, source_of, table
from fedtoll.scenarios.data.config import Data
from fedtoll.scenarios.data.table import Attribute, Table
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Partition, Split


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
        The row numbers of each client, in the order of the plan's clients.
    test
        The row numbers held out.
    validation
        The row numbers that are declared public: no client holds them and no seed tests on them.
    """

    table: Table
    groups: Attribute
    held: tuple[NDArray[np.int64], ...]
    test: NDArray[np.int64]
    validation: NDArray[np.int64]


def table_of(data: Data) -> tuple[Table, Attribute]:
    """Return a scenario's table without the excluded columns, and the group of every record."""
    return _table(data, source_of(data))


@lru_cache(maxsize=4)
def _table(data: Data, source: Source) -> tuple[Table, Attribute]:
    made = table(source)
    return made.without(data.exclude), made.groups(data.groups).merged(data.floor)


def records(run: Run) -> Records:
    """Return the records of a run, loaded once per process and partitioned once per seed.

    Raises
    ------
    ScenarioError
        If they cannot be loaded, or are not the records of the plan.
    """
    return _records(run.data, run.checksum, run.split, run.partition, run.seed)


@lru_cache(maxsize=2)
def _records(data: Data, checksum: str, how: Split, dealt: Partition, seed: int) -> Records:
    source = source_of(data)
    if source.checksum != checksum:
        raise ScenarioError(
            f"data {source.name!r}: not the records that were planned with (checksum {checksum[:12]}, here "
            f"{source.checksum[:12]}); run the command again"
        )
    table, groups = table_of(data)
    train, test = split.split(table, groups, how.kind, how.folds, seed, how.validation)
    public = split.public(table, groups, how.kind, how.validation)
    plan = layout(data, how, dealt)
    return Records(table, groups, partition.deal(plan, groups, dealt, train, seed), test, public)


def layout(data: Data, how: Split, dealt: Partition) -> partition.Layout:
    """Return the clients and the share of each stratum that each holds; the same for every seed."""
    return _layout(data, source_of(data), how, dealt)


@lru_cache(maxsize=4)
def _layout(data: Data, source: Source, how: Split, dealt: Partition) -> partition.Layout:
    return partition.layout(*_table(data, source), dealt, how)
