"""The in-process Grid: what it relies on in Flower, and that order and company of clients change no bit."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message_type import MessageType
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from flwr.supercore.run import Run as FlowerRun
from flwr.supercore.task_identity import TaskIdentity

from fedtoll.clients import model
from fedtoll.clients import state as client_state
from fedtoll.clients import train as clients
from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.run import Run
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.strict import Strict
from tests.server.federation import FEDAVG, TERM, YOGI, Wrapped, parquet, single_run


@pytest.fixture(scope="module")
def plain() -> Run:
    return single_run(FEDAVG)


# What LocalGrid relies on in Flower: private names, or behaviour that an upgrade could change.


def test_flower_is_the_version_that_was_read():
    assert importlib.metadata.version("flwr").startswith("1.41.")


def test_a_message_takes_its_run_and_source_from_the_task_identity(plain):
    LocalGrid(plain)
    message = Message(RecordDict(), 2, MessageType.TRAIN)
    assert (message.metadata.run_id, message.metadata.src_node_id) == (1, 1)
    assert (TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id) == (1, 1, 1)


@pytest.mark.slow
def test_a_message_needs_the_task_identity():
    """Otherwise LocalGrid would not need the private name. In a new process, because it cannot be unset."""
    code = "from flwr.app import *; Message(RecordDict(), 2, 'train')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "run_id" in done.stderr or "node_id" in done.stderr


def test_a_message_id_is_set_through_the_metadata():
    message = Message(RecordDict(), 1, MessageType.TRAIN)
    message.metadata.__dict__["_message_id"] = "41"
    assert message.metadata.message_id == "41"
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "41"
    assert reply.metadata.src_node_id == 1
    assert reply.metadata.message_type == MessageType.TRAIN


def test_an_empty_run_can_be_made():
    assert FlowerRun.create_empty(7).run_id == 7


def test_a_grid_has_no_other_abstract_methods():
    assert Grid.__abstractmethods__ == {
        "set_run",
        "run",
        "create_message",
        "get_node_ids",
        "push_messages",
        "pull_messages",
        "send_and_receive",
    }
    assert not LocalGrid.__abstractmethods__


def test_a_strategy_has_no_other_abstract_methods():
    assert FlowerStrategy.__abstractmethods__ == {
        "configure_train",
        "aggregate_train",
        "configure_evaluate",
        "aggregate_evaluate",
        "summary",
    }


def test_the_loop_asks_a_grid_for_nodes_and_replies_only(plain, monkeypatch):
    called = set()
    for name in Grid.__abstractmethods__ - {"run", "set_run"}:
        original = getattr(Strict, name)

        def spy(self, *args, _name=name, _original=original, **kwargs):
            called.add(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(Strict, name, spy)
    run = single_run(YOGI)
    federate(LocalGrid(run), run)
    assert called == {"get_node_ids", "send_and_receive"}


def test_an_array_tells_its_shape_without_being_decoded():
    assert tuple(Array(np.zeros((2, 3), np.float32)).shape) == (2, 3)


def test_flowers_fedavg_sends_one_record_to_all(plain):
    grid = LocalGrid(plain)
    strategy = FlowerFedAvg(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=3, min_available_nodes=3
    )
    arrays = ArrayRecord([np.zeros(2, np.float32)])
    sent = list(strategy.configure_train(3, arrays, ConfigRecord(), grid))
    assert sorted(m.metadata.dst_node_id for m in sent) == [1, 2, 3]
    assert all(m.content.config_records["config"]["server-round"] == 3 for m in sent)
    assert not list(strategy.configure_evaluate(3, arrays, ConfigRecord(), grid))


# LocalGrid.


def test_the_clients_are_nodes_from_1_and_know_their_partition_only(plain):
    grid = LocalGrid(plain)
    assert list(grid.get_node_ids()) == [1, 2, 3]
    configs = [grid._contexts[n].node_config for n in grid.get_node_ids()]
    assert configs == [{"partition-id": i, "num-partitions": 3} for i in range(3)]


def test_a_round_reaches_the_handler_at_once(plain):
    sizes = []
    train = clients.Clients().train

    def handler(messages, contexts):
        sizes.append((len(messages), len(contexts)))
        return train(messages, contexts)

    federate(LocalGrid(plain, handler), plain)
    assert sizes == [(3, 3), (3, 3)]


def one_at_a_time(messages, contexts):
    """Answer one message at a time, as Flower's own clients do."""
    train = clients.Clients().train
    return [train([m], [c])[0] for m, c in zip(messages, contexts, strict=True)]


@pytest.mark.parametrize("hidden", [(), (4,)])
def test_a_client_alone_gives_the_same_bits_as_in_its_cohort_with_opacus(hidden):
    kind = {"kind": "mlp", "hidden": list(hidden)} if hidden else {}
    run = single_run(TERM, 2.0, model=kind, training={"engine": "opacus"})
    assert parquet(federate(LocalGrid(run, one_at_a_time), run)) == parquet(federate(LocalGrid(run), run))


def test_a_client_alone_gives_the_same_numbers_as_in_its_cohort_with_the_cohort_engine():
    run = single_run(TERM, 2.0, training={"engine": "cohort"})
    a, b = federate(LocalGrid(run, one_at_a_time), run), federate(LocalGrid(run), run)
    assert a["ledger"].equals(b["ledger"])
    np.testing.assert_allclose(a["predictions"]["score"], b["predictions"]["score"], rtol=1e-4)


def test_the_synchronous_grids_refuse_to_push_and_pull(plain):
    for method in (LocalGrid(plain).push_messages, Strict(LocalGrid(plain), plain).pull_messages):
        with pytest.raises(RunError, match="send_and_receive"):
            method([])


def test_one_bad_client_does_not_hide_the_others(plain):
    grid = LocalGrid(plain)
    start = model.initial(plain.model, 91, 2, "float32", 0)
    good = ConfigRecord({"run": plain.to_json(), "server-round": 1})
    bad = ConfigRecord({"run": plain.to_json(), "server-round": 1, "temperature": 3.0})
    replies = grid.send_and_receive(
        [
            Message(RecordDict({"arrays": ArrayRecord(start), "config": c}), n, MessageType.TRAIN)
            for n, c in ((1, good), (2, bad), (3, good))
        ]
    )
    assert [r.has_error() for r in replies] == [False, True, False]
    assert replies[1].error.reason == "the client rejects the message"


def test_a_client_answers_a_round_to_one_broadcast_only(plain):
    handler = clients.Clients()
    grid = LocalGrid(plain, handler.train)
    start = model.initial(plain.model, 91, 2, "float32", 0)

    def ask(round, arrays, run=plain, **instructions):
        config = ConfigRecord({"run": run.to_json(), "server-round": round, **instructions})
        message = Message(RecordDict({"arrays": ArrayRecord(arrays), "config": config}), 1, MessageType.TRAIN)
        (reply,) = grid.send_and_receive([message])
        if not reply.has_error():
            return len(client_state.releases_in(reply.content, 0))
        assert reply.error.reason == "the client rejects the message"
        return handler.failures.pop().line

    other = [a + 1 for a in start]
    assert ask(1, start) == 1
    assert ask(1, start) == 1  # a repeated message is free
    assert ask(1, other) == "RejectedError: round 1 was already answered, to another broadcast"
    assert (
        ask(1, start, proximal_mu=0.1) == "RejectedError: round 1 was already answered, to another broadcast"
    )
    assert ask(2, other) == 2
    assert ask(1, start) == "RejectedError: round 1 arrived after round 2 was answered"
    another = plain.model_copy(update={"seed": 1})
    assert ask(2, start, another) == (
        "RejectedError: round 2 belongs to another run than round 2, already answered"
    )
    for none in (0, 3):
        assert ask(none, start) == f"RejectedError: round {none}: the run has rounds 1 to 2"
    assert ask(2, other) == 2


def test_a_round_that_failed_may_be_asked_for_again(plain, monkeypatch):
    grid = LocalGrid(plain)
    start = ArrayRecord(model.initial(plain.model, 91, 2, "float32", 0))
    config = ConfigRecord({"run": plain.to_json(), "server-round": 1})

    def ask():
        content = RecordDict({"arrays": start, "config": config})
        (reply,) = grid.send_and_receive([Message(content, 1, MessageType.TRAIN)])
        return reply

    with monkeypatch.context() as broken:
        broken.setattr(clients.Clients, "engine", None)
        assert ask().has_error()
    assert len(client_state.releases_in(ask().content, 0)) == 1


# Order.


def shuffled(run: Run) -> Wrapped:
    rng = np.random.default_rng(5)
    return Wrapped(run, lambda replies, round: [replies[i] for i in rng.permutation(len(replies))])


@pytest.mark.parametrize(
    ("strategy", "epsilon"), [(FEDAVG, "inf"), (TERM, 2.0), (YOGI, 2.0)], ids=["fedavg", "term", "fedyogi"]
)
def test_the_order_of_replies_changes_no_byte(strategy, epsilon):
    run = single_run(strategy, epsilon, partition={"clients": {"Male": 4, "Female": 3}})
    tables = parquet(federate(LocalGrid(run), run))
    for _ in range(2):  # Flower's own Grid, too, samples nodes in another order each time
        assert parquet(federate(shuffled(run), run)) == tables
