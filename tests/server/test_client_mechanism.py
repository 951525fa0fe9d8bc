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
