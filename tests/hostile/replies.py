"""Replies of clients that are changed on their way to the server."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.federation import Federation as Records
from fedtoll.scenarios.read import read
from fedtoll.server.app import federate
from fedtoll.server.plan import plan
from tests.hostile.mutate import NUMBERS, OBEYED, TEXTS, raw
from tests.hostile.traps import KINDS, bytes_of
from tests.server.federation import Replies, Wrapped

TYPES = ("float32", "float64", "<f4", "|O", "int64", "", "x" * 1000, OBEYED, "object")


class Federation:
    """A federation of three clients, one of whose replies is changed in each run."""

    def __init__(self, scenario: Path) -> None:
        planned = plan(read(str(scenario)), scenario.name)
        self.runs = [run for run in planned.runs if run.seed == 0]
        self.records: Records = planned.federation

    def run(self, rng: random.Random) -> None:
        """Run with one changed reply; it must end well, or in one line of printable characters."""
        run = rng.choice(self.runs).model_copy(update={"on_failure": rng.choice(["abort", "skip"])})
        grid = Wrapped(run, lambda replies, round: changed(rng, replies))
        try:
            federate(grid, run)
        except RunError as error:
            text = str(error)
            assert text.isprintable(), repr(text)
            assert len(text) < 2000, len(text)


def changed(rng: random.Random, replies: Replies) -> Replies:
    """Return the replies of a round with one of them changed, doubled, missing or replaced."""
    at = rng.randrange(len(replies))
    reply = replies[at]
    kind = rng.randrange(14)
    if kind == 0:
        return replies[:at] + replies[at + 1 :]
    if kind == 1:
        return [*replies, reply]
    if kind == 2:
        return [*replies[:at], replies[at - 1], *replies[at + 1 :]]
    if kind == 3:
        reason = rng.choice(TEXTS).encode("utf-8", "replace").decode()
        error = Message(Error(rng.choice([0, 1, 2, 101, 201, -1, 2**40]), reason), reply_to=reply)
        return [*replies[:at], error, *replies[at + 1 :]]
    if kind == 4:
        numbers = ["_src_node_id", "_dst_node_id", "_run_id"]
        texts = ["_reply_to_message_id", "_message_id", "_group_id"]
        key = rng.choice([*numbers, *texts])
        values: list[Any] = [0, 1, 2, 3, 2**62, -1] if key in numbers else ["", "x", OBEYED, "x" * 10_000]
        reply.metadata.__dict__[key] = rng.choice(values)
        return replies
    content: Any = reply.content
    names = list(content)
    name = rng.choice(names)
    if kind == 5:
        del content[name]
    elif kind == 6:
        content[rng.choice([*names, "x", OBEYED])] = content[name]
    elif kind == 7:
        records = [
            ArrayRecord(),
            MetricRecord(),
            ConfigRecord(),
            MetricRecord({"a": 1}),
            ConfigRecord({"a": "b"}),
        ]
        content[name] = rng.choice(records)
    elif kind == 8:
        reply.content = RecordDict()
    else:
        _record(rng, content, name)
    return replies


def _record(rng: random.Random, content: RecordDict, name: str) -> None:
    """Change an entry of a record."""
    arrays = [n for n in content if isinstance(content[n], ArrayRecord)]
    record: Any = content[rng.choice(arrays)] if arrays and rng.random() < 0.5 else content[name]
    if not len(record):
        return
    key = rng.choice(list(record))
    if rng.random() < 0.15:
        value = record[key]
        del record[key]
        if rng.random() < 0.5:
            record[rng.choice(["x", "", OBEYED])] = value
        return
    if isinstance(record, ArrayRecord):
        array = record[key]
        data = array.data
        part = rng.randrange(5)
        if part == 0:
            data = raw(rng, data)
        elif part == 1:
            data = bytes_of(rng.choice(KINDS), Path("mark"))
        shape: Any = (
            array.shape if part != 2 else rng.choice([(), (0,), (-1,), (10**12,), (1, 1, 1), (2**62, 4)])
        )
        dtype = array.dtype if part != 3 else rng.choice(TYPES)
        stype = array.stype if part != 4 else rng.choice(TYPES)
        record[key] = Array(dtype=dtype, shape=shape, stype=stype, data=data)
        return
    values: list[Any] = [*NUMBERS, *TEXTS, b"", [], [1], [1.0, float("nan")], ["a"], [True], [b"x"]]
    value = rng.choice(values)
    with contextlib.suppress(TypeError, ValueError):  # no message can hold it
        record[key] = value
