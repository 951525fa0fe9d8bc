"""What crosses the wire, what the ledgers record of it, and what a strategy sees."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict

from fedtoll.clients import model
from fedtoll.clients import state as client_state
from fedtoll.clients.losses import per_example
from fedtoll.privacy.ledger import owed
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.statistics import Estimate
from fedtoll.server.app import federate
from fedtoll.server.evaluate import HeldOut
from fedtoll.server.grid import LocalGrid
from fedtoll.strategies.base import Member, Report
from tests.server.federation import FEDAVG, TERM, YOGI, Replies, Wrapped, single_run
from tests.shared import records


@pytest.fixture(scope="module")
def private() -> Run:
    return single_run(TERM, 2.0)


# The ledgers.


@pytest.mark.parametrize(("strategy", "epsilon"), [(FEDAVG, 2.0), (TERM, 2.0), (TERM, "clip-only")])
def test_the_servers_ledger_is_each_clients_own_and_never_resets(strategy, epsilon):
    run = single_run(strategy, epsilon, training={"rounds": 4, "local_steps": 1})
    lengths = []

    def count(replies, round):
        lengths.append([len(client_state.releases_in(r.content, 0)) for r in replies])
        return replies

    grid = Wrapped(run, count)
    table = federate(grid, run)["ledger"]
    kinds = 1 + len(run.statistics)
    assert lengths == [[kinds * t] * 3 for t in (1, 2, 3, 4)]
    for plan in run.clients:
        recorded = client_state.releases_in(grid._contexts[plan.id + 1].state, plan.id)
        assert recorded == tuple(r for t in (1, 2, 3, 4) for r in owed(run, plan, t))
        rows = table[table["client"] == plan.id]
        entries = rows[["client", "round", "release", "sampling_rate", "noise_multiplier", "count"]]
        assert [tuple(r) for r in entries.itertuples(index=False)] == [
            (r.client, r.round, r.what, r.sampling_rate, r.noise_multiplier, r.count) for r in recorded
        ]
        spent = rows.groupby("round")["epsilon_spent"].first()
        if run.mechanism == "dp-sgd":
            assert spent.is_monotonic_increasing
            assert spent.nunique() == 4
            assert 0.98 * run.epsilon < spent.iloc[-1] <= run.epsilon
        else:
            assert (spent == math.inf).all()


# The wire.


def exact_mean_loss(run: Run, client: int, parameters: Any, clip: float) -> float:
    data = records(run)
    rows = data.held[client]
    module = model.build(run.model, data.table.features.shape[1], run.classes, run.precision)
    model.put(module, parameters)
    with torch.no_grad():
        losses = per_example(
            module(torch.from_numpy(data.table.features[rows])),
            torch.from_numpy(data.table.label[rows]),
        )
    total: float = losses.double().clamp(max=clip).sum().item()
    return total / run.clients[client].size


class Tap(LocalGrid):
    """Stores a copy of everything that crosses the wire, in both directions."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.sent: list[RecordDict] = []
        self.received: list[RecordDict] = []
        self.nodes: list[int] = []
        self.rounds: list[int] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Replies:
        sent = list(messages)
        configs: list[Any] = [m.content.config_records["config"] for m in sent if m.content]
        self.rounds += [config["server-round"] for config in configs]
        replies = super().send_and_receive(sent, timeout=timeout)
        self.sent += [m.content for m in sent]
        self.received += [copy.deepcopy(r.content) for r in replies]  # a copy, because clients change theirs
        self.nodes += [m.metadata.dst_node_id for m in sent]
        return replies


@pytest.mark.parametrize(("strategy", "epsilon"), [(FEDAVG, 2.0), (TERM, 2.0), (YOGI, 0.5)])
def test_every_number_that_leaves_a_client_is_accounted_for(strategy, epsilon):
    run = single_run(strategy, epsilon)
    tap = Tap(run)
    recorded = federate(tap, run)["clients"].set_index(["client", "round"])
    assert len(tap.received) == 3 + 3 * run.rounds
    for content in tap.received[:3]:  # the roll call: nothing about records
        assert list(content) == ["roll-call"]
        assert set(content.config_records["roll-call"]) == {"partition-id", "fedtoll", "numerics"}
    scores = []
    sent = zip(tap.nodes[3:], tap.rounds, tap.sent[3:], tap.received[3:], strict=True)
    for node, round, request, content in sent:
        plan = run.clients[node - 1]
        assert set(content) == {"arrays", "metrics", client_state.LEDGER}
        broadcast = request.array_records["arrays"].to_numpy_ndarrays()
        returned = content.array_records["arrays"].to_numpy_ndarrays()
        assert [a.shape for a in returned] == [a.shape for a in broadcast]
        metrics: dict[str, Any] = dict(content.metric_records["metrics"])
        assert metrics.pop("num-examples") == plan.size
        for statistic in run.statistics:
            sd = statistic.noise_multiplier * statistic.parameters["clip"] / plan.size
            assert metrics.pop(f"{statistic.name}.sd") == pytest.approx(sd, rel=1e-12)
            assert recorded[statistic.name][plan.id, round] == metrics[statistic.name]
            noise = metrics.pop(statistic.name) - exact_mean_loss(
                run, node - 1, broadcast, statistic.parameters["clip"]
            )
            scores.append(noise / sd)
        assert not metrics
        ledger = dict(content.config_records[client_state.LEDGER])
        assert set(ledger) == {"round", "what", "sampling_rate", "noise_multiplier", "count"}
        assert client_state.releases_in(content, plan.id) == tuple(
            r for t in range(1, round + 1) for r in owed(run, plan, t)
        )
    assert len(scores) == len(run.statistics) * 3 * run.rounds
    assert all(1e-3 < abs(z) < 5 for z in scores)  # noised, by no more than reported
    assert len({*scores}) == len(scores)


def test_a_client_receives_the_model_the_run_and_the_round_alone(private):
    tap = Tap(private)
    federate(tap, private)
    assert all(not c for c in tap.sent[:3])
    for content in tap.sent[3:]:
        assert set(content) == {"arrays", "config"}
        config: Any = content.config_records["config"]
        assert set(config) == {"run", "server-round"}
        assert json.loads(config["run"]) == json.loads(private.to_json())


def test_parameters_leave_with_the_noise_that_the_plan_states():
    """After one step, DP-SGD and clip-only differ by N(0, (η σ C / B)²)."""
    change = {"training": {"local_steps": 1, "rounds": 1}}
    noised, clipped = single_run(FEDAVG, 2.0, **change), single_run(FEDAVG, "clip-only", **change)
    replies = []
    for run in (noised, clipped):
        federate(tap := Tap(run), run)
        replies.append([c.array_records["arrays"].to_numpy_ndarrays() for c in tap.received[3:]])
    scores = []
    for plan, a, b in zip(noised.clients, *replies, strict=True):
        scale = noised.learning_rate * plan.noise_multiplier * noised.clip / plan.batch_size
        scores += [(x.astype(np.float64) - y).ravel() / scale for x, y in zip(a, b, strict=True)]
    z = np.concatenate(scores)
    assert len(z) == 3 * 92
    assert abs(z.mean()) < 4 / math.sqrt(len(z))
    assert z.std() == pytest.approx(1.0, abs=4 / math.sqrt(2 * len(z)))


# The wall: what a strategy sees.

SEEN: list[tuple[Any, ...]] = []

SPY = """
from dataclasses import dataclass
from typing import ClassVar

from fedtoll.scenarios.statistics import MeanLoss
from fedtoll.strategies.fedavg import FedAvg
from tests.server.test_wire import SEEN

@dataclass(frozen=True)
class Spy(FedAvg):
    asks: bool = False

    @property
    def requests(self):
        return (MeanLoss(clip=2.0),) if self.asks else ()

    def init(self, cohort):
        SEEN.append(("init", cohort))
        return {"rounds": 0}

    def instructions(self, round, state):
        SEEN.append(("instructions", round, state))
        return {}

    def weigh(self, reports, state):
        SEEN.append(("weigh", reports, state))
        return super().weigh(reports, {"rounds": state["rounds"] + 1})

    def combine(self, params, reports, weights, state):
        SEEN.append(("combine", params, reports, weights, state))
        return super().combine(params, reports, weights, state)

    def output(self, params, state):
        SEEN.append(("output", params, state))
        return params
"""


def leaves(value: Any) -> list[Any]:
    """Return all that is reachable from a value; fail on anything but plain data and fedtoll's reports."""
    if isinstance(value, Member | Report | Estimate):
        return [x for v in vars(value).values() for x in leaves(v)]
    if isinstance(value, dict):
        return [x for v in value.values() for x in leaves(v)]
    if isinstance(value, list | tuple):
        return [x for v in value for x in leaves(v)]
    assert value is None or type(value) in {int, float, str, np.ndarray}, type(value)
    return [value]


def spied(folder: Path, asks: bool) -> Run:
    """Run a strategy from a file that records all its inputs in ``SEEN``."""
    SEEN.clear()
    (folder / "spy.py").write_text(SPY)
    name = f"{folder / 'spy.py'}:Spy"
    run = single_run({"name": name, "asks": asks}, 2.0)
    federate(LocalGrid(run), run)
    return run


@pytest.mark.parametrize("asks", [False, True])
def test_a_strategy_sees_public_numbers_noised_updates_and_declared_statistics_alone(tmp_path, asks):
    run = spied(tmp_path, asks)
    round = ["instructions", "weigh", "combine", "output"]
    assert [what for what, *_ in SEEN] == ["init", "output", *round, *round]
    assert {len(x) for x in leaves([list(rest) for _, *rest in SEEN]) if isinstance(x, np.ndarray)} <= {1, 3}
    for reports in [rest[0] for what, *rest in SEEN if what == "weigh"]:
        assert [r.client for r in reports] == [0, 1, 2]
        for report, plan in zip(reports, run.clients, strict=True):
            assert (report.size, report.group) == (plan.size, plan.group)
            assert [u.shape for u in report.update] == [(1, 91), (1,)]
            assert set(report.statistics) == ({"mean_loss"} if asks else set())
            assert 0 < report.epsilon <= 2.0
    strings = {x for x in leaves([list(rest) for _, *rest in SEEN]) if isinstance(x, str)}
    assert strings == {"Male", "Female"}


def test_held_out_records_change_nothing_but_their_own_measures(monkeypatch):
    run = single_run(TERM, 2.0)
    true = federate(LocalGrid(run), run)
    original = HeldOut.__init__

    def lie(self: HeldOut, run: Run, federation: Federation | None = None) -> None:
        original(self, run, federation)
        self.labels = 1 - self.labels
        self._features = -self._features

    monkeypatch.setattr(HeldOut, "__init__", lie)
    lied = federate(LocalGrid(run), run)
    for table in ("clients", "rounds", "ledger"):
        assert lied[table].equals(true[table])
    assert not lied["groups"].equals(true["groups"])


def test_no_training_row_is_held_out():
    data = records(single_run(FEDAVG))
    rows = np.concatenate([*data.held, data.test])
    assert len(np.unique(rows)) == len(rows) == len(data.table)
