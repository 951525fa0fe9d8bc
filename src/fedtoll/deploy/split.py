"""Give every client of a simulated scenario a file of its own, and the server the held-out table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fedtoll.scenarios.data.config import MOST_FEATURES, AttributeFacts, ColumnFacts, Data, TableFacts
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation, Records
from fedtoll.scenarios.scenario import Holder, Partition, Scenario, Split

if TYPE_CHECKING:
    import pyarrow as pa

HELD_OUT = "held-out.parquet"
"""The server's file."""


@dataclass(frozen=True, eq=False)
class Divided:
    """A scenario that was divided.

    Parameters
    ----------
    scenario
        The scenario of the federation: its partition is declared, and its data is the held-out table.
    held_out, tables
        The server's table, and one table for each client.
    """

    scenario: Scenario
    held_out: pa.Table
    tables: tuple[pa.Table, ...]


def divide(scenario: Scenario, seed: int) -> Divided:
    """Divide the records of a scenario as one of its seeds does.

    Features are written as they are encoded, so every column is declared with centre 0 and scale 1. The
    declared sizes are the public sizes of the scenario's plan.

    Raises
    ------
    ScenarioError
        If the scenario cannot be written as tables of the clients' own.
    """
    for wrong, message in (
        (scenario.partition.kind == "declared", "partition.kind = 'declared': the records are not here"),
        (scenario.partition.copies > 1, "partition.copies: records of several clients cannot be split"),
    ):
        if wrong:
            raise ScenarioError(f"--split: {message}")
    federation = Federation.resolve(scenario.data, scenario.split, scenario.partition)
    records = federation.records(seed)
    if (features := records.table.features.shape[1]) > MOST_FEATURES:
        raise ScenarioError(f"--split: {features:,} features, more than {MOST_FEATURES:,} of your own table")
    names = {*records.table.feature_names}
    label, group = _unused("label", names), _unused("group", names)
    classes = records.table.classes
    labels: dict[str, Any] = {"classes": classes}
    if len(classes) == 2:
        labels = {"negative": classes[:1], "positive": classes[1]}
    try:
        own = TableFacts(
            label=label,
            **labels,
            columns={name: ColumnFacts(centre=0.0, scale=1.0) for name in records.table.feature_names},
            attributes={group: AttributeFacts(values=records.groups.names)},
        )
        holders = tuple(Holder(size=c.size, group=c.group) for c in federation.layout.clients)
        content = scenario.model_dump() | {
            "name": f"{scenario.name[:55]}-nodes",
            "description": f"The records of {scenario.name}, seed {seed}, on one SuperNode a client.",
            "data": Data(file=HELD_OUT, groups=(group,), own=own),
            "split": Split(),
            "partition": Partition(kind="declared", holders=holders),
            **dict.fromkeys(("source", "tune"), None),
            **dict.fromkeys(("setting", "claim"), ()),
        }
        divided = Scenario.model_validate(content)
    except ValidationError as error:
        raise ScenarioError(f"--split: {error.errors()[0]['msg']}") from None
    parts = [_table(records, rows, label, group) for rows in (records.test, *records.held)]
    for client, part in enumerate(parts[1:]):
        if not part.num_rows:
            raise ScenarioError(f"--split: client {client} holds no record under seed {seed}")
    return Divided(divided, parts[0], tuple(parts[1:]))


def _table(records: Records, rows: NDArray[np.int64], label: str, group: str) -> pa.Table:
    import pyarrow as pa

    table = records.table
    columns: dict[str, Any] = {name: table.features[rows, i] for i, name in enumerate(table.feature_names)}
    columns[label] = np.array(table.classes, dtype=object)[table.label[rows]]
    columns[group] = np.array(records.groups.names, dtype=object)[records.groups.codes[rows]]
    return pa.table(columns)


def _unused(name: str, known: set[str]) -> str:
    while name in known:
        name = f"the {name}"
    return name
