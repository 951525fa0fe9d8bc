"""Messages from clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord

from fedtoll.clients import train as clients
from tests.hostile.traps import ESCAPE, bytes_of
from tests.server.federation import FEDAVG, Replies, Wrapped, one, refusal

# Messages.


def answered(change: Callable[[Message], None]) -> str:
    """The line with which a run ends when one client's reply is changed."""
    run = one(FEDAVG, 2.0, training={"rounds": 1, "local_steps": 1})

    def all_of(replies: Replies, round: int) -> Replies:
        change(replies[1])
        return replies

    told = refusal(run, Wrapped(run, all_of))
    assert told.isprintable()
    assert "client 1" in told
    return told


def arrays(data: Callable[[Array], bytes]) -> Callable[[Message], None]:
    def change(message: Message) -> None:
        record = clients.only(ArrayRecord, message.content)
        name = next(iter(record))
        record[name].data = data(record[name])

    return change


def header(shape: str, descr: str = "'<f4'") -> bytes:
    """The bytes of an .npy file that promises more than it holds."""
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


def test_the_reason_of_a_failure_is_one_line_without_escapes():
    run = one(FEDAVG, 2.0, training={"rounds": 1, "local_steps": 1})
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
