"""A federation of SuperNodes in one process: every client has a file of its own, and its own context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from flwr.app import Context, Message, RecordDict

from fedtoll.clients import app
from fedtoll.clients.node import Decided, Node
from fedtoll.deploy.split import HELD_OUT, divide
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import Plan, plan
from tests.server.federation import scenario


def divided(folder: Path, *strategies: dict[str, Any], **changes: Any) -> Plan:
    """Write the files of the smallest federation, and return the plan of its server."""
    parts = divide(scenario(*strategies, **changes), 0)
    pq.write_table(parts.held_out, folder / HELD_OUT)
    for client, table in enumerate(parts.tables):
        pq.write_table(table, folder / f"{client}.parquet")
    return plan(placed(parts.scenario, folder), "nodes.toml", separate=True)


def placed(declared: Scenario, folder: Path) -> Scenario:
    data = declared.data.model_copy(update={"file": str(folder / HELD_OUT)})
    return declared.model_copy(update={"data": data})


class Nodes(LocalGrid):
    """SuperNodes, each with the configuration that its operator gives it."""

    def __init__(self, run: Run, folder: Path, **config: Any) -> None:
        super().__init__(run, self.train)
        self.kept: dict[int, dict[Decided, Node]] = {}
        self.contexts = [
            Context(
                1,
                k,
                {"partition-id": k, "partition": str(folder / f"{k}.parquet"), **config},
                RecordDict(),
                {},
            )
            for k in range(len(run.clients))
        ]

    def train(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        replies = []
        for message, context in zip(messages, contexts, strict=True):
            own = self.contexts[int(context.node_config["partition-id"])]
            app._nodes.clear()  # every node is another process, with an object of its own
            app._nodes.update(self.kept.get(own.node_id, {}))
            replies.append(app.train(message, own))
            self.kept[own.node_id] = dict(app._nodes)
        return replies
