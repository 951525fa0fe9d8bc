"""Clients that keep models of their own: those are noised, charged, kept and scored as promised.

What a client has after a round follows from what it had before, from the model that it received and from
noise. All three are known here: no record is drawn, and the client's own model is the one of its last reply.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message_type import MessageType
from numpy.typing import NDArray

from fedtoll.clients import state as client_state
from fedtoll.clients import wire
from fedtoll.clients.engines import sampling
from fedtoll.privacy.ledger import DP_SGD
from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import plan
from fedtoll.server.strict import Strict
from tests.gate import tables
from tests.gate.ledger import REPLY, Row, Tap, _bounds, _merged, rows_of
from tests.gate.noise import close, independent, unit
from tests.gate.replay import touched
from tests.gate.system import (
    CLIP,
    EPSILON,
    FEDAVG,
    PLANNED,
    RATE,
    ROUNDING,
    STEP,
    ClientError,
    System,
    check,
    everybody,
    exactly,
    flat,
    masks,
    nobody,
    scenario,
    send,
    start,
)
from tests.shared import records

PREFIX = "own models: "
STRENGTH, STEPS, OWN_STEPS, ROUNDS = 0.3, 2, 3, 4
KINDS: dict[str, dict[str, Any]] = {
    "mr-mtl": {"kind": "mr-mtl", "strength": STRENGTH},
    "fedper": {"kind": "fedper", "last": 2},
    "ditto": {"kind": "ditto", "strength": STRENGTH, "steps": OWN_STEPS},
    "plug-in": {"kind": "tests.gate.models:Halfway", "strength": STRENGTH, "steps": OWN_STEPS},
}
TWOFOLD = ("ditto", "plug-in")
"""The kinds with steps that train only the own model."""

OWN = "own model"
"""How the ledger calls the steps of Ditto's own models."""

Vector = NDArray[np.float64]


@functools.lru_cache(maxsize=64)
def planned(
    system: System, kind: str, moved: str = "", rounds: int = ROUNDS, steps: int = STEPS, own: int = OWN_STEPS
) -> Run:
    """Plan a run with DP-SGD whose clients keep models of their own."""
    training = {"rounds": rounds, "local_steps": steps, "sampling_rate": RATE, "learning_rate": STEP}
    section = tables.section(system.classes, moved, ("sex",), ())
    table = scenario(system, section, training, 1, FEDAVG).model_dump(mode="json")
    table["personal"] = {**KINDS[kind], **({"steps": own} if kind in TWOFOLD else {})}
    table["privacy"]["epsilons"] = [EPSILON]
    table["results"] = {"predictions": True}
    (run,) = plan(validate(table, "gate.toml"), "gate.toml").runs
    return run


PLANNED.append(planned)


def contents(
    grid: LocalGrid, run: Run, model: Any, round: int, some: Sequence[int] | None = None
) -> list[Any]:
    """Return what all clients, or some, reply."""
    found = []
    for reply in send(grid, run, model, round, some):
        if reply.has_error():
            raise ClientError(reply.error.reason)
        assert set(reply.content) == {*REPLY, "personal"}, f"a reply holds {sorted(reply.content)}"
        found.append(reply.content)
    return found


def read(content: RecordDict, name: str) -> list[NDArray[Any]]:
    arrays = content.array_records[name].to_numpy_ndarrays()
    assert wire.encoded(arrays) == content.array_records[name], f"{name} holds more than numbers"
    return arrays


def head(run: Run, model: Any) -> int:
    """Return where the head begins in a model as a vector."""
    return flat(model[: len(model) - 2]).size if run.personal and run.personal.kind == "fedper" else 0


@check(PREFIX + "noise")
@exactly()
def noise(system: System) -> None:
    """Each client goes on from its own model, and every step of it has fresh noise of sd η σ C / B."""
    decay = 1 - STEP * STRENGTH
    half = math.sqrt(sum(decay ** (2 * j) for j in range(STEPS)))
    for kind in KINDS:
        run, rows = planned(system, kind), []
        grid, own = LocalGrid(run), dict[int, Vector]()
        for round in range(1, ROUNDS + 1):
            model = start(run, seed=round)
            sent, first = flat(model), head(run, model)
            with masks(nobody):
                replies = contents(grid, run, model, round)
            for k, content in enumerate(replies):
                title, sd = f"{kind}, round {round}, client {k}", unit(k, run.clients[k].noise_multiplier)
                new, mine = flat(read(content, "arrays")), flat(read(content, "personal"))
                before = own.get(k, sent)
                if kind == "plug-in":  # which begins and is scored halfway
                    mine = 2 * mine - sent
                    rows.append((mine - before) / (sd * math.sqrt(OWN_STEPS)))
                    rows.append((new - sent - decay**STEPS * (before - sent) / 2) / (sd * half))
                elif kind == "fedper":
                    assert np.array_equal(new[first:], sent[first:]), f"{title}: the head leaves the client"
                    assert np.array_equal(new[:first], mine[:first]), f"{title}: two bodies"
                    due = np.concatenate([sent[:first], before[first:]])
                    rows.append((mine - due) / (sd * math.sqrt(STEPS)))
                else:
                    steps = OWN_STEPS if kind == "ditto" else STEPS
                    due = sent + decay**steps * (before - sent)
                    most = math.sqrt(sum(decay ** (2 * j) for j in range(steps)))
                    rows.append((mine - due) / (sd * most))
                if kind == "mr-mtl":
                    assert np.array_equal(new, mine), f"{title}: sends another model than its own"
                if kind == "ditto":
                    rows.append((new - sent) / (sd * math.sqrt(STEPS)))
                own[k] = mine
        for k in range(len(run.clients)):
            part = len(rows) // ROUNDS // len(run.clients)
            client = [rows[i] for i in range(len(rows)) if i // part % len(run.clients) == k]
            close(np.concatenate(client), f"{kind}, client {k}")
        independent(np.array(rows), kind)


@check(PREFIX + "replay")
@exactly()
def replay(system: System) -> None:
    """One record moves what a client sends by at most η C / B, and its own model too, from any state."""
    for kind in KINDS:
        reached = 0.0
        for moved in ("outlier", "many", "one"):
            full, without = (planned(system, kind, m, 2, 1, 1) for m in ("", moved))
            answers = []
            for run in (full, without):
                grid, models = LocalGrid(run), [start(run, seed=s) for s in (1, 2)]
                with masks(nobody):  # so that both come to the same own models
                    contents(grid, run, models[0], 1)
                with masks(everybody):
                    answers.append(contents(grid, run, models[1], 2))
            for k, pair in enumerate(zip(*answers, strict=True)):
                limit = STEP * CLIP / (RATE * tables.SIZES[k]) if k in touched(moved) else 0.0
                for name in ("arrays", "personal"):
                    a, b = (flat(read(content, name)) for content in pair)
                    found = float(np.linalg.norm(a - b))
                    assert found <= limit + ROUNDING[system.precision], (
                        f"{kind}, {moved}: {name} of client {k} moves by {found:.4g}, not {limit:.4g}"
                    )
                    reached = max(reached, found / limit if limit else 0.0)
        assert reached > 0.3, f"{kind}: no record moves a model by much"


@contextmanager
def drawn() -> Iterator[list[tuple[int, ...]]]:
    """Record every batch."""
    found: list[tuple[int, ...]] = []
    original = sampling.poisson

    def poisson(rng: np.random.Generator, count: int, rate: float) -> NDArray[np.int64]:
        rows = original(rng, count, rate)
        found.append(tuple(rows.tolist()))
        return rows

    with patch.object(sampling, "poisson", poisson):
        yield found


@check(PREFIX + "batches")
def batches(system: System) -> None:
    """Every step that is charged draws a batch of its own, those of the own model too."""
    for kind in KINDS:
        run = planned(system, kind)
        grid = LocalGrid(run)
        with drawn() as found:
            for round in range(1, ROUNDS + 1):
                contents(grid, run, start(run), round, [1])
        due = ROUNDS * (STEPS + (OWN_STEPS if kind in TWOFOLD else 0))
        assert len(found) == due, f"{kind}: {len(found)} batches for {due} steps"
        assert len(set(found)) == due, f"{kind}: two steps use one batch"


@check(PREFIX + "ledger")
def ledger(system: System) -> None:
    """Every step is charged once, those of the own model too, and all of them together spend ε."""
    for kind in KINDS:
        run = planned(system, kind, rounds=3)
        found = federate(tap := Tap(run), run)["ledger"]
        for k, client in enumerate(run.clients):
            due: list[Row] = []
            for round in (1, 2, 3):
                due.append((round, DP_SGD, RATE, client.noise_multiplier, STEPS))
                if kind in TWOFOLD:
                    due.append((round, OWN, RATE, client.noise_multiplier, OWN_STEPS))
            assert rows_of(found, k) == due, f"{kind}, client {k}: the ledger has other releases"
            columns: Any = tap.received[3, k][0][client_state.LEDGER]
            assert list(columns["what"]) == [what for _, what, *_ in due], f"{kind}: client {k} disagrees"
            spent = float(found[found["client"] == k]["epsilon_spent"].max())
            merged = _merged([(r, DP_SGD, q, z, n) for r, _, q, z, n in due])
            least, most = _bounds(merged, "pld")
            assert least <= spent <= most, f"{kind}: client {k} spends {most:.4g}, not {spent:.4g}"
            assert 0.98 * EPSILON < spent <= EPSILON * (1 + 1e-9), f"{kind}: {spent:.4g} of {EPSILON}"


@check(PREFIX + "what is shown")
def shown(system: System) -> None:
    """No strategy sees a client's own model: the server takes it out of the reply before."""
    for kind in KINDS:
        run = planned(system, kind)
        strict = Strict(LocalGrid(run), run)
        strict.roll_call()
        config = ConfigRecord({"run": run.to_json(), "server-round": 1})
        content = RecordDict({"arrays": ArrayRecord(start(run)), "config": config})
        messages = [Message(content, node, MessageType.TRAIN) for node in strict.client_of]
        for reply in strict.send_and_receive(messages):
            assert set(reply.content) == REPLY, f"{kind}: a strategy is shown {sorted(reply.content)}"


@check(PREFIX + "retry")
def retry(system: System) -> None:
    """A repeated message gets the same reply, is charged once, and does not move the client's own model."""
    for kind in KINDS:
        run, grids = planned(system, kind), [LocalGrid(planned(system, kind)) for _ in range(2)]
        models = [start(run, seed=s) for s in range(4)]
        for round in (1, 2):
            first = contents(grids[0], run, models[round], round)
            contents(grids[1], run, models[round], round)
        again = contents(grids[0], run, models[2], 2)
        for a, b in zip(first, again, strict=True):
            for name in ("arrays", "personal", client_state.LEDGER):
                assert a[name] == b[name], f"{kind}: a repeated message gets another reply ({name})"
        after = [contents(grid, run, models[3], 3) for grid in grids]
        for a, b in zip(*after, strict=True):
            assert a["personal"] == b["personal"], f"{kind}: a repeated message moves the own model"


@check(PREFIX + "scores")
def scores(system: System) -> None:
    """Every held-out record is scored by the own model of the client that holds records of its site."""
    system = replace(system, model="logistic")
    for kind in KINDS:
        run = planned(system, kind, rounds=2)
        found = federate(tap := Tap(run), run)
        held = records(run)
        sites = held.table.attributes["site"]
        predictions = found["predictions"].sort_values("record")
        rows = predictions["record"].to_numpy()
        assert np.array_equal(rows, np.sort(held.test)), f"{kind}: not every held-out record is scored once"
        owners = np.array([list(tables.SITES).index(sites.names[c]) for c in sites.codes[rows]])
        assert np.array_equal(predictions["client"], owners), f"{kind}: scored by a client of another site"
        own = [read(tap.received[2, k][0], "personal") for k in range(len(run.clients))]
        logits = np.array([
            held.table.features[row].astype(np.float64) @ own[k][0].T + own[k][1]
            for row, k in zip(rows, owners, strict=True)
        ])  # fmt: skip
        if run.classes == 2:
            due: NDArray[Any] = 1 / (1 + np.exp(-logits[:, 0]))
            seen: NDArray[Any] = predictions["score"].to_numpy()
            right = (due >= 0.5) == (predictions["label"] == 1)
        else:
            exp = np.exp(logits - logits.max(axis=1, keepdims=True))
            due = exp / exp.sum(axis=1, keepdims=True)
            seen = predictions[[f"score_{c}" for c in range(run.classes)]].to_numpy()
            right = due.argmax(axis=1) == predictions["label"]
        assert np.abs(due - seen).max() < 1e-6, f"{kind}: another model's scores"
        last = found["groups"][found["groups"]["round"] == 2].set_index("group")["accuracy"]
        for sex, accuracy in right.groupby(predictions["group"]).mean().items():
            assert abs(last[sex] - accuracy) < 1e-9, f"{kind}: the figures of {sex} are others"
