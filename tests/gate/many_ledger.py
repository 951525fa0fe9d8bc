"""The ledger of many clients: skipped rounds are charged, and each client pays for its own q and T."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from flwr.app import Error, Message
from flwr.app.message_type import MessageType

from fedtoll.privacy import accounting
from fedtoll.privacy.ledger import DP_SGD, Ledger, Release
from fedtoll.scenarios.run import Run
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from tests.gate import many
from tests.gate.ledger import Row, _merged, rows_of
from tests.gate.many import DELTA, EPSILON, Z
from tests.gate.system import System, check
from tests.peers.test_accounting import integrated

ROUNDS = 4

LOST, UNSENT, FAILED = (2, 3), (2, 50), (3, 20)
"""Round and client of a reply that is lost, of a message that never arrives, and of a client that fails."""

LATE = (4, 63)
"""A lost reply in a round in which statistics are due."""


def due(run: Run, client: int, until: int, epochs: float = 1.0) -> list[Row]:
    """Return the releases that the scenario permits: statistics every third round, T steps every round."""
    rows: list[Row] = []
    steps, sigma = round(epochs * many.SIZES[client]), run.clients[client].noise_multiplier
    for t in range(1, until + 1):
        if t % many.EVERY == 1:
            rows += [(t, name, 1.0, Z, 1) for name in ("mean_loss", "group_loss", "label_group_loss")]
            rows += [(t, name, 1.0, Z, 1) for name in ("error_rate", "group_confusion", "group_score")]
        rows.append((t, DP_SGD, many.RATES[client], sigma, steps))
    return rows


class Unreliable(LocalGrid):
    """A Grid that loses messages and replies."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        if sent[0].metadata.message_type != MessageType.TRAIN:
            return super().send_and_receive(sent, timeout=timeout)
        config: Any = sent[0].content["config"]
        round = config["server-round"]
        arrived = [m for m in sent if (round, m.metadata.dst_node_id - 1) != UNSENT]
        replies = []
        for message, reply in zip(arrived, super().send_and_receive(arrived, timeout=timeout), strict=True):
            key = round, message.metadata.dst_node_id - 1
            if key == FAILED:
                replies.append(Message(Error(1, "it fails"), reply_to=message))
            elif key not in {LOST, LATE}:
                replies.append(reply)
        return replies


@check("many clients: ledger")
def ledger(system: System) -> None:
    """Every client is charged for its own q and T in every round, whether its replies are skipped or not."""
    epochs = 1.0 if system.engine == "cohort" else 0.3  # Opacus takes many seconds for an epoch
    run, _ = many.runs(system, rounds=ROUNDS, hidden=2, accountant="rdp", epochs=epochs)
    tables = federate(Unreliable(run), run)
    found = tables["ledger"]
    for client, group in enumerate(many.GROUP):
        expected_rows = due(run, client, ROUNDS, epochs)
        assert rows_of(found, client) == expected_rows, f"client {client} of {group}: not what is due"
    spent = found.groupby("client")["epsilon_spent"].max()
    for client in (0, 52, 60):
        like = spent[[group == many.GROUP[client] for group in many.GROUP]]
        assert like.min() == like.max(), "clients of one group spend different ε"
        expected = integrated(_merged(due(run, client, ROUNDS, epochs)), DELTA)
        assert math.isclose(like.max(), expected, rel_tol=1e-6), (
            f"client {client}: ε = {like.max():.4g} in the ledger, {expected:.4g} spent"
        )
        assert 0.98 * EPSILON < like.max() <= EPSILON * (1 + 1e-9), f"client {client} spends {like.max():.4g}"
    assert _skips(tables["clients"]) == {LOST, UNSENT, FAILED, LATE}, "other replies are skipped"


def _skips(clients: pd.DataFrame) -> set[tuple[int, int]]:
    rows = clients[clients["skipped"] != ""]
    return set(rows[["round", "client"]].itertuples(index=False, name=None))


@check("many clients: PRV")
def prv(system: System) -> None:
    """The ε of PRV is an upper bound: no less than that of another library's privacy-loss distribution."""
    accounting._compose.cache_clear()  # computed before, perhaps without a mutant
    run, _ = many.runs(system, rounds=ROUNDS, hidden=2, accountant="prv" if system.full else "")
    for client in (0, 63) if system.full else (63,):
        rows = due(run, client, ROUNDS)
        account = Ledger.of(run)
        account.charge([Release(client, *row) for row in rows])
        claimed, exact = account.epsilon(client), _composed(rows)
        assert exact - 1e-3 < claimed < exact + 0.05, (
            f"client {client}: PRV claims ε = {claimed:.4f}; {exact:.4f} is spent"
        )
        if system.full:
            assert 0.98 * EPSILON < claimed <= EPSILON, f"client {client} spends {claimed:.4g} of {EPSILON}"


def _composed(rows: list[Row]) -> float:
    """Return the ε of releases by dp-accounting, with steps of 1e-4 rounded up."""
    account = PLDAccountant()
    for _, rate, sigma, count in _merged(rows):
        one = GaussianDpEvent(sigma)
        sampled = one if rate == 1 else PoissonSampledDpEvent(rate, one)
        account.compose(SelfComposedDpEvent(sampled, count))
    return float(account.get_epsilon(DELTA))
