"""The ledger: R rounds are one ledger of R·T steps, and clients send nothing that it lacks.

The expected releases are derived here from the scenario. Their ε is not computed by fedtoll's accountants:
under ``pld``, dp-accounting bounds it from both sides; under ``rdp``, Rényi divergences are integrated from
their definition.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message_type import MessageType

from fedtoll import __version__
from fedtoll.clients import state as client_state
from fedtoll.privacy.ledger import COLUMNS, DP_SGD
from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.run import NUMERICS, Run
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.strict import Strict
from tests.gate import tables
from tests.gate.noise import EMPTY
from tests.gate.replay import SENSITIVITY
from tests.gate.system import DELTA, EPSILON, RATE, Answer, System, Z, ask, check, runs, start
from tests.peers.oracle import at_least, at_most
from tests.peers.test_accounting import integrated

ROUNDS, STEPS, EVERY = 3, 2, 2
REPLY = {"arrays", "metrics", client_state.LEDGER}
"""Record names are observable too, so a reply holds exactly these."""

Row = tuple[int, str, float, float, int]
"""Round, release, q, σ, count."""


def due(run: Run, client: int, until: int = ROUNDS) -> list[Row]:
    """Return the releases that the scenario permits: statistics every other round, T steps every round."""
    rows: list[Row] = []
    for round in range(1, until + 1):
        if round % EVERY == 1:
            rows += [(round, name, 1.0, Z, 1) for name in ("mean_loss", "group_loss", "label_group_loss")]
            rows += [(round, name, 1.0, Z, 1) for name in ("error_rate", "group_confusion", "group_score")]
        rows.append((round, DP_SGD, RATE, run.clients[client].noise_multiplier, STEPS))
    return rows


class Tap(LocalGrid):
    """A Grid that records what every client sent, by round and client; round 0 is the roll call."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.received: dict[tuple[int, int], list[RecordDict]] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        replies = super().send_and_receive(sent, timeout=timeout)
        for message, reply in zip(sent, replies, strict=True):
            config: Any = message.content.config_records.get("config", {"server-round": 0})
            key = (config["server-round"], message.metadata.dst_node_id - 1)
            content = RecordDict() if reply.has_error() else copy.deepcopy(reply.content)
            self.received.setdefault(key, []).append(content)
        return replies


def tapped(system: System) -> tuple[Run, Tap, pd.DataFrame]:
    """Run a federation with all statistics, every other round, over a tapped Grid."""
    private, _ = runs(system, rounds=ROUNDS, steps=STEPS, every=EVERY)
    ledger = federate(tap := Tap(private), private)["ledger"]
    return private, tap, ledger


def rows_of(ledger: pd.DataFrame, client: int) -> list[Row]:
    rows = ledger[ledger["client"] == client]
    return list(
        rows[["round", "release", "sampling_rate", "noise_multiplier", "count"]].itertuples(
            index=False, name=None
        )
    )


@check("one ledger")
def composition(system: System) -> None:
    """After R rounds, a client has spent the ε of one ledger of R·T steps and statistics."""
    run, _, ledger = tapped(system)
    assert run.accountant == "pld"
    _compare(run, ledger)
    renyi = run.model_copy(update={"accountant": "rdp"})
    _compare(renyi, federate(LocalGrid(renyi), renyi)["ledger"])


def _compare(run: Run, ledger: pd.DataFrame) -> None:
    """Compare the ledger's releases with what is due, and its ε with that of oracles."""
    for client in range(len(run.clients)):
        rows = ledger[ledger["client"] == client]
        assert rows_of(ledger, client) == due(run, client), f"client {client}: the ledger has other releases"
        assert set(rows["delta"]) == {DELTA}
        assert set(rows["accountant"]) == {run.accountant}
        spent = rows.groupby("round")["epsilon_spent"].agg(["min", "max"])
        assert (spent["min"] == spent["max"]).all()
        for round in range(1, ROUNDS + 1):
            least, most = _bounds(_merged(due(run, client, round)), str(run.accountant))
            claimed = float(spent["max"][round])
            assert least <= claimed <= most, (
                f"client {client}, round {round}: ε = {claimed:.5g} in the ledger, "
                f"between {least:.5g} and {most:.5g} spent"
            )
        if run.accountant == "pld":  # for which the noise was calibrated
            assert 0.98 * EPSILON < claimed <= EPSILON * (1 + 1e-9), (
                f"client {client} spends {claimed:.4g} of {EPSILON}"
            )


def _bounds(rows: tuple[tuple[str, float, float, int], ...], accountant: str) -> tuple[float, float]:
    """Return what an accountant may claim: what is surely spent, and a little more than what may be."""
    if accountant == "rdp":
        exactly = integrated(rows, DELTA)
        return exactly * (1 - 1e-6), exactly * (1 + 1e-6)
    releases = tuple((noise, rate, count) for _, rate, noise, count in rows)
    return at_least(releases, DELTA, 5e-4), at_most(releases, DELTA, 1e-3) * (1 + 3e-4)


def _merged(rows: list[Row]) -> tuple[tuple[str, float, float, int], ...]:
    """Return each mechanism of all rounds once, with its total count."""
    counts: dict[tuple[str, float, float], int] = {}
    for _, what, rate, noise, count in rows:
        key = ("dp-sgd" if what == DP_SGD else "statistic", rate, noise)
        counts[key] = counts.get(key, 0) + count
    return tuple((*key, count) for key, count in sorted(counts.items()))


@check("wire tap")
def wire(system: System) -> None:
    """Every number that a client sends is a public constant or a release in the ledger."""
    run, tap, ledger = tapped(system)
    assert len(tap.received) == (ROUNDS + 1) * len(run.clients)
    sent = ArrayRecord(start(run))
    cells = {s.name: math.prod(s.declaration.shape(len(run.groups), run.classes)) for s in run.statistics}
    for (round, client), contents in tap.received.items():
        assert len(contents) == 1, f"round {round}, client {client}: {len(contents)} replies"
        (content,) = contents
        if round == 0:
            answer = {name: dict(record) for name, record in content.items()}
            public = {"partition-id": client, "fedtoll": __version__, "numerics": NUMERICS}
            assert repr(answer) == repr({"roll-call": public}), f"client {client} answers {answer}"
            continue
        lines = rows_of(ledger, client)
        charged = [row for row in lines if row[0] == round]
        released = sorted(_released(content, client, sent, cells))
        entered = sorted(what for _, what, *_ in charged)
        assert released == entered, f"round {round}, client {client}: sent {released}, charged {entered}"
        steps = sum(count for _, what, _, _, count in charged if what == DP_SGD)
        assert steps == STEPS, f"round {round}, client {client}: {steps} steps charged, not {STEPS}"
        columns: Any = content[client_state.LEDGER]
        assert set(columns) == set(COLUMNS)
        entries = list(zip(*(columns[c] for c in COLUMNS), strict=True))
        assert repr(entries) == repr([row for row in lines if row[0] <= round]), (
            f"client {client} has a different ledger"
        )


def _released(content: RecordDict, client: int, sent: ArrayRecord, cells: dict[str, int]) -> list[str]:
    """Return the names of the releases in a reply; fail on anything else that is not public."""
    releases: list[str] = []
    assert set(content) == REPLY, f"client {client} sends records named {sorted(content)}"
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            assert list(record) == list(sent), f"client {client}: arrays named {list(record)}"
            for key, array in record.items():
                like = sent[key]
                form = (array.dtype, tuple(array.shape), array.stype)
                assert form == (like.dtype, tuple(like.shape), like.stype), f"client {client}: array {form}"
                head = len(like.data) - like.numpy().nbytes  # the rest is the noised numbers
                assert array.data[:head] == like.data[:head], (
                    f"client {client}: array {key} begins differently"
                )
                assert len(array.data) == len(like.data), (
                    f"client {client}: array {key} has {len(array.data) - len(like.data)} more bytes"
                )
            releases.append(DP_SGD)
        elif isinstance(record, MetricRecord):
            metrics: dict[str, Any] = dict(record)
            count = metrics.pop("num-examples", None)
            assert repr(count) == repr(tables.SIZES[client]), f"client {client} counts {count} records"
            for key in [k for k in metrics if not k.endswith(".sd")]:
                value, sd = metrics.pop(key), metrics.pop(f"{key}.sd", None)
                assert key in SENSITIVITY, f"client {client} sends {key!r}, which is not declared"
                assert np.size(value) == cells[key], f"client {client}: {np.size(value)} cells of {key}"
                public = Z * SENSITIVITY[key](tables.SIZES[client])
                assert sd is not None and math.isclose(sd, public), f"client {client}: sd of {key}"  # noqa: PT018
                releases.append(key)
            assert not metrics, f"client {client} also sends {sorted(metrics)}"
        else:
            assert isinstance(record, ConfigRecord)
            assert name == client_state.LEDGER, f"client {client} sends {name!r}, which is not declared"
    return releases


@check("retry")
def retry(system: System) -> None:
    """The same instruction, sent again to a process without memory of the first, is no new release."""
    private, _ = runs(system, steps=STEPS)
    parameters = start(private)
    answers: list[list[Answer]] = []
    for _ in range(2):
        answers.append(ask(private, parameters, 2))
    for a, b in zip(*answers, strict=True):
        assert np.array_equal(a.update, b.update), f"client {a.client}: a retry trains with different draws"
        assert a.metrics == b.metrics, f"client {a.client}: a retry releases different statistics"


@check("lost reply")
def lost(system: System) -> None:
    """Releases are charged when they are requested, before it is known whether the reply arrives."""
    private, _ = runs(system, rounds=ROUNDS, steps=STEPS, every=EVERY)
    tap = Tap(private)
    deliver = tap.send_and_receive

    def loses(messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = deliver(messages, timeout=timeout)
        training = replies[0].metadata.message_type == MessageType.TRAIN
        return [r for r in replies if not (training and r.metadata.src_node_id == EMPTY + 1)]

    tap.send_and_receive = loses  # type: ignore[method-assign]
    strict = Strict(tap, private)
    strict.roll_call()
    config = ConfigRecord({"run": private.to_json(), "server-round": 1})
    content = RecordDict({"arrays": ArrayRecord(start(private)), "config": config})
    try:
        strict.send_and_receive([Message(content, node, MessageType.TRAIN) for node in strict.get_node_ids()])
        refused = ""
    except RunError as error:
        refused = str(error)
    assert "the reply is missing" in refused, f"a lost reply leads to {refused or 'no error'}"
    for client in range(len(private.clients)):
        rows = [
            (r.round, r.what, r.sampling_rate, r.noise_multiplier, r.count)
            for r in strict.ledger.releases_of(client)
        ]
        assert rows == due(private, client, 1), f"client {client}: {len(rows)} releases are charged"
        assert strict.ledger.epsilon(client) > 0
