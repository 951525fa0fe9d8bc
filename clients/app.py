"""The Flower ``ClientApp``: trains one client, one message at a time."""

from __future__ import annotations

import logging
import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedtoll.clients import train as handler

torch.set_num_threads(1)
_log = logging.getLogger("fedtoll")
app = ClientApp()
_clients = handler.Clients()  # Flower calls functions, so what rounds share lives as long as the process


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the client of this node for one round."""
    (reply,) = _clients.train([message], [context])
    while _clients.failures:  # in the log of this process alone
        failure = _clients.failures.pop()
        _log.error("round %d, client %d failed", failure.round, failure.client, exc_info=failure.error)
    return reply


@app.query()
def roll_call(message: Message, context: Context) -> Message:
    """Answer the server's roll call."""
    return handler.roll_call(message, context)
