"""The smallest real federation: Adult by sex, two clients of men, one of women, two rounds of two steps."""

from __future__ import annotations

import io
import tomllib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flwr.app import Message
from flwr.serverapp import Grid

from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run, StrategyPlan
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import Plan, plan
from fedtoll.strategies import registry

TOML = """\
name = "adult-sex"
title = "Who pays on Adult, by sex?"
seeds = [0]

[data]
source = "adult"
groups = ["sex"]

[partition]
clients = { Male = 2, Female = 1 }

[training]
rounds = 2
sampling_rate = 0.01
local_steps = 2
learning_rate = 1.0
clip = 1.0

[privacy]
epsilons = ["inf"]

[[strategies]]
name = "fedavg"
"""

Replies = list[Message]

FEDAVG: dict[str, Any] = {"name": "fedavg"}
TERM: dict[str, Any] = {"name": "term", "t": 5.0}
YOGI: dict[str, Any] = {"name": "flwr.serverapp.strategy:FedYogi"}


def scenario(*strategies: dict[str, Any], **changes: Any) -> Scenario:
    """Return the scenario with other strategies and keys: ``section={"key": value}`` or ``key=value``."""
    table = tomllib.loads(TOML)
    if strategies:
        table["strategies"] = list(strategies)
    for key, value in changes.items():
        table[key] = {**table.get(key, {}), **value} if isinstance(value, dict) else value
    return validate(table, "sex.toml")


def planned(*strategies: dict[str, Any], **changes: Any) -> Plan:
    return plan(scenario(*strategies, **changes), "sex.toml")


def single_run(strategy: dict[str, Any], epsilon: float | str = "inf", **changes: Any) -> Run:
    """Return the single run of the scenario with this strategy and ε."""
    (run,) = planned(strategy, privacy={"epsilons": [epsilon]}, **changes).runs
    return run


def with_strategy(run: Run, path: str, **parameters: Any) -> Run:
    """Return the same run with a strategy that no plan has checked."""
    digest = registry.resolve(path)[1]
    chosen = StrategyPlan(name=path.rpartition(":")[2], path=path, parameters=parameters, digest=digest)
    return run.model_copy(update={"strategy": chosen})


def parquet(tables: dict[str, Any]) -> dict[str, bytes]:
    """Return the bytes that a store would write."""
    files = {}
    for name, table in tables.items():
        table.to_parquet(file := io.BytesIO(), index=False, compression="zstd")
        files[name] = file.getvalue()
    return files


class Wrapped(LocalGrid):
    """A LocalGrid that passes its training replies through a function."""

    def __init__(self, run: Run, change: Callable[[Replies, int], Replies]) -> None:
        super().__init__(run)
        self.change = change
        self.round = 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Replies:
        replies = super().send_and_receive(messages, timeout=timeout)
        if replies and not replies[0].has_error() and "roll-call" not in replies[0].content:
            self.round += 1
            return self.change(replies, self.round)
        return replies


def refusal(run: Run, grid: Grid) -> str:
    """Return the one-line error that ends a run over a Grid."""
    with pytest.raises(RunError) as caught:
        federate(grid, run)
    assert "\n" not in str(caught.value)
    return str(caught.value)
