"""A third system: clients that differ, by personal budgets and by the rounds in which they take part.

Five clients hold records of one sex each. Who takes part is drawn here again, from the public seed alone, and
the releases of every client are counted by its own rounds.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message_type import MessageType
from numpy.typing import NDArray

from fedtoll.privacy.ledger import DP_SGD
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.participation import Participation
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Partition
from fedtoll.server.app import federate
from fedtoll.server.plan import plan
from fedtoll.server.strict import Strict
from tests.gate import tables
from tests.gate.ledger import Row, Tap, _bounds, _merged, rows_of
from tests.gate.noise import close, independent
from tests.gate.replay import SENSITIVITY
from tests.gate.system import (
    CLIP,
    DELTA,
    EPSILON,
    EVERYTHING,
    PLANNED,
    RATE,
    STEP,
    System,
    Z,
    ask,
    check,
    exactly,
    masks,
    nobody,
    scenario,
    send,
    start,
)

CLIENTS = {"F": 2, "M": 3}
"""The number of clients of each sex."""

GROUP = tuple(sex for sex, count in CLIENTS.items() for _ in range(count))
ROUNDS, STEPS, EVERY, SEED = 7, 2, 2, 4

SHARES = {"F": 0.5, "client 3": 0.25}
FACTORS = (0.5, 0.5, 1.0, 0.25, 1.0)
"""The shares of ε by group and client, and what they mean for every client."""

CHANCES = {"F": 0.3, "client 4": 0.5, "*": 0.8}
CHANCE = np.array([0.3, 0.3, 0.8, 0.8, 0.5])
"""The availabilities, and what they mean for every client."""

RULES = {
    "availability": {"kind": "availability", "availability": CHANCES, "seed": SEED},
    "fraction": {"kind": "fraction", "fraction": 0.4, "seed": SEED},
}


@functools.lru_cache(maxsize=16)
def planned(system: System, rule: str = "", moved: str = "", *, shares: bool = False) -> Run:
    """Plan a run with DP-SGD."""
    training = {"rounds": ROUNDS, "local_steps": STEPS, "sampling_rate": RATE, "learning_rate": STEP}
    section = tables.section(system.classes, moved, ("sex",), ())
    stated = scenario(system, section, training, EVERY, EVERYTHING)
    privacy = stated.privacy.changed(epsilons=(EPSILON,), epsilon_factor=SHARES if shares else {})
    partition = Partition(kind="group", clients=CLIENTS)
    drawn = Participation(**RULES[rule]) if rule else Participation()
    changes = {"privacy": privacy, "partition": partition, "participation": drawn}
    (run,) = plan(stated.model_copy(update=changes), "gate.toml").runs
    return run


PLANNED.append(planned)


def sizes(system: System) -> list[int]:
    """Return every client's public size, counted in the file."""
    counts = tables.frame(system.classes)["sex"].value_counts()
    return [int(counts[sex]) // 2 // CLIENTS[sex] for sex in GROUP]


def expected(rule: str) -> NDArray[np.bool_]:
    """Return who takes part in which round, drawn here from the public seed."""
    present = np.ones((ROUNDS, len(GROUP)), dtype=bool)
    for t in range(1, ROUNDS + 1) if rule else ():
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(SEED, spawn_key=(14, t))))
        if rule == "availability":
            present[t - 1] = rng.random(len(GROUP)) < CHANCE
        else:
            present[t - 1] = False
            present[t - 1, rng.choice(len(GROUP), 2, replace=False)] = True
    return present


def due(run: Run, client: int, rounds: list[int]) -> list[Row]:
    """Return the releases that the scenario permits in these rounds of a client."""
    rows: list[Row] = []
    for turn, round in enumerate(rounds, start=1):
        if turn % EVERY == 1:
            rows += [(round, name, 1.0, Z, 1) for name in ("mean_loss", "group_loss", "label_group_loss")]
            rows += [(round, name, 1.0, Z, 1) for name in ("error_rate", "group_confusion", "group_score")]
        rows.append((round, DP_SGD, RATE, run.clients[client].noise_multiplier, STEPS))
    return rows


def spent(run: Run, tap: Tap, present: NDArray[np.bool_]) -> list[Any]:
    """Run a federation, compare its ledger with what is due, and return the model after each round."""
    models: list[Any] = []
    tables_ = federate(tap, run, lambda round, model: models.append(model))
    public = [c.size for c in run.clients]
    asked = {key for key in tap.received if key[0]}
    due_now = {(t + 1, k) for t, k in zip(*np.nonzero(present), strict=True)}
    assert asked == due_now, f"asked {sorted(asked - due_now)}, not asked {sorted(due_now - asked)}"
    assert all(tap.received[key][0] for key in asked), "somebody who is asked does not answer"
    ledger = tables_["ledger"]
    assert set(ledger["delta"]) == {DELTA}
    for client in range(len(GROUP)):
        rounds = (np.flatnonzero(present[:, client]) + 1).tolist()
        rows = due(run, client, rounds)
        assert rows_of(ledger, client) == rows, f"client {client}: the ledger has other releases"
        for round in rounds:
            (content,) = tap.received[round, client]
            metrics = content.metric_records["metrics"]
            sent = {name for name in metrics if name in SENSITIVITY}
            charged = {row[1] for row in rows if row[0] == round} - {DP_SGD}
            where = f"round {round}, client {client}"
            assert sent == charged, f"{where}: sent {sorted(sent)}, charged {sorted(charged)}"
            assert metrics["num-examples"] == public[client], f"{where}: another size"
        claimed = float(ledger[ledger["client"] == client]["epsilon_spent"].max()) if rows else 0.0
        if not rows:
            continue
        least, most = _bounds(_merged(rows), str(run.accountant))
        assert least <= claimed <= most, (
            f"client {client}: ε = {claimed:.5g} in the ledger, between {least:.5g} and {most:.5g} spent"
        )
        target = EPSILON * (FACTORS[client] if run.has_personal_budgets else 1.0)
        assert 0.98 * target < claimed <= target * (1 + 1e-9), (
            f"client {client} spends {claimed:.4g} of {target:g}"
        )
    return models


def noise(run: Run, system: System, present: NDArray[np.bool_]) -> None:
    """Assert that the noise of every client in each of its rounds is fresh, and what its σ says."""
    parameters, public = start(run), sizes(system)
    for client, size in enumerate(public):
        unit = STEP * run.clients[client].noise_multiplier * CLIP / (RATE * size) * math.sqrt(STEPS)
        rounds = (np.flatnonzero(present[:, client]) + 1).tolist()
        with masks(nobody), exactly():
            vectors = [ask(run, parameters, round, [client])[0].update / unit for round in rounds]
        if vectors:
            close(np.concatenate(vectors), f"client {client} in rounds {rounds}")
        if len(vectors) > 1:
            independent(np.array(vectors), f"client {client} in rounds {rounds}")


@check("personal budgets")
def budgets(system: System) -> None:
    """A client spends its own share of ε with noise to match; a client of several groups gets no group's."""
    run = planned(system, shares=True)
    assert [c.group for c in run.clients] == list(GROUP)
    assert [c.size for c in run.clients] == sizes(system)
    everybody = expected("")
    spent(run, Tap(run), everybody)
    noise(run, system, everybody[:3])
    section = tables.section(system.classes, "", ("sex",), ())
    training = {"rounds": 1, "local_steps": 1, "sampling_rate": RATE, "learning_rate": STEP}
    mixed = scenario(system, section, training, EVERY, EVERYTHING)  # by site: clients of both sexes
    mixed = mixed.model_copy(update={"privacy": mixed.privacy.changed(epsilon_factor={"F": 0.5})})
    try:
        plan(mixed, "gate.toml")
        refused = ""
    except ScenarioError as error:
        refused = str(error)
    assert "several groups" in refused, "a client of both sexes has the budget of one"


@check("participation")
def participation(system: System) -> None:
    """Who takes part follows from a public seed; each pays for its own rounds, unamplified, and no other."""
    for rule in RULES:
        run, present = planned(system, rule), expected(rule)
        assert not present.all(axis=0).any()
        for moved in ("outlier", "few"):
            other = planned(system, rule, moved)
            assert other.clients == run.clients, f"{rule}, {moved}: the plan of neighbours differs"
            assert np.array_equal(other.attendance.present_TK, present), f"{rule}: not the public schedule"
        models = spent(run, Tap(run), present)
        for t in range(ROUNDS):
            same = all(np.array_equal(a, b) for a, b in zip(models[t], models[t + 1], strict=True))
            assert same != present[t].any(), f"round {t + 1}, {rule}: the model changes if nobody trains"
        noise(run, system, present)
        _absent(run, present)
        _lost(run, present)


def _absent(run: Run, present: NDArray[np.bool_]) -> None:
    """A client that is asked in a round that is not its own refuses, before it releases anything."""
    from fedtoll.server.grid import LocalGrid

    for round in range(1, ROUNDS + 1):
        away = np.flatnonzero(~present[round - 1]).tolist()
        for client, reply in zip(away, send(LocalGrid(run), run, start(run), round, away), strict=True):
            assert reply.has_error(), f"client {client} answers in round {round}, which is not its own"


def _lost(run: Run, present: NDArray[np.bool_]) -> None:
    """Whoever is asked is charged, even if no reply arrives; whoever is away is not."""
    tap = Tap(run)
    deliver = tap.send_and_receive
    round = int(np.flatnonzero(present.sum(axis=1) > 1)[0]) + 1
    asked = np.flatnonzero(present[round - 1]).tolist()

    def loses(messages: Any, *, timeout: float | None = None) -> list[Message]:
        replies = deliver(messages, timeout=timeout)
        training = replies[0].metadata.message_type == MessageType.TRAIN
        return [r for r in replies if not (training and r.metadata.src_node_id == asked[-1] + 1)]

    strict = Strict(tap, run)
    strict.roll_call()
    earlier = [t for t in range(1, round) if present[t - 1].any()]
    for t in [*earlier, round]:
        if t == round:
            tap.send_and_receive = loses  # type: ignore[method-assign]
        config = ConfigRecord({"run": run.to_json(), "server-round": t})
        content = RecordDict({"arrays": ArrayRecord(start(run)), "config": config})
        nodes = [strict.node_of[k] for k in np.flatnonzero(present[t - 1]).tolist()]
        try:
            strict.send_and_receive([Message(content, node, MessageType.TRAIN) for node in nodes])
            refused = ""
        except RunError as error:
            refused = str(error)
    assert "the reply is missing" in refused, f"a lost reply leads to {refused or 'no error'}"
    for client in range(len(GROUP)):
        rows = [
            (r.round, r.what, r.sampling_rate, r.noise_multiplier, r.count)
            for r in strict.ledger.releases_of(client)
        ]
        own = [t for t in range(1, round + 1) if present[t - 1, client]]
        assert rows == due(run, client, own), f"client {client}: {len(rows)} releases are charged"
