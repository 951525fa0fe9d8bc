"""A Flower Grid that runs all clients of a run in this process.

Flower 1.41's ``Grid`` is a public interface. The private parts used here (the process-wide ``TaskIdentity``,
the message id, an empty ``Run``) appear in no other file, and a contract test covers them.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from flwr.app import Context, Message, RecordDict
from flwr.app.message_type import MessageType
from flwr.serverapp import Grid
from flwr.supercore.run import Run as FlowerRun
from flwr.supercore.task_identity import TaskIdentity

from fedtoll.clients import roll_call
from fedtoll.clients import train as clients
from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.run import Run

Handler = Callable[[Sequence[Message], Sequence[Context]], list[Message]]


class SynchronousGrid(Grid):
    """A Grid with ``send_and_receive`` only, which is all that Flower's strategy loop uses."""

    def set_run(self, run: FlowerRun) -> None:
        """Set Flower's run."""
        self._run = run

    @property
    def run(self) -> FlowerRun:
        """Flower's run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a message to a node."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refuse: this Grid is synchronous."""
        raise RunError("this Grid is synchronous: use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refuse: this Grid is synchronous."""
        raise RunError("this Grid is synchronous: use send_and_receive")


class LocalGrid(SynchronousGrid):
    """Runs the clients of one run in this process.

    One handler receives all messages of a round together, so an engine can train the whole cohort at once.
    A process can run one Grid at a time, because Flower's task identity is process-wide.

    Parameters
    ----------
    run
        Its clients become nodes 1 to K.
    handler
        Answers the training messages of a round; by default a new :class:`fedtoll.clients.train.Clients`.
    """

    def __init__(self, run: Run, handler: Handler | None = None) -> None:
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
        logging.getLogger("flwr").setLevel(logging.ERROR)
        self.set_run(FlowerRun.create_empty(1))
        self._handler = clients.Clients().train if handler is None else handler
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
        """Answer every message; the handler receives all training messages together."""
        sent = list(messages)
        for message in sent:
            message.metadata.__dict__["_message_id"] = str(next(self._ids))
        contexts = [self._contexts[m.metadata.dst_node_id] for m in sent]
        if all(m.metadata.message_type == MessageType.QUERY for m in sent):
            return [roll_call.roll_call(m, c) for m, c in zip(sent, contexts, strict=True)]
        return self._handler(sent, contexts)


def wait_for_nodes(grid: Grid, expected: int, timeout: float) -> list[int]:
    """Return the nodes of a Grid, as soon as so many are there.

    Raises
    ------
    RunError
        If they are fewer after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while len(nodes := sorted(grid.get_node_ids())) < expected:
        if time.monotonic() > deadline:
            raise RunError(
                f"roll call: {len(nodes)} nodes instead of {expected} after {timeout:g} s "
                f'(flwr run takes --federation-config "num-supernodes={expected}")'
            )
        time.sleep(0.2)
    return nodes
