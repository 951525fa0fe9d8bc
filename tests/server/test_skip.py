"""``on_failure = "skip"``: clients that do not reply are left out, recorded, and still charged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_ins_message

from fedtoll.clients import engines
from fedtoll.clients import state as client_state
from fedtoll.clients import train as clients
from fedtoll.privacy.ledger import Ledger, owed
from fedtoll.scenarios.errors import DivergedError, RunError
from fedtoll.scenarios.run import Run
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.strict import LONGEST_REASON, Strict
from fedtoll.server.trainer import simulate
from tests.hostile.traps import ESCAPE
from tests.server.federation import (
    FEDAVG,
    TERM,
    Replies,
    Wrapped,
    parquet,
    refusal,
    single_run,
    with_strategy,
)
from tests.server.test_strict import (
    CLIENT,
    MALFORMED,
    ROUND,
    content,
    damaged,
    faulty,
    from_nobody,
    instruction,
)

FLOWER = "flwr.serverapp.strategy:"
BEYOND = {"ledger of fewer steps", "ledger of more noise"}
"""Faults where a ledger reports releases that were not charged."""
UNREADABLE = {"ledger too long", "ledger without a column", "ledger of a short column"}
"""Faults where a ledger cannot be read."""


def skipping(strategy: dict[str, Any] = TERM, epsilon: float | str = 2.0, **changes: Any) -> Run:
    training = {"on_failure": "skip", **changes.pop("training", {})}
    return single_run(strategy, epsilon, training=training, **changes)


def lost(*places: tuple[int, int]) -> Callable[[Replies, int], Replies]:
    """Lose the replies of these rounds and clients, which trained and recorded it in their ledgers."""

    def change(replies: Replies, round: int) -> Replies:
        return [r for r in replies if (round, r.metadata.src_node_id - 1) not in places]

    return change


class Deaf(LocalGrid):
    """A LocalGrid on which the messages to some (round, client) do not arrive."""

    def __init__(self, run: Run, *places: tuple[int, int]) -> None:
        super().__init__(run, self.answer)
        self.places, self.round, self.clients = places, 0, clients.Clients()

    def answer(self, messages: Sequence[Message], contexts: Sequence[Context]) -> Replies:
        self.round += 1
        heard = [
            (m, c)
            for m, c in zip(messages, contexts, strict=True)
            if (self.round, m.metadata.dst_node_id - 1) not in self.places
        ]
        return self.clients.train([m for m, _ in heard], [c for _, c in heard])


def own(grid: LocalGrid, client: int) -> tuple[Any, ...]:
    """Return the ledger in a client's context."""
    return client_state.releases_in(grid._contexts[client + 1].state, client)


def charged(run: Run, tables: dict[str, pd.DataFrame]) -> bool:
    """Return whether the table charges every client in every round."""
    columns = ["client", "round", "release", "sampling_rate", "noise_multiplier", "count"]
    due = [r for t in range(1, run.rounds + 1) for c in run.clients for r in owed(run, c, t)]
    rows = [tuple(row) for row in tables["ledger"][columns].itertuples(index=False)]
    return rows == [(r.client, r.round, r.what, r.sampling_rate, r.noise_multiplier, r.count) for r in due]


def by_client(tables: dict[str, pd.DataFrame]) -> Any:
    """Return the rows of the clients table by (round, client)."""
    return tables["clients"].set_index(["round", "client"])


def skipped(tables: dict[str, pd.DataFrame]) -> dict[tuple[int, int], str]:
    rows = tables["clients"][tables["clients"]["skipped"] != ""]
    return {(int(r["round"]), int(r["client"])): r["skipped"] for _, r in rows.iterrows()}


@pytest.fixture(scope="module")
def private() -> Run:
    return skipping()


# One lost reply, for every fault.


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_reply_is_left_out_unless_it_claims_more_than_was_charged(private, fault):
    words, change = MALFORMED[fault][1], damaged(fault)
    if fault in UNREADABLE:
        line = refusal(private, Wrapped(private, change))
        assert line == "round 2, client 1 (Male): its ledger cannot be read"
        return
    if fault in BEYOND:
        line = refusal(private, Wrapped(private, change))
        assert line.startswith("round 2, client 1 (Male): its ledger holds Release(client=1, round=")
        assert line.endswith(", which the server did not charge")
        return
    tables = federate(Wrapped(private, change), private)
    ((place, reason),) = skipped(tables).items()
    assert place == (ROUND, CLIENT)
    assert reason.startswith("the reply is malformed: ")
    assert (words if fault != "ledger reset" else "its ledger lacks Release(client=1, round=1,") in reason
    assert tables["rounds"]["replies"].tolist() == [3, 2]
    assert charged(private, tables)


@pytest.mark.parametrize("epsilon", ["inf", 2.0])
def test_a_lost_reply_has_no_weight_no_statistics_and_its_charge(epsilon):
    run = skipping(epsilon=epsilon, training={"rounds": 3})
    tables = federate(Wrapped(run, lost((2, 1))), run)
    rows = by_client(tables)
    assert skipped(tables) == {(2, 1): "the reply is missing"}
    gone = rows.loc[(2, 1)]
    assert gone["weight"] == gone["coefficient"] == 0
    assert gone[["noise_variance", "mean_loss", "mean_loss_sd"]].isna().all()
    assert rows.drop(index=(2, 1))[["noise_variance", "mean_loss", "mean_loss_sd"]].notna().all(axis=None)
    assert rows.groupby("round")["weight"].sum().to_numpy() == pytest.approx(1.0)
    groups = tables["groups"][tables["groups"]["round"] == 2].set_index("group")["weight"]
    assert groups["Male"] == pytest.approx(rows.loc[(2, 0), "weight"])
    assert groups["(all)"] == pytest.approx(1.0)
    noise = (rows["coefficient"] ** 2 * rows["noise_variance"]).groupby("round").sum()
    assert tables["rounds"]["effective_noise"].to_numpy() == pytest.approx(noise.to_numpy())
    assert charged(run, tables)


def test_a_run_without_a_fault_is_that_of_an_abort_but_for_one_column(private):
    plain = single_run(TERM, 2.0)
    assert plain.hash != private.hash
    with_skips, without_skips = simulate(private), simulate(plain)
    assert (with_skips["clients"].pop("skipped") == "").all()
    assert parquet(with_skips) == parquet(without_skips)


@pytest.mark.parametrize("engine", ["cohort", "opacus"])
def test_a_client_that_raises_once_answers_the_next_round(engine, monkeypatch):
    run = skipping(training={"engine": engine, "rounds": 3})
    train = engines.make_engine(run.engine, run.device).train

    class Fails:
        def train(self, run, tasks):
            if any(task.round == 2 and task.plan.id == 1 for task in tasks):
                raise MemoryError(f"out of\n{ESCAPE}memory")
            return train(run, tasks)

        def train_together(self, jobs):
            return [self.train(run, tasks) for run, tasks in jobs]

    monkeypatch.setattr(clients, "make_engine", lambda *which: Fails())
    tables = federate(grid := LocalGrid(run), run)
    ((place, reason),) = skipped(tables).items()
    assert place == (2, 1)
    assert reason == "the client failed"
    assert own(grid, 1) == tuple(r for t in (1, 3) for r in owed(run, run.clients[1], t))
    assert charged(run, tables)
    assert np.isfinite(tables["groups"]["log_loss"]).all()


def test_a_lost_reply_is_in_its_clients_ledger_and_a_lost_message_is_not(private):
    run = skipping(training={"rounds": 4})
    heard = federate(reached := Wrapped(run, lost((2, 1), (3, 2))), run)
    deaf = federate(unreached := Deaf(run, (2, 1), (3, 2)), run)
    assert parquet(heard) == parquet(deaf)  # the server cannot tell them apart
    due = {c.id: [r for t in range(1, 5) for r in owed(run, c, t)] for c in run.clients}
    for client, missed in ((0, 0), (1, 2), (2, 3)):
        assert own(reached, client) == tuple(due[client])
        assert own(unreached, client) == tuple(r for r in due[client] if r.round != missed)


def claims(*rows: int) -> Callable[[Message], None]:
    """Return a fault that keeps these rows of a ledger."""

    def damage(reply: Message) -> None:
        ledger = content(reply)[2]
        for column, values in list(ledger.items()):
            ledger[column] = [values[i] for i in rows]

    return damage


@pytest.mark.parametrize(
    ("rows", "outcome"),
    [
        ((0, 1, 2, 3, 4, 5), "accepted"),
        ((0, 1, 4, 5), "accepted"),  # without the round that was lost
        ((0, 1, 3, 4, 5), "accepted"),  # with a part of it
        ((0, 1, 2, 3), "lacks"),  # without this round
        ((2, 3, 4, 5), "lacks"),  # without one that the server has
        ((1, 4, 5), "lacks"),
        ((), "lacks"),
        ((0, 1, 2, 3, 4, 5, 5), "beyond"),
        ((0, 1, 4, 5, 2), "beyond"),
        ((0, 0, 4, 5), "beyond"),
    ],
)
def test_a_ledger_may_lack_skipped_rounds_and_claim_nothing_else(rows, outcome):
    run = skipping(training={"rounds": 4})
    lose = lost((2, 1))

    def change(replies: Replies, round: int) -> Replies:
        if round == 3:
            arrays, metrics, ledger = content(replies[1])
            copied = ConfigRecord(dict(ledger))  # in process, the reply shares the client's ledger
            replies[1].content = RecordDict(
                {"arrays": arrays, "metrics": metrics, client_state.LEDGER: copied}
            )
            claims(*rows)(replies[1])
        return lose(replies, round)

    grid = Wrapped(run, change)
    if outcome == "beyond":
        assert "which the server did not charge" in refusal(run, grid)
        return
    tables = federate(grid, run)
    places = skipped(tables)
    assert charged(run, tables)
    if outcome == "accepted":
        assert set(places) == {(2, 1)}
    else:
        assert set(places) == {(2, 1), (3, 1)}
        assert "its ledger lacks Release(client=1, round=" in places[3, 1]


def test_a_malformed_reply_with_a_ledger_beyond_what_was_charged_ends_the_run(private):
    def change(replies, round):
        if round == ROUND:
            MALFORMED["not a number"][0](replies[CLIENT])
            claims(0, 1, 2, 3, 3)(replies[CLIENT])
        return replies

    assert "which the server did not charge" in refusal(private, Wrapped(private, change))


@pytest.mark.parametrize("gone", [1, 2])
def test_nodes_that_left_are_missing_though_the_superlink_does_not_name_them(private, gone):
    """As Flower answers for messages to nodes that it does not know any more: once for all of them."""

    def change(replies: Replies) -> Replies:
        return [*replies[gone:], create_message_error_unavailable_ins_message("", 1)]

    tables = federate(Wrapped(private, faulty(ROUND, change)), private)
    assert skipped(tables) == {(ROUND, client): "the reply is missing" for client in range(gone)}
    assert charged(private, tables)
    strict = single_run(TERM, 2.0)
    line = refusal(strict, Wrapped(strict, faulty(ROUND, change)))
    assert line == "round 2, client 0 (Male): the reply is missing"


# Faults that still end a run.


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda r: [*r, r[CLIENT]], "round 2, client 1 (Male): 2 replies"),
        (from_nobody, "round 2: received a reply from node 77, which is not a client"),
        (
            lambda r: [],
            "round 2: every reply was skipped; client 0 (Male): the reply is missing",
        ),
    ],
)
def test_what_is_no_bad_luck_of_one_client_ends_the_run(private, change, line):
    assert refusal(private, Wrapped(private, faulty(ROUND, change))) == line


def test_a_run_diverged_if_nothing_but_numbers_that_are_not_finite_is_left(private):
    def change(lost: bool) -> Callable[[Replies], Replies]:
        def changed(replies: Replies) -> Replies:
            for reply in replies:
                MALFORMED["not a number"][0](reply)
            return replies[:-1] if lost else replies

        return changed

    with pytest.raises(DivergedError, match=r"skipped; client 0 \(Male\): .* is not finite"):
        federate(Wrapped(private, faulty(ROUND, change(lost=False))), private)
    with pytest.raises(RunError, match=r"skipped; client 2 \(Female\): the reply is missing") as caught:
        federate(Wrapped(private, faulty(ROUND, change(lost=True))), private)
    assert not isinstance(caught.value, DivergedError)


@pytest.mark.parametrize("strategy", ["Repeats", "TrainsTwice"])
def test_a_strategy_that_uses_a_round_twice_ends_the_run(strategy):
    run = with_strategy(skipping(FEDAVG), f"tests.server.test_strict:{strategy}")
    assert "the strategy calls it round 1" in refusal(run, LocalGrid(run))


def test_a_strategy_addresses_every_client(private):
    grid = Strict(LocalGrid(private), private)
    grid.roll_call()
    with pytest.raises(Exception, match="the strategy leaves it out"):
        grid.send_and_receive([instruction(private, n) for n in (1, 2)])
    assert not grid.ledger.releases


# What is stored.


def test_the_reason_is_one_short_line(private):
    def fail(replies: Replies) -> Replies:
        content(replies[1])[1][f"{ESCAPE}\n" + "x" * 10_000] = 1.0
        return replies

    tables = federate(Wrapped(private, faulty(1, fail)), private)
    (reason,) = skipped(tables).values()
    assert reason.isprintable()
    assert len(reason) == LONGEST_REASON


# Long runs.


@pytest.mark.slow
def test_the_work_after_a_skip_does_not_grow_with_the_rounds_before(monkeypatch):
    run = skipping(training={"rounds": 24, "local_steps": 1})
    read, rows = client_state.releases_in, []

    def releases_in(content: RecordDict, client: int) -> Any:
        found = read(content, client)
        rows.append(len(found))
        return found

    monkeypatch.setattr(client_state, "releases_in", releases_in)
    tables = federate(Deaf(run, (2, 1)), run)
    assert set(skipped(tables)) == {(2, 1)}
    assert charged(run, tables)
    assert len(rows) == 2 * 22
    assert rows[:2] == [4, 4]  # rounds 1 and 3
    assert set(rows[2:]) == {2}


def test_every_release_is_read_once_for_the_tables(monkeypatch, private):
    reads: list[int] = []

    class Counted(tuple[Any, ...]):
        def __iter__(self) -> Any:
            reads.append(len(self))
            return super().__iter__()

    releases = Ledger.releases_of
    monkeypatch.setattr(Ledger, "releases_of", lambda self, client: Counted(releases(self, client)))
    grid = LocalGrid(private)
    assert charged(private, federate(grid, private))
    assert reads == [2 * private.rounds] * len(private.clients)


class Slow(LocalGrid):
    """A Grid whose first client takes 50 seconds: its reply comes only if the round waits longer."""

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Replies:
        replies = super().send_and_receive(messages, timeout=timeout)
        assert timeout is not None
        return replies if "roll-call" in replies[0].content or timeout > 50 else replies[1:]


@pytest.mark.parametrize(("timeout", "skips"), [(None, 0), (60.0, 0), (40.0, 2)])
def test_a_round_waits_for_replies_as_long_as_the_scenario_says(timeout, skips):
    run = skipping(training={"rounds": 2, "timeout": timeout})
    frame = federate(Slow(run), run)["clients"]
    skipped = frame[frame["skipped"] != ""]
    assert skipped["round"].tolist() == [1, 2][:skips]
    assert set(skipped["skipped"]) == ({"the reply is missing"} if skips else set())
    assert run.hash == skipping(training={"rounds": 2}).hash
    assert ("timeout" in run.to_json()) == (timeout is not None)
