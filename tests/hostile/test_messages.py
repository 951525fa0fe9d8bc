"""Messages from clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message_type import MessageType

from fedtoll.clients import model
from fedtoll.clients import state as client_state
from fedtoll.clients import train as clients
from fedtoll.server.grid import LocalGrid
from tests.hostile.traps import ESCAPE, bytes_of
from tests.server.federation import FEDAVG, Replies, Wrapped, refusal, single_run

# Messages.


def answered(change: Callable[[Message], None]) -> str:
    """Return the error of a run in which one client's reply is changed."""
    run = single_run(FEDAVG, 2.0, training={"rounds": 1, "local_steps": 1})

    def all_of(replies: Replies, round: int) -> Replies:
        change(replies[1])
        return replies

    error = refusal(run, Wrapped(run, all_of))
    assert error.isprintable()
    assert "client 1" in error
    return error


def arrays(data: Callable[[Array], bytes]) -> Callable[[Message], None]:
    def change(message: Message) -> None:
        record = clients.only(ArrayRecord, message.content)
        name = next(iter(record))
        record[name].data = data(record[name])

    return change


def header(shape: str, descr: str = "'<f4'") -> bytes:
    """Return the bytes of an .npy file whose header claims another array than it has."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 64


@pytest.mark.parametrize(
    "content",
    [
        header("(1000000000000000,)"),
        header("(9223372036854775807, 9223372036854775807)"),
        header("(" * 3000 + ")" * 3000),
        header("(1,)", "'|O'"),
        header("(__import__('os').mkdir('mark'),)"),
        header("(-5,)"),
        b"",
        b"\x93NUMPY",
        b"\0" * 1000,
    ],
    ids=range(9),
)
def test_arrays_that_are_something_else(mark, content):
    answered(arrays(lambda array: content))


@pytest.mark.parametrize("kind", ["pickle", "npy", "npz", "torch"])
def test_arrays_that_are_traps(mark, kind):
    answered(arrays(lambda array: bytes_of(kind, mark)))


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), [1.0] * 100_000])
def test_numbers_that_are_too_large(value):
    def change(message: Message) -> None:
        record: Any = clients.only(MetricRecord, message.content)
        try:
            record["num-examples"] = value
        except (TypeError, ValueError):
            dict.__setitem__(record, "num-examples", value)

    answered(change)


@pytest.mark.parametrize("round", [0, -1, 3, 2**62, -(2**62)])
def test_a_client_answers_no_round_that_its_run_does_not_have(round):
    """The plan charges no batches and noise for such a round."""
    run = single_run(FEDAVG, 2.0, training={"rounds": 2, "local_steps": 1})
    start = ArrayRecord(model.initial(run.model, 91, 2, "float32", 0))
    config = ConfigRecord({"run": run.to_json(), "server-round": round})
    handler = clients.Clients()
    grid = LocalGrid(run, handler.train)
    for node in (1, 2, 3):
        content = RecordDict({"arrays": start, "config": config})
        (reply,) = grid.send_and_receive([Message(content, node, MessageType.TRAIN)])
        assert reply.error.reason == "the client rejects the message"
        assert handler.failures.pop().line == f"RejectedError: round {round}: the run has rounds 1 to 2"
        assert client_state.LEDGER not in grid._contexts[node].state


def test_the_reason_of_a_failure_is_one_line_without_escapes():
    run = single_run(FEDAVG, 2.0, training={"rounds": 1, "local_steps": 1})
    reason = f"{ESCAPE}\nfedtoll: all is well\0"

    def fail(replies: Replies, round: int) -> Replies:
        return [replies[0], Message(Error(1, reason), reply_to=replies[1]), *replies[2:]]

    grid = Wrapped(run, fail)
    send = grid.send_and_receive

    def with_errors(messages: Any, *, timeout: float | None = None) -> Replies:
        replies = send(messages, timeout=timeout)
        for reply in replies:
            if reply.has_error():
                reply.metadata.__dict__["_src_node_id"] = 2
        return replies

    grid.send_and_receive = with_errors  # type: ignore[method-assign]
    assert refusal(run, grid).isprintable()
