"""A round is answered once: its batches and noise must not be used again with another model."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message_type import MessageType

from fedtoll.clients import state as client_state
from fedtoll.server.grid import LocalGrid
from tests.gate.replay import weighed
from tests.gate.system import System, ask, check, runs, send, start


@check("one answer a round")
def once(system: System) -> None:
    """A client answers one broadcast per round; the same broadcast again gets the same reply, uncharged."""
    private, _ = runs(system, rounds=3)
    told = weighed(system.classes)
    model, unrelated = start(private), start(private, seed=2)
    resplit = private.model_copy(update={"seed": private.seed + 2})
    reseeded = private.model_copy(update={"noise_seed": private.noise_seed + 1})
    grid = LocalGrid(private)
    for round in (1, 2):
        first = [(a, _ledger(a.content)) for a in ask(private, model, round, grid=grid)]
        changed: list[tuple[str, Any, Any, dict[str, Any]]] = [
            ("another model", private, unrelated, {}),
            *((f"with {key}", private, model, {key: value}) for key, value in told.items()),
            ("records of another seed", resplit, model, {}),
            ("noise of another seed", reseeded, model, {}),
        ]
        for what, run, parameters, instructions in changed:
            for reply in send(grid, run, parameters, round, **instructions):
                assert reply.has_error(), f"round {round} is answered again for {what}"
        for (a, ledger), b in zip(first, ask(private, model, round, grid=grid), strict=True):
            assert np.array_equal(a.update, b.update), f"client {a.client}: a retry uses different draws"
            assert a.metrics == b.metrics, f"client {a.client}: a retry releases different statistics"
            assert _ledger(b.content) == ledger, f"client {a.client}: a retry is charged"
    for parameters in (model, unrelated):
        for reply in send(grid, private, parameters, 1):
            assert reply.has_error(), "round 1 is answered after round 2"
    _at_once(system)


def _at_once(system: System) -> None:
    """Send a client two models for one round in the same batch of messages: only one may be answered."""
    private, _ = runs(system, rounds=3)
    config = ConfigRecord({"run": private.to_json(), "server-round": 1})
    models = [ArrayRecord(start(private, seed)) for seed in (1, 2)]
    replies = LocalGrid(private).send_and_receive(
        [Message(RecordDict({"arrays": m, "config": config}), 1, MessageType.TRAIN) for m in models]
    )
    assert [r.has_error() for r in replies] == [False, True], "two models at once are both answered"


def _ledger(content: RecordDict) -> dict[str, list[Any]]:
    """Return a copy: in this process, clients keep writing into the records they sent."""
    return {column: list(values) for column, values in dict(content[client_state.LEDGER]).items()}  # type: ignore[arg-type]
