"""The Flower ``ClientApp``: trains one client, one message at a time."""

from __future__ import annotations

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedtoll.clients import train as handler

torch.set_num_threads(1)
app = ClientApp()
_clients = handler.Clients()  # Flower calls functions, so what rounds share lives as long as the process


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the client of this node for one round."""
    (reply,) = _clients.train([message], [context])
    return reply


@app.query()
def roll_call(message: Message, context: Context) -> Message:
    """Answer the server's roll call."""
    return handler.roll_call(message, context)
