"""What many tests share: built-in tables and the records of a run."""

from __future__ import annotations

from functools import cache

from fedtoll.scenarios.data import builtin, load_table
from fedtoll.scenarios.data.config import Data
from fedtoll.scenarios.data.table import Attribute, Table
from fedtoll.scenarios.federation import Federation, Records
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Partition, Split


@cache
def built_in_table(name: str) -> Table:
    """Return the table of a built-in source, loaded once per process; its arrays are read-only."""
    return load_table(builtin(name))


def table_of(data: Data) -> tuple[Table, Attribute]:
    """Return a scenario's table without the excluded columns, and the group of every record."""
    federation = Federation.resolve(data, Split(), Partition(kind="iid", clients=1))
    return federation.table, federation.groups


def records(run: Run) -> Records:
    """Return the records of a run."""
    return Federation.of(run).records(run.seed)
