"""``Strict``: every fault of a reply, a roll call or a strategy ends the run with one line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message_type import MessageType
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message
from flwr.serverapp.strategy import FedAvg

from fedtoll.clients import model
from fedtoll.clients import state as client_state
from fedtoll.clients import train as clients
from fedtoll.privacy.ledger import owed
from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.run import Run
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.strict import Strict
from tests.server.federation import FEDAVG, TERM, Replies, Wrapped, refusal, single_run, with_strategy

ROUND, CLIENT = 2, 1
WHERE = "round 2, client 1 (Male): "


@pytest.fixture(scope="module")
def plain() -> Run:
    return single_run(FEDAVG)


@pytest.fixture(scope="module")
def private() -> Run:
    return single_run(TERM, 2.0)


# Strict: every fault of one reply.


def content(reply: Message) -> tuple[ArrayRecord, MetricRecord, Any]:
    c = reply.content
    return c.array_records["arrays"], c.metric_records["metrics"], c.config_records[client_state.LEDGER]


def array(change: Callable[[np.ndarray], np.ndarray]):
    def fault(reply: Message) -> None:
        arrays, _, _ = content(reply)
        arrays["0"] = Array(change(arrays["0"].numpy().copy()))

    return fault


def one_element(value: float):
    def change(values):
        values.flat[-1] = value
        return values

    return array(change)


def metric(name: str, value):
    def fault(reply: Message) -> None:
        content(reply)[1][name] = value

    return fault


def raw(data: bytes):
    def fault(reply: Message) -> None:
        arrays, _, _ = content(reply)
        good = arrays["0"]
        arrays["0"] = Array(dtype=good.dtype, shape=good.shape, stype=good.stype, data=data)

    return fault


def form(**changed: Any):
    """Return a fault in which an array's fields and bytes disagree."""

    def fault(reply: Message) -> None:
        array = content(reply)[0]["0"]
        for key, change in changed.items():
            setattr(array, key, change(getattr(array, key)))

    return fault


def named(old: str, new: str):
    def fault(reply: Message) -> None:
        reply.content[new] = reply.content.pop(old)

    return fault


def rename(reply: Message) -> None:
    arrays, _, _ = content(reply)
    arrays["weight"] = arrays.pop("0")


def reorder(reply: Message) -> None:
    arrays, _, _ = content(reply)
    arrays["0"] = arrays.pop("0")


def extra(name: str, record):
    def fault(reply: Message) -> None:
        reply.content[name] = record

    return fault


def remove(name: str):
    def fault(reply: Message) -> None:
        del reply.content[name]

    return fault


def ledger(column: str, change: Callable[[list[Any]], list[Any]]):
    def fault(reply: Message) -> None:
        ledger = content(reply)[2]
        ledger[column] = change(list(ledger[column]))

    return fault


def reset(reply: Message) -> None:
    """Drop all rounds but the last from a ledger."""
    ledger = content(reply)[2]
    rounds = list(ledger["round"])
    for column, values in list(ledger.items()):
        ledger[column] = [v for v, r in zip(values, rounds, strict=True) if r == ROUND]


def short_column(reply: Message) -> None:
    ledger = content(reply)[2]
    ledger["count"] = list(ledger["count"])[:-1]


MALFORMED = {
    "not a number": (one_element(math.nan), "parameter 0 is not finite"),
    "infinite": (one_element(-math.inf), "parameter 0 is not finite"),
    "wrong shape": (array(lambda a: a[:, :-1]), "parameter 0: float32(1, 90), not float32(1, 91)"),
    "transposed": (array(lambda a: a.T), "parameter 0: float32(91, 1), not float32(1, 91)"),
    "wrong precision": (
        array(lambda a: a.astype(np.float64)),
        "parameter 0: float64(1, 91), not float32(1, 91)",
    ),
    "integers": (array(lambda a: a.astype(np.int32)), "parameter 0: int32(1, 91)"),
    "garbage bytes": (raw(b"not an array"), "malformed"),
    "no bytes": (raw(b""), "malformed"),
    "extra bytes": (form(data=lambda d: d + b"\x01"), "parameter 0: 493 bytes, not 492"),
    "a byte too few": (form(data=lambda d: d[:-1]), "parameter 0: 491 bytes, not 492"),
    "a header with blanks": (
        form(data=lambda d: d.replace(b", }", b",} ", 1)),
        "parameter 0: its header is not that of float32(1, 91)",
    ),
    "another way of storing": (form(stype=lambda s: "torch.Tensor"), "parameter 0: a 'torch.Tensor', not a"),
    "a false precision": (form(dtype=lambda d: "float64"), "parameter 0: float64(1, 91), not float32(1, 91)"),
    "a false shape": (form(shape=lambda s: (91,)), "parameter 0: float32(91,), not float32(1, 91)"),
    "arrays of another name": (named("arrays", "42"), "records ['42', 'fedtoll.ledger', 'metrics']"),
    "metrics of another name": (named("metrics", "42"), "records ['42', 'arrays', 'fedtoll.ledger']"),
    "wrong key": (rename, "parameters ['1', 'weight'] instead of ['0', '1']"),
    "wrong order": (reorder, "parameters ['1', '0'] instead of ['0', '1']"),
    "missing key": (lambda r: content(r)[0].pop("1"), "parameters ['0'] instead of ['0', '1']"),
    "no parameters": (remove("arrays"), "ArrayRecords [] instead of one"),
    "two models": (
        extra("more", ArrayRecord([np.zeros(1)])),
        "ArrayRecords ['arrays', 'more'] instead of one",
    ),
    "size": (metric("num-examples", 13_025), "num-examples is 13025, not 13060 as the plan says"),
    "size of NaN": (metric("num-examples", math.nan), "metric num-examples is not finite"),
    "sizes": (metric("num-examples", [1, 2]), "num-examples is [1, 2], not 13060 as the plan says"),
    "extra metric": (metric("accuracy", 0.7), "metrics ['accuracy', 'mean_loss', 'mean_loss.sd', 'num-ex"),
    "missing metric": (lambda r: content(r)[1].pop("mean_loss"), "metrics ['mean_loss.sd', 'num-examples']"),
    "statistic of cells": (
        metric("mean_loss", [0.1, 0.2]),
        "mean_loss is of shape (2,), not () as the plan says",
    ),
    "cell of NaN": (metric("mean_loss", [math.nan]), "metric mean_loss is not finite"),
    "statistic of NaN": (metric("mean_loss", math.nan), "metric mean_loss is not finite"),
    "wrong sd": (metric("mean_loss.sd", 0.5), "mean_loss.sd is 0.5, not 0.00765"),
    "no metrics": (remove("metrics"), "MetricRecords [] instead of one"),
    "two records of metrics": (
        extra("more", MetricRecord({"loss": 0.1})),
        "MetricRecords ['metrics', 'more']",
    ),
    "extra note": (extra("note", ConfigRecord({"rows": 3})), "ConfigRecords ['fedtoll.ledger', 'note']"),
    "no ledger": (remove(client_state.LEDGER), "ConfigRecords [] instead of one"),
    "ledger reset": (reset, "its ledger holds Release(client=1, round=2"),
    "ledger of fewer steps": (ledger("count", lambda c: [*c[:-1], c[-1] - 1]), "its ledger holds Release("),
    "ledger of more noise": (ledger("noise_multiplier", lambda c: [c[0] * 2, *c[1:]]), "its ledger holds"),
    "ledger too long": (ledger("round", lambda c: [*c, 2]), "malformed"),
    "ledger with a column": (
        lambda r: content(r)[2].update({"mean_age": [38.6]}),
        "its ledger has the column 'mean_age'",
    ),
    "ledger without a column": (lambda r: content(r)[2].pop("what"), "it has no 'what'"),
    "ledger of a short column": (short_column, "malformed"),
}


def damaged(fault: str) -> Callable[[list[Message], int], list[Message]]:
    """Apply a fault to one reply."""

    def change(replies: list[Message], round: int) -> list[Message]:
        if round == ROUND:
            MALFORMED[fault][0](replies[CLIENT])
        return replies

    return change


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_reply_ends_the_run(private, fault):
    words = MALFORMED[fault][1]
    line = refusal(private, Wrapped(private, damaged(fault)))
    assert line.startswith(WHERE + "the reply is malformed: ")
    assert words in line


def faulty(at: int, change: Callable[[list[Message]], list[Message]]):
    return lambda replies, round: change(replies) if round == at else replies


def failed(replies):
    reply = replies[CLIENT]
    error = Error(1, "Traceback (most recent call last):\n  File x, line 1\nKeyError: 'age'")
    wrong = Message(RecordDict(), CLIENT + 1, MessageType.TRAIN)
    wrong = Message(error, reply_to=wrong)
    assert wrong.metadata.src_node_id == reply.metadata.src_node_id
    return [*replies[:CLIENT], wrong, *replies[CLIENT + 1 :]]


def gone(replies):
    """Return the error that a SuperLink substitutes for a reply that will not come."""
    sent = Message(RecordDict(), CLIENT + 1, MessageType.TRAIN)
    sent.metadata.__dict__["_message_id"] = replies[CLIENT].metadata.reply_to_message_id
    error = create_message_error_unavailable_res_message(sent.metadata, "node_unavail")
    assert error.metadata.src_node_id != CLIENT + 1
    return [*replies[:CLIENT], error, *replies[CLIENT + 1 :]]


def from_nobody(replies):
    stranger = Message(replies[0].content, reply_to=Message(RecordDict(), 77, MessageType.TRAIN))
    return [*replies, stranger]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda r: r[:CLIENT] + r[CLIENT + 1 :], WHERE + "the reply is missing"),
        (lambda r: [], "round 2, client 0 (Male): the reply is missing"),
        (failed, WHERE + "the client failed"),
        (gone, WHERE + "its node is unavailable"),
        (lambda r: [*r, r[CLIENT]], WHERE + "2 replies"),
        (from_nobody, "round 2: received a reply from node 77, which is not a client"),
    ],
)
def test_a_lost_failed_doubled_or_foreign_reply_ends_the_run(private, change, line):
    assert refusal(private, Wrapped(private, faulty(ROUND, change))) == line


def test_a_client_that_raises_ends_the_run(plain, monkeypatch):
    def raises(cohort, task, groups):
        raise MemoryError("out of\nmemory")

    train = clients.Clients().train

    def handler(messages, contexts):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clients, "_answers", raises)
            broken = train(messages[CLIENT:2], contexts[CLIENT:2])
        rest = train([messages[0], messages[2]], [contexts[0], contexts[2]])
        return [rest[0], *broken, rest[1]]

    line = refusal(plain, LocalGrid(plain, handler))
    assert line == "round 1, client 1 (Male): the client failed"


# Strict: which messages a strategy may send.


def strict(run) -> Strict:
    grid = Strict(LocalGrid(run), run)
    grid.roll_call()
    return grid


def instruction(run, node: int, kind: str = MessageType.TRAIN) -> Message:
    start = ArrayRecord(model.initial(run.model, 91, 2, "float32", 0))
    config = ConfigRecord({"run": run.to_json(), "server-round": 1})
    return Message(RecordDict({"arrays": start, "config": config}), node, kind)


def test_no_message_no_reply_and_no_charge(plain):
    grid = strict(plain)
    assert grid.send_and_receive([]) == []
    assert not grid.ledger.releases


@pytest.mark.parametrize("kind", [MessageType.EVALUATE, MessageType.QUERY, "train.other"])
def test_only_training_is_asked_of_clients(plain, kind):
    grid = strict(plain)
    with pytest.raises(RunError, match=r"round 1, client 2 \(Female\).*without noise"):
        grid.send_and_receive([instruction(plain, 1), instruction(plain, 3, kind), instruction(plain, 2)])
    assert not grid.ledger.releases


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ((1, 2), "round 1, client 2 (Female): the strategy leaves it out"),
        ((1, 2, 2, 3), "round 1, client 1 (Male): the strategy sends it two messages"),
        ((1, 2, 3, 4), "the strategy sends to node 4, which is not a client"),
    ],
)
def test_a_strategy_addresses_every_client_once(plain, nodes, words):
    with pytest.raises(RunError) as caught:
        strict(plain).send_and_receive([instruction(plain, n) for n in nodes])
    assert words in str(caught.value)


# The roll call.


class Roll(LocalGrid):
    """A LocalGrid that changes the replies to the roll call."""

    def __init__(self, run: Run, change: Callable[[Replies], Replies]) -> None:
        super().__init__(run)
        self.change = change

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Replies:
        replies = super().send_and_receive(messages, timeout=timeout)
        return self.change(replies) if "roll-call" in replies[0].content else replies


def answer(position: int, key: str, value):
    def change(replies):
        replies[position].content.config_records["roll-call"][key] = value
        return replies

    return change


def says(replies):
    replies[1].content["41 years"] = ConfigRecord()
    return replies


def adds(replies):
    replies[1].content["roll-call"]["age"] = 41
    return replies


def mute(replies):
    del replies[1].content["roll-call"]
    return replies


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (answer(1, "numerics", 0), "roll call: client 1 runs fedtoll .* with other arithmetic"),
        (answer(2, "partition-id", 0), "roll call: two nodes are client 0"),
        (answer(2, "partition-id", 9), r"roll call: client 2 \(Female\) did not answer"),
        (lambda r: r[:1] + r[2:], r"roll call: client 1 \(Male\) did not answer"),
        (mute, "roll call: node 2 does not run fedtoll"),
        (says, "roll call: node 2 does not run fedtoll"),
        (adds, "roll call: node 2 does not run fedtoll"),
        (answer(1, "partition-id", 1.0), "roll call: node 2 does not run fedtoll"),
        (answer(1, "partition-id", "1"), "roll call: node 2 does not run fedtoll"),
        (answer(1, "partition-id", True), "roll call: node 2 does not run fedtoll"),
        (answer(1, "fedtoll", "41.0"), r"roll call: client 1 runs fedtoll 41.0, the server \d+\.\d+\S*"),
        (failed, "roll call: node 2: the client failed"),
    ],
)
def test_the_roll_call_ends_a_run_before_it_starts(plain, change, line):
    grid = Roll(plain, change)
    with pytest.raises(RunError, match=f"^{line}$"):
        federate(grid, plain)


@pytest.mark.slow
def test_the_roll_call_waits_for_nodes_and_then_gives_up(plain, monkeypatch):
    grid = LocalGrid(plain)
    calls = itertools.count()
    monkeypatch.setattr(grid, "get_node_ids", lambda: [1, 2, 3][: next(calls) + 1])
    Strict(grid, plain).roll_call(timeout=5)
    monkeypatch.setattr(grid, "get_node_ids", lambda: [1, 2])
    with pytest.raises(RunError, match=r"^roll call: 2 nodes instead of 3 after 0.1 s .*num-supernodes=3"):
        Strict(grid, plain).roll_call(timeout=0.1)


def test_nodes_are_mapped_by_what_they_say(plain):
    def swap(replies):
        a, b = (replies[i].content.config_records["roll-call"] for i in (0, 2))
        a["partition-id"], b["partition-id"] = b["partition-id"], a["partition-id"]
        return replies

    grid = Strict(Roll(plain, swap), plain)
    grid.roll_call()
    assert grid.node_of == {0: 3, 1: 2, 2: 1}
    assert list(grid.get_node_ids()) == [3, 2, 1]


def test_an_instruction_is_charged_though_no_reply_arrives(private):
    grid = Strict(Wrapped(private, lambda replies, round: []), private)
    grid.roll_call()
    with pytest.raises(RunError, match="the reply is missing"):
        grid.send_and_receive([instruction(private, n) for n in (1, 2, 3)])
    for plan in private.clients:
        assert grid.ledger.releases_of(plan.id) == owed(private, plan, 1)


# Rounds that must not repeat.


class Repeats(FedAvg):
    """Flower's FedAvg, sending round 1 every time."""

    def configure_train(self, server_round, arrays, config, grid):
        return super().configure_train(1, arrays, config, grid)


class TrainsTwice(FedAvg):
    """Flower's FedAvg with one more training of the clients."""

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        grid.send_and_receive(messages)
        return messages


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (Repeats, "round 2 of 2: the strategy calls it round 1"),
        (TrainsTwice, "round 2 of 2: the strategy calls it round 1"),
    ],
)
def test_a_rounds_batches_and_noise_are_never_used_twice(strategy, words):
    run = with_strategy(single_run(FEDAVG, 2.0), f"{__name__}:{strategy.__name__}")
    assert words in refusal(run, LocalGrid(run))
