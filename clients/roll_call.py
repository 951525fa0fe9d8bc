"""Answer the server's roll call.

Torch is not imported here. Flower's SuperNodes start a process for every message, and this one needs none.
"""

from __future__ import annotations

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedtoll.scenarios.run import NUMERICS


def roll_call(message: Message, context: Context) -> Message:
    """Reply with the client of this node and its version of fedtoll."""
    from fedtoll import __version__

    content = ConfigRecord(
        {"partition-id": partition_id(context), "fedtoll": __version__, "numerics": NUMERICS}
    )
    return Message(RecordDict({"roll-call": content}), reply_to=message)


def partition_id(context: Context) -> int:
    """Return the number of the client of a node, from the node's configuration."""
    return int(context.node_config["partition-id"])
