"""Two Grids: one runs the clients in this process, one lets no loss pass in silence.

Flower 1.41's ``Grid`` is a public interface; the private touch-points (the
process-wide ``TaskIdentity``, the message id, an empty ``Run``) are all in
this file and under a contract test.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.app.message_type import MessageType
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun
from flwr.supercore.task_identity import TaskIdentity

from fedtoll.clients import train as clients
from fedtoll.clients.ledger import Ledger, Release, owed
from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.run import NUMERICS, Run

Handler = Callable[[Sequence[Message], Sequence[Context]], list[Message]]


class _Delegating(Grid):
    """A Grid whose send-and-receive is the only way in: what Flower's strategy loop uses."""

    def set_run(self, run: FlowerRun) -> None:
        self._run = run

    @property
    def run(self) -> FlowerRun:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise RunError("this Grid is synchronous: use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise RunError("this Grid is synchronous: use send_and_receive")


class LocalGrid(_Delegating):
    """Runs the clients of one run in this process.

    All messages of a round reach one handler at once, so an engine can train the whole cohort
    together. One run at a time a process: Flower's task identity is process-wide.

    Parameters
    ----------
    run
        Its clients become nodes 1 to K.
    handler
        What answers a round's training messages.
    """

    def __init__(self, run: Run, handler: Handler = clients.train) -> None:
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
        logging.getLogger("flwr").setLevel(logging.ERROR)
        self.set_run(FlowerRun.create_empty(1))
        self._handler = handler
        self._ids = itertools.count(1)
        self._contexts = {
            i + 1: Context(
                run_id=1,
                node_id=i + 1,
                node_config={"partition-id": i, "num-partitions": len(run.clients)},
                state=RecordDict(),
                run_config={},
            )
            for i in range(len(run.clients))
        }

    def get_node_ids(self) -> Iterable[int]:
        """Return 1 to K."""
        return list(self._contexts)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Answer every message; the handler gets all training messages at once."""
        sent = list(messages)
        for message in sent:
            message.metadata.__dict__["_message_id"] = str(next(self._ids))
        contexts = [self._contexts[m.metadata.dst_node_id] for m in sent]
        if all(m.metadata.message_type == MessageType.QUERY for m in sent):
            return [clients.roll_call(m, c) for m, c in zip(sent, contexts, strict=True)]
        return self._handler(sent, contexts)


class Strict(_Delegating):
    """Wraps any Grid: replies come complete, well formed, finite and sorted by client, or the run ends.

    It is also where the server's ledger is kept, for it sees every instruction that is sent: each is
    charged from public constants before it leaves, whether or not a reply arrives, and each reply's
    own ledger must equal it.
    """

    def __init__(self, grid: Grid, run: Run) -> None:
        self._grid = grid
        self._plan = run
        self._clients = {c.id: c for c in run.clients}
        self._client_of: dict[int, int] = {}
        self.node_of: dict[int, int] = {}
        self.ledger = Ledger(run.delta, run.accountant)
        self.set_run(grid.run)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that answered the roll call, in the order of their clients."""
        return [self.node_of[c] for c in sorted(self.node_of)]

    def roll_call(self, timeout: float = 120.0) -> None:
        """Ask every node which client it is, for error replies carry no partition, and compare versions.

        Raises
        ------
        RunError
            When a client is missing, stands twice, or runs other arithmetic.
        """
        expected = len(self._plan.clients)
        nodes = _wait_for_nodes(self._grid, expected, timeout)
        calls = [Message(RecordDict(), node, MessageType.QUERY) for node in nodes]
        found: dict[int, int] = {}
        for reply in self._grid.send_and_receive(calls, timeout=timeout):
            node = reply.metadata.src_node_id
            if reply.has_error():
                raise RunError(f"roll call: node {node} failed: {_last_line(reply.error.reason)}")
            answer = reply.content.config_records["roll-call"]
            if answer["numerics"] != NUMERICS:
                raise RunError(
                    f"roll call: node {node} runs fedtoll {answer['fedtoll']!s} with other arithmetic"
                )
            index = int(answer["partition-id"])  # type: ignore[arg-type]
            if index in found:
                raise RunError(f"roll call: two nodes are client {index}")
            found[index] = node
        if missing := sorted(set(range(expected)) - set(found)):
            raise RunError(f"roll call: client {missing[0]} did not answer")
        self.node_of = {self._plan.clients[i].id: found[i] for i in range(expected)}
        self._client_of = {node: client for client, node in self.node_of.items()}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send, charge, receive, check, sort.

        Raises
        ------
        RunError
            One line that names round and client: a reply that is missing, failed, malformed, not
            finite, or whose ledger differs.
        """
        sent = sorted(messages, key=lambda m: self._client_of[m.metadata.dst_node_id])
        if not sent:
            return []
        rounds: dict[int, Message] = {}
        for message in sent:
            client = self._client_of[message.metadata.dst_node_id]
            if message.metadata.message_type != MessageType.TRAIN:
                raise RunError(
                    f"client {client}: a {message.metadata.message_type!r} message would return un-noised numbers"
                )
            self.ledger.charge(owed(self._plan, self._clients[client], _round(message)))
            rounds[client] = message
        replies: dict[int, Message] = {}
        for reply in self._grid.send_and_receive(sent, timeout=timeout):
            replies[self._client_of.get(reply.metadata.src_node_id, -1)] = reply
        for client, message in rounds.items():
            where = f"round {_round(message)}, client {client} ({self._clients[client].group})"
            if client not in replies:
                raise RunError(f"{where}: the reply is missing")
            reply = replies[client]
            if reply.has_error():
                raise RunError(f"{where}: failed: {_last_line(reply.error.reason)}")
            try:
                self._check(client, message, reply)
            except (KeyError, ValueError, TypeError) as error:
                raise RunError(f"{where}: the reply is malformed: {error}") from None
        return [replies[client] for client in rounds]

    def _check(self, client: int, message: Message, reply: Message) -> None:
        """Raise ``ValueError`` unless a reply has the form and the ledger that it must have."""
        (sent,) = message.content.array_records.values()
        (arrays,) = reply.content.array_records.values()
        if list(sent.keys()) != list(arrays.keys()):
            raise ValueError(f"parameters {list(arrays.keys())} instead of {list(sent.keys())}")
        for name, array in arrays.items():
            values = array.numpy()
            if (values.shape, values.dtype) != ((was := sent[name].numpy()).shape, was.dtype):
                raise ValueError(
                    f"parameter {name}: {values.dtype}{values.shape}, not {was.dtype}{was.shape}"
                )
            if not np.isfinite(values).all():
                raise ValueError(f"parameter {name} is not finite")
        (metrics,) = reply.content.metric_records.values()
        declared = {"num-examples"}
        for statistic in self._plan.statistics:
            declared |= {statistic.name, f"{statistic.name}.sd"}
        if set(metrics) != declared:
            raise ValueError(f"metrics {sorted(metrics)} instead of {sorted(declared)}")
        for name, value in metrics.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"metric {name} is not finite")
        if metrics["num-examples"] != self._clients[client].size:
            raise ValueError(f"num-examples is {metrics['num-examples']}, not the public size")
        theirs = clients.releases_in(reply.content, client)
        ours = self.ledger.of(client)
        if theirs != ours:
            raise ValueError(f"its ledger holds {_differ(theirs, ours)}")


def _differ(theirs: Sequence[Release], ours: Sequence[Release]) -> str:
    for a, b in itertools.zip_longest(theirs, ours):
        if a != b:
            return f"{a}, the server's {b}"
    return "nothing else"


def _round(message: Message) -> int:
    (config,) = message.content.config_records.values()
    return int(config["server-round"])  # type: ignore[arg-type]


def _last_line(reason: str | None) -> str:
    lines = [line.strip() for line in (reason or "no reason given").splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _wait_for_nodes(grid: Grid, expected: int, timeout: float) -> list[int]:
    import time

    deadline = time.monotonic() + timeout
    while len(nodes := sorted(grid.get_node_ids())) < expected:
        if time.monotonic() > deadline:
            raise RunError(f"roll call: {len(nodes)} nodes instead of {expected} after {timeout:g} s")
        time.sleep(0.2)
    return nodes
