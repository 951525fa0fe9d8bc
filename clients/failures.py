"""Failures of clients: the little that their reply says, and the log that stays with them."""

from __future__ import annotations

from dataclasses import dataclass

from fedtoll.scenarios.errors import one_line

CLIENT_FAILED, MESSAGE_REJECTED = 101, 102
"""The error codes of a client that raised, and of one that rejects what the server sent."""

REASONS = {
    CLIENT_FAILED: "the client failed",
    MESSAGE_REJECTED: "the client rejects the message",
}
"""All that an error reply says. What a client raises can contain values of its records."""

MOST_FAILURES = 100
"""The maximum number of failures in the log of the clients of this process."""


class RejectedError(ValueError):
    """The server sent a message that a client does not answer, whatever its records are."""


@dataclass(frozen=True)
class Failure:
    """One failure in the log of the clients of this process, which never leaves it.

    Parameters
    ----------
    client, round
        Who failed, by partition id, and in which round; 0 if the message does not say.
    error
        What was raised.
    """

    client: int
    round: int
    error: Exception

    @property
    def line(self) -> str:
        """The error in one line."""
        return one_line(f"{type(self.error).__name__}: {self.error}")
