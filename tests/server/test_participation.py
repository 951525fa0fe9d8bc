"""Clients that do not take part in every round: who is asked, charged, trained and recorded."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message_type import MessageType

from fedtoll.clients import model
from fedtoll.privacy.accounting import Event, epsilon
from fedtoll.privacy.breakdown import events_of
from fedtoll.privacy.ledger import DP_SGD
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.run import Run
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.strict import Strict
from fedtoll.server.trainer import Trainer, simulate
from fedtoll.strategies.base import Strategy
from fedtoll.strategies.fedavg import FedAvg
from fedtoll.sweep.dry_run import scenario_spending
from tests.server.federation import (
    FEDAVG,
    TERM,
    YOGI,
    parquet,
    planned,
    scenario,
    single_run,
)
from tests.server.nodes import Nodes, divided

RARE = {"kind": "availability", "availability": {"Female": 0.4, "*": 0.5}, "seed": 3}
"""Nobody takes part in round 2; the woman's client in rounds 1, 3, 4 and 6, the men's in 3, 4 and 5."""

ROUNDS = {1: [2], 2: [], 3: [0, 1, 2], 4: [0, 1, 2], 5: [0, 1], 6: [2]}
SIX = {"rounds": 6}


class Tap(LocalGrid):
    """Records who is sent a training message, by round."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.asked: dict[int, list[int]] = {}

    def send_and_receive(self, messages, *, timeout=None):
        sent = list(messages)
        if sent[0].metadata.message_type == MessageType.TRAIN:
            config = sent[0].content.config_records["config"]
            self.asked[config["server-round"]] = [m.metadata.dst_node_id - 1 for m in sent]
        return super().send_and_receive(sent, timeout=timeout)


def run_of(strategy, epsilon: float | str = 2.0, **changes) -> Run:
    return single_run(strategy, epsilon, participation=RARE, **{"training": SIX, **changes})


def test_the_schedule_of_these_tests():
    run = run_of(FEDAVG)
    assert {t: run.attendance.clients(t) for t in ROUNDS} == ROUNDS
    assert [c.rounds for c in run.clients] == [3, 3, 4]


@pytest.mark.parametrize("strategy", [FEDAVG, TERM, YOGI, {"name": "afl"}, {"name": "fedavgm"}], ids=str)
def test_only_who_takes_part_is_asked_charged_and_recorded(strategy):
    run = run_of(strategy, statistics={"every": 2})
    tap = Tap(run)
    tables = federate(tap, run)
    assert tap.asked == {t: clients for t, clients in ROUNDS.items() if clients}
    for table in ("clients", "ledger"):
        pairs = set(tables[table][["round", "client"]].itertuples(index=False, name=None))
        assert pairs == {(t, k) for t, clients in ROUNDS.items() for k in clients}
    assert tables["rounds"]["participants"].tolist() == [1, 0, 3, 3, 2, 1]
    assert tables["rounds"]["replies"].tolist() == [1, 0, 3, 3, 2, 1]
    assert tables["rounds"]["effective_noise"][1] == 0
    losses = tables["groups"][tables["groups"]["group"] == "(all)"]["log_loss"].to_numpy()
    assert losses[2] == losses[1]  # in round 2 the model stayed as it was
    assert all(np.diff(losses)[[0, 2, 3, 4, 5]] != 0)
    spent = tables["ledger"].groupby("client")["epsilon_spent"].max()
    assert ((spent > 0.99 * 2) & (spent <= 2)).all()


def test_weights_renormalise_over_who_takes_part():
    run = run_of(FEDAVG)
    tables = simulate(run)
    sums = tables["clients"].groupby("round")["weight"].sum()
    assert sums.to_numpy() == pytest.approx(np.ones(5))
    shares = tables["groups"].pivot_table(index="round", columns="group", values="weight", dropna=False)
    assert shares["Female"][[1, 6]].tolist() == [1.0, 1.0]
    assert shares["Male"][5] == pytest.approx(1)
    assert np.isnan(shares.loc[2]).all()


def test_statistics_are_due_by_a_clients_own_rounds():
    """Every second of its rounds: a client that is away when others release is not missing later."""
    ledger = simulate(run_of(TERM, statistics={"every": 2}))["ledger"]
    rows = ledger[ledger["release"] == "mean_loss"]
    released = {k: part["round"].tolist() for k, part in rows.groupby("client")}
    assert released == {0: [3, 5], 1: [3, 5], 2: [1, 4]}


def test_noise_is_calibrated_for_a_clients_own_rounds():
    run = run_of(TERM, statistics={"every": 2})
    full = single_run(TERM, 2.0, training=SIX, statistics={"every": 2})
    for client, other in zip(run.clients, full.clients, strict=True):
        events = events_of(run, client)
        assert events[DP_SGD].count == client.steps * run.rounds_of(client)
        assert events["mean_loss"].count == 2
        spent = epsilon(list(events.values()), *run.guarantee)
        assert 0.99 * 2 < spent <= 2
        assert client.noise_multiplier < other.noise_multiplier


def test_an_outsider_recomputes_every_epsilon_from_the_ledger():
    run = run_of(TERM)
    ledger = simulate(run)["ledger"]
    for _, rows in ledger.groupby("client"):
        releases = zip(rows["noise_multiplier"], rows["sampling_rate"], rows["count"], strict=True)
        events = [Event(float(z), float(q), int(n)) for z, q, n in releases]
        assert epsilon(events, *run.guarantee) == pytest.approx(rows["epsilon_spent"].max())


def test_a_budget_is_itemised_for_own_rounds():
    stated = scenario(FEDAVG, privacy={"epsilons": [2.0]}, participation=RARE, training=SIX)
    rows = scenario_spending(stated, "sex.toml")
    counts = {tuple(row["clients"]): row["parts"][0]["releases"] for row in rows}
    assert counts == {(0, 1): 2 * 3, (2,): 2 * 4}
    assert all(0 <= row["left"] < 0.02 for row in rows)


def test_a_client_that_never_takes_part_spends_nothing():
    never = {"kind": "availability", "availability": {"Female": 1e-9}}
    run = single_run(FEDAVG, 2.0, participation=never)
    assert [c.rounds for c in run.clients] == [2, 2, 0]
    tables = simulate(run)
    assert set(tables["ledger"]["client"]) == {0, 1}
    assert not events_of(run, run.clients[2])[DP_SGD].count


def test_a_round_that_nobody_joins_can_be_the_last_or_all_of_them():
    alone = {"kind": "availability", "availability": {"*": 1e-9}}
    for strategy in (FEDAVG, YOGI):
        tables = simulate(single_run(strategy, 2.0, participation=alone))
        assert tables["rounds"]["participants"].tolist() == [0, 0]
        assert len(tables["clients"]) == len(tables["ledger"]) == 0


@pytest.mark.slow
def test_bytes_do_not_depend_on_who_runs_it(tmp_path):
    """In this process, in step with other runs, and one client at a time on nodes of their own."""
    found = planned(FEDAVG, TERM, YOGI, privacy={"epsilons": ["inf", 2.0]}, participation=RARE, training=SIX)
    alone = [parquet(simulate(run, federation=found.federation)) for run in found.runs]
    shorter = [run.changed(rounds=4) for run in found.runs[:2]]
    together = Trainer(found.federation).train_together([*found.runs, *shorter])
    expected = [*alone, *(parquet(simulate(run, federation=found.federation)) for run in shorter)]
    for tables, bytes_ in zip(together, expected, strict=True):
        assert isinstance(tables, dict)
        assert parquet(tables) == bytes_
    own = divided(tmp_path, TERM, privacy={"epsilons": [2.0]}, participation=RARE, training=SIX)
    (run,) = own.runs
    on_nodes = federate(Nodes(run, tmp_path), run, federation=own.federation)
    assert on_nodes["clients"]["round"].tolist() == [1, 3, 3, 3, 4, 4, 4, 5, 5, 6]


def test_engines_agree():
    opacus, cohort = (
        simulate(run_of(FEDAVG, training={**SIX, "engine": engine, "precision": "float64"}))
        for engine in ("opacus", "cohort")
    )
    losses = [tables["groups"]["log_loss"].to_numpy() for tables in (opacus, cohort)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    pd.testing.assert_frame_equal(opacus["ledger"], cohort["ledger"])


def test_skips_and_absences_are_told_apart():
    class Loses(LocalGrid):
        def send_and_receive(self, messages, *, timeout=None):
            replies = super().send_and_receive(messages, timeout=timeout)
            lost = {(3, 1), (4, 3)}
            return (
                [
                    r
                    for m, r in zip(messages, replies, strict=True)
                    if (m.content["config"]["server-round"], m.metadata.dst_node_id) not in lost
                    or m.metadata.message_type != MessageType.TRAIN
                ]
                if messages[0].metadata.message_type == MessageType.TRAIN
                else replies
            )

    run = run_of(TERM, training={**SIX, "on_failure": "skip"}, statistics={"every": 2})
    tables = federate(Loses(run), run)
    clients = tables["clients"]
    skipped = clients[clients["skipped"] != ""]
    assert set(skipped[["round", "client"]].itertuples(index=False, name=None)) == {(3, 0), (4, 0), (4, 2)}
    assert skipped["skipped"].iloc[1] == "its mean_loss is not known: it was skipped whenever it was due"
    assert tables["rounds"]["participants"].tolist() == [1, 0, 3, 3, 2, 1]
    assert tables["rounds"]["replies"].tolist() == [1, 0, 2, 1, 2, 1]


# Nobody else is asked.


def message(run: Run, grid: Strict, client: int, round: int) -> Message:
    start = model.initial(run.model, _features(run), run.classes, run.precision, run.seed)
    config = ConfigRecord({"run": run.to_json(), "server-round": round})
    return Message(
        RecordDict({"arrays": ArrayRecord(start), "config": config}), grid.node_of[client], MessageType.TRAIN
    )


def _features(run: Run) -> int:
    from tests.shared import records

    return int(records(run).table.features.shape[1])


@pytest.mark.parametrize(
    ("sent", "line"),
    [
        ([0], "round 1, client 0 (Male): the strategy addresses it, but it does not take part in this round"),
        ([0, 2], "round 1, client 0 (Male): the strategy addresses it"),
    ],
)
def test_the_server_addresses_nobody_else(sent, line):
    run = run_of(FEDAVG)
    grid = Strict(LocalGrid(run), run)
    grid.roll_call()
    with pytest.raises(RunError, match=line.replace("(", r"\(").replace(")", r"\)")):
        grid.send_and_receive([message(run, grid, client, 1) for client in sent])
    assert not grid.ledger.releases


def test_the_server_leaves_out_nobody_and_no_round():
    run = run_of(FEDAVG)
    grid = Strict(LocalGrid(run), run)
    grid.roll_call()
    grid.send_and_receive([message(run, grid, 2, 1)])
    with pytest.raises(RunError, match=r"round 2, client 2 .Female.: the strategy addresses it, but"):
        grid.send_and_receive([message(run, grid, 2, 2)])
    with pytest.raises(RunError, match="round 3 of 6: the strategy calls it round 4"):
        grid.send_and_receive([message(run, grid, client, 4) for client in range(3)])
    with pytest.raises(RunError, match=r"round 3, client 1 .*leaves it out, but it takes part in this round"):
        grid.send_and_receive([message(run, grid, client, 3) for client in (0, 2)])


def test_a_client_answers_only_in_its_rounds():
    run = run_of(FEDAVG)
    local = LocalGrid(run)
    grid = Strict(local, run)
    grid.roll_call()
    replies = local.send_and_receive([message(run, grid, client, 1) for client in (0, 2)])
    assert [reply.has_error() for reply in replies] == [True, False]


def test_a_strategy_sees_who_takes_part(monkeypatch):
    seen: dict[int, list[int]] = {}

    def begin(self, round, members, state):
        seen[round] = [m.client for m in members]
        return {**state, "asked": np.array([m.client for m in members])}

    def instructions(self, round, state):
        assert state["asked"].tolist() == ROUNDS[round]
        return {}

    monkeypatch.setattr(FedAvg, "begin", begin)
    monkeypatch.setattr(FedAvg, "instructions", instructions)
    simulate(run_of(FEDAVG))
    assert seen == {t: clients for t, clients in ROUNDS.items() if clients}
    assert Strategy().begin(1, [], {"a": 1}) == {"a": 1}


@pytest.mark.parametrize("key", ["fraction_train"])
def test_a_fraction_of_flowers_own_strategies_is_stated_for_all(key):
    with pytest.raises(
        ScenarioError, match=r"fraction_train = 0.5: state it for all strategies, as \[participation\]"
    ):
        planned({**YOGI, key: 0.5})


def test_an_audit_refuses_absences(tmp_path):
    from fedtoll.audit.run import prepare

    file = tmp_path / "a.toml"
    from tests.server.federation import TOML

    file.write_text(TOML + '\n[participation]\nkind = "fraction"\nfraction = 0.5\n')
    with pytest.raises(ScenarioError, match=r"participation.kind = 'fraction': an audit attacks every round"):
        prepare(str(file), ["privacy.epsilons=[2.0]"], "0:4")
