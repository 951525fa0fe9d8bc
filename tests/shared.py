"""What many tests share: the records of a run."""

from __future__ import annotations

from fedtoll.scenarios.data.config import Data
from fedtoll.scenarios.data.table import Attribute, Table
from fedtoll.scenarios.federation import Federation, Records
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Partition, Split


def table_of(data: Data) -> tuple[Table, Attribute]:
    """Return a scenario's table without the excluded columns, and the group of every record."""
    federation = Federation.resolve(data, Split(), Partition(kind="iid", clients=1))
    return federation.table, federation.groups


def records(run: Run) -> Records:
    """Return the records of a run."""
    return Federation.of(run).records(run.seed)
