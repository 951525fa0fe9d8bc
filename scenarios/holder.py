"""The file of one client that holds its own records: read as declared, and checked against the plan.

Such a client trusts none but the scenario's public declarations. Its file is a table of the same form as
``data.file``, with the same columns, and is encoded with the same declared facts. Nobody else reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedtoll.scenarios.data import load_table, source_of
from fedtoll.scenarios.data.config import Data
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Records
from fedtoll.scenarios.scenario import Partition

TOLERANCE = 2
"""The factor by which a client's number of records may differ from its declared size, either way.

The declared size alone enters the noise, so any number would be as private. A number far from it is a
mistake that would distort the training.
"""


def read(
    data: Data, partition: Partition, client: int, file: Path, groups: Sequence[str] | None = None
) -> Records:
    """Return the records of one client; all other clients have none, and nothing is held out.

    Parameters
    ----------
    data, partition
        The sections of the scenario. ``data.file`` is not opened.
    client
        The number of the client.
    file
        The client's own table.
    groups
        The names of the groups in the plan of a run, if there is one to compare with.

    Raises
    ------
    ScenarioError
        In one line, if the plan does not declare this client, or the file does not fit the declaration.
    """
    if partition.kind != "declared":
        raise ScenarioError(f"partition.kind = {partition.kind!r}: this client holds records of its own")
    if not 0 <= client < len(partition.holders):
        raise ScenarioError(f"client {client}: the plan declares {len(partition.holders)}, from 0")
    declared = partition.holders[client]
    table = load_table(source_of(data.model_copy(update={"file": str(file)}))).without(data.exclude)
    found = table.groups(data.groups)
    if groups is not None and found.names != tuple(groups):
        raise ScenarioError(f"{file.name}: its groups are not those of the plan")
    if declared.group:
        other = found.codes != found.names.index(declared.group)
        if other.any():
            row = int(np.argmax(other))
            name = found.names[found.codes[row]]
            raise ScenarioError(
                f"{file.name}: row {row + 1} is of group {name!r}, but client {client} declares "
                f"{declared.group!r}"
            )
    if not declared.size <= TOLERANCE * len(table) <= TOLERANCE**2 * declared.size:
        raise ScenarioError(
            f"{file.name}: holds {len(table):,} records; client {client} declares {declared.size:,}, and at "
            f"least half and at most {TOLERANCE} times as many are accepted"
        )
    none, rows = np.empty(0, dtype=np.int64), np.arange(len(table), dtype=np.int64)
    held = tuple(rows if k == client else none for k in range(len(partition.holders)))
    return Records(table, found, held, none, none)
