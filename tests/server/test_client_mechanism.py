"""Client-side mechanisms from the scenario to the tables: budgets, one group or mixed, on any machine."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.message_type import MessageType

from fedtoll.clients import model
from fedtoll.clients.clipping import registry
from fedtoll.clients.state import mechanism_state
from fedtoll.clients.train import BOUND, Clients, only
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import plan
from fedtoll.server.trainer import simulate
from tests.server.federation import FEDAVG, YOGI, scenario

PARTITIONS = {"one group": {}, "mixed": {"kind": "iid", "clients": 3}}


def planned(name, strategy=FEDAVG, partition="one group", **sections):
    stated = {"client": {"mechanism": name}, "privacy": {"epsilons": ["inf", 1.0]}, **sections}
    if partition == "mixed":
        stated["partition"] = PARTITIONS["mixed"]
    return plan(scenario(strategy, **stated), "x.toml")


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_a_mechanism_spends_its_budget_and_says_its_noise(name, partition):
    found = planned(name, partition=partition)
    free, private = (simulate(run, federation=found.federation) for run in found.runs)
    assert np.isinf(free["clients"]["epsilon_spent"]).all()
    assert (free["clients"]["noise_variance"] == 0).all()
    spent = private["ledger"]["epsilon_spent"].max()
    assert 0.98 < spent <= 1.0
    assert (private["clients"]["noise_variance"] > 0).all()
    plain = planned("dp-sgd", partition=partition)
    assert found.runs[0] == plain.runs[0]
    ratio = (
        private["clients"]["noise_variance"].iloc[0] / simulate(plain.runs[1])["clients"]["noise_variance"][0]
    )
    if name == "dpsgd-f" and partition == "one group":
        assert ratio == pytest.approx(4 / 0.99)  # twice the clip
    if name == "dp-sgd-global":
        assert ratio == pytest.approx(1.0)


def test_flowers_strategies_run_and_do_not_say_what_they_do_not_know():
    (_, run) = planned("adaptive-clip", YOGI).runs
    assert simulate(run)["clients"]["noise_variance"].isna().all()


@pytest.mark.parametrize("name", ["global-adapt", "adaptive-clip"])
def test_clients_on_machines_of_their_own_send_the_same_bytes(name):
    """A node has its Flower context between rounds, and nothing else."""
    run = planned(name, training={"engine": "opacus"}).runs[1]
    grid, nodes = LocalGrid(run), [Context(1, k + 1, {"partition-id": k}, RecordDict(), {}) for k in range(3)]
    features = Clients().records(run).table.features.shape[1]
    arrays = ArrayRecord(model.initial(run.model, features, run.classes, run.precision, run.seed))
    for round in (1, 2):
        config = ConfigRecord({"run": run.to_json(), "server-round": round})
        content = RecordDict({"arrays": arrays, "config": config})
        messages = [Message(content, k + 1, MessageType.TRAIN) for k in range(3)]
        together = grid.send_and_receive(messages)
        for k, (message, reply) in enumerate(zip(messages, together, strict=True)):
            (alone,) = Clients().train([message], [nodes[k]])
            assert only(ArrayRecord, alone.content) == only(ArrayRecord, reply.content)
            said = (r.content.metric_records["metrics"][BOUND] for r in (alone, reply))
            assert len(set(said)) == 1
            assert mechanism_state(nodes[k].state, round) != mechanism_state(nodes[k].state, round + 1)
        arrays = only(ArrayRecord, together[0].content)


@pytest.mark.slow
@pytest.mark.parametrize(
    "personal",
    [{"kind": "mr-mtl", "strength": 0.5}, {"kind": "fedper", "last": 1}, {"kind": "ditto", "strength": 0.5}],
    ids=lambda p: p["kind"],
)
def test_a_public_start_goes_with_own_models(personal):
    """Own models begin where the server's does; the pull moves the server's alone, and no ε."""
    sections = {"personal": personal, "split": {"validation": 0.05}}
    runs = [
        planned("dp-sgd", training=training, **sections).runs[1]
        for training in ({"start": "public"}, {"start": "public", "pull": 0.9})
    ]
    plain, pulled = (simulate(run) for run in runs)
    for tables in (plain, pulled):
        assert tables["groups"]["log_loss"].notna().all()
        assert 0.98 < tables["ledger"]["epsilon_spent"].max() <= 1.0
    losses = [
        [t["groups"].query(f"round == {r}")["log_loss"].tolist() for r in (0, 2)] for t in (plain, pulled)
    ]
    assert losses[0][0] == losses[1][0]
    assert losses[0][1] != losses[1][1]


@pytest.mark.parametrize("client", [{"mechanism": "dpsgd-f"}, {"momentum": 0.5}], ids=str)
def test_a_mechanism_goes_with_a_calibration(client):
    """Both are charged: the noise of the batches leaves room for the last release."""
    stated = {"privacy": {"epsilons": [1.0]}, "client": client}
    (without,), (run,) = (
        plan(scenario(FEDAVG, **stated, **last), "x.toml").runs
        for last in ({}, {"calibration": {"noise_multiplier": 10.0}})
    )
    for a, b in zip(without.clients, run.clients, strict=True):
        assert b.added_noise > a.added_noise
    assert 0.98 < simulate(run)["ledger"]["epsilon_spent"].max() <= 1.0
