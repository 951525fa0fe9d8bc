"""What a client remembers between rounds, in Flower's state: its ledger and what it answered last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedtoll.clients.failures import RejectedError
from fedtoll.privacy.ledger import COLUMNS, Release

LEDGER = "fedtoll.ledger"
"""The name of the record in which a client stores and reports all of its releases."""

ANSWERED = "fedtoll.answered"
"""The name of the record in which a client stores the run, round and broadcast of its last reply."""


def answer(run: str, round: int, instructions: Mapping[str, Any], arrays: ArrayRecord) -> ConfigRecord:
    """Return what a client stores of a broadcast that it answers: run, round and digest of the content."""
    digest = hashlib.sha256(repr(sorted(instructions.items())).encode())
    for name, array in arrays.items():
        digest.update(repr((name, array.dtype, tuple(array.shape), array.stype, len(array.data))).encode())
        digest.update(array.data)
    return ConfigRecord({"run": run, "round": round, "broadcast": digest.hexdigest()})


def claim(state: RecordDict, answered: ConfigRecord) -> None:
    """Store which broadcast of a round is answered, before anything is drawn.

    Raises
    ------
    RejectedError
        If the round would use its batches and noise twice: it precedes the last round, or it is the last
        round with another model or other instructions. Also if it belongs to another run.
    """
    new: Any = answered
    last: Any = state.get(ANSWERED, new)
    round = new["round"]
    if last["run"] != new["run"]:
        raise RejectedError(
            f"round {round} belongs to another run than round {last['round']}, already answered"
        )
    if round < last["round"]:
        raise RejectedError(f"round {round} arrived after round {last['round']} was answered")
    if round == last["round"] and last["broadcast"] != new["broadcast"]:
        raise RejectedError(f"round {round} was already answered, to another broadcast")
    state[ANSWERED] = answered


def entered(state: RecordDict, round: int) -> bool:
    """Return whether the ledger already has this round, as when a message is repeated."""
    ledger: Any = state.get(LEDGER, {})
    return bool(ledger) and ledger["round"][-1] == round


def enter(state: RecordDict, releases: Sequence[Release]) -> None:
    """Append releases to the ledger in the client's context, in place because it grows with every round."""
    if LEDGER not in state:
        first = releases[0]
        state.config_records[LEDGER] = ConfigRecord({column: [getattr(first, column)] for column in COLUMNS})
        releases = releases[1:]
    ledger: Any = state[LEDGER]
    for release in releases:
        for column in COLUMNS:
            ledger[column].append(getattr(release, column))


def releases_in(content: RecordDict, client: int) -> tuple[Release, ...]:
    """Return the releases in a reply's ledger."""
    columns: Any = content[LEDGER]
    return tuple(Release(client, *row) for row in zip(*(columns[c] for c in COLUMNS), strict=True))
