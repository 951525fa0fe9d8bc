"""The Flower ``ClientApp``: trains one client, one message at a time.

Torch is imported for training only, because SuperNodes load this module for every message.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedtoll.clients import roll_call as handler
from fedtoll.clients.failures import CLIENT_FAILED, REASONS

if TYPE_CHECKING:
    from fedtoll.clients.node import Decided, Node

_log = logging.getLogger("fedtoll")
app = ClientApp()
_nodes: dict[Decided, Node] = {}  # Flower calls functions, so what rounds share lives as long as the process


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the client of this node for one round."""
    try:
        node = _node(context)
    except Exception:  # what the operator configured is no business of the server's
        _log.exception("this node cannot start its client")
        return Message(Error(CLIENT_FAILED, REASONS[CLIENT_FAILED]), reply_to=message)
    (reply,) = node.train([message], [context])
    while node.failures:  # in the log of this process alone
        failure = node.failures.pop()
        _log.error("round %d, client %d failed", failure.round, failure.client, exc_info=failure.error)
    return reply


@app.evaluate()
def calibrate(message: Message, context: Context) -> Message:
    """Answer the server's last message, after the rounds."""
    return train(message, context)


def _node(context: Context) -> Node:
    """Return the client of this node; the last one is kept.

    In a simulation one process is many nodes in turn. They decide nothing, and so share one object.
    """
    import torch

    from fedtoll.clients.node import Decided, Node

    torch.set_num_threads(1)
    decided = Decided.of(context)
    if decided not in _nodes:
        _nodes.clear()
        _nodes[decided] = Node(decided)
    return _nodes[decided]


@app.query()
def roll_call(message: Message, context: Context) -> Message:
    """Answer the server's roll call."""
    return handler.roll_call(message, context)
