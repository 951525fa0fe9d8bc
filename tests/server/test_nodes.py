"""Clients that hold a file of their own: same results, nothing else is read, and nothing more leaves."""

from __future__ import annotations

import logging
import math
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from flwr.app import ConfigRecord, Context, RecordDict

from fedtoll.clients.node import SECRET, Decided
from fedtoll.clients.state import LEDGER
from fedtoll.deploy.split import divide
from fedtoll.scenarios import federation as federations
from fedtoll.scenarios import holder, toml
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import validate
from fedtoll.server import plan as plans
from fedtoll.server.app import federate
from fedtoll.server.trainer import Trainer, simulate
from fedtoll.sweep.converged import converged
from fedtoll.sweep.run import prepare
from tests.server.federation import FEDAVG, TERM, parquet, planned, refusal, scenario
from tests.server.nodes import Nodes, divided

CHANGES = {"privacy": {"epsilons": [2.0]}, "training": {"engine": "opacus"}}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return divided(folder, FEDAVG, TERM, **CHANGES), folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1], ids=["fedavg", "term"])
def test_the_bytes_are_those_of_a_simulation_with_the_same_records(own, number):
    plan, folder = own
    run, simulated = plan.runs[number], planned(FEDAVG, TERM, **CHANGES).runs[number]
    assert [c.model_dump() for c in run.clients] == [c.model_dump() for c in simulated.clients]
    here = parquet(simulate(simulated))
    here.pop("predictions")
    assert parquet(federate(Nodes(run, folder), run, federation=plan.federation)) == here


def test_a_node_opens_its_own_file_only(own, monkeypatch):
    """Neither the server's table nor another client's: they are not on its machine."""
    plan, folder = own
    run = plan.runs[0]
    opened = []
    load = holder.load_table  # type: ignore[attr-defined]

    def spy(source):
        opened.append(source.file.path)
        return load(source)

    monkeypatch.setattr(holder, "load_table", spy)
    monkeypatch.setattr(federations, "load_table", None)
    federate(Nodes(run, folder), run, federation=plan.federation)
    assert set(opened) == {folder / f"{k}.parquet" for k in range(3)}


def test_the_server_needs_no_clients_file(tmp_path):
    plan = divided(tmp_path, FEDAVG, **CHANGES)
    for k in range(3):
        (tmp_path / f"{k}.parquet").unlink()
    records = plan.federation.records(0)
    assert [len(rows) for rows in records.held] == [0, 0, 0]
    assert len(records.test) == len(plan.federation.table)
    assert plan.federation.size == len(records.test) + sum(c.size for c in plan.runs[0].clients)
    assert converged(plan, tmp_path) is None
    with pytest.raises(ScenarioError, match="needs a SuperNode with its own file"):
        Trainer(plan.federation).train(plan.runs[0])


def damaged(folder, change):
    """Replace the file of client 0 by a changed one."""
    table = pq.read_table(folder / "0.parquet")
    pq.write_table(change(table), folder / "0.parquet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.drop_columns(["age"]), "no column 'age' in the file"),
        (lambda t: t.slice(0, 10), "holds 10 records; client 0 declares"),
        (
            lambda t: t.set_column(t.schema.get_field_index("group"), "group", [["Female"] * len(t)]),
            "'Female'",
        ),
        (lambda t: t.set_column(0, t.schema.names[0], [[np.nan] * len(t)]), "has no value in row 1"),
    ],
    ids=["column", "size", "group", "value"],
)
def test_a_file_that_does_not_fit_is_an_error_that_stays_on_the_node(tmp_path, caplog, change, reason):
    plan = divided(tmp_path, FEDAVG, **CHANGES)
    damaged(tmp_path, change)
    with caplog.at_level(logging.ERROR, "fedtoll"):
        line = refusal(plan.runs[0], Nodes(plan.runs[0], tmp_path))
    assert line == "round 1, client 0 (Male): the client failed"
    assert reason in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.51, 1.99])
def test_a_number_of_records_near_the_declared_one_is_accepted(tmp_path, factor):
    plan = divided(tmp_path, FEDAVG, **CHANGES)
    take = lambda t: t.take([i % len(t) for i in range(int(factor * len(t)))])  # noqa: E731
    damaged(tmp_path, take)
    federate(Nodes(plan.runs[0], tmp_path), plan.runs[0], federation=plan.federation)


def test_a_node_with_a_file_answers_no_other_scenario(own, caplog):
    _, folder = own
    run = planned(FEDAVG, **CHANGES).runs[0]
    assert refusal(run, Nodes(run, folder)).endswith("client 0 (Male): the client failed")
    assert "this client holds records of its own" in caplog.text


def test_a_wrong_configuration_stays_on_the_node(own, caplog):
    plan, folder = own
    run = plan.runs[0]
    assert refusal(run, Nodes(run, folder, noise="none")).endswith("the client failed")
    assert "node-config: noise = 'none'" in caplog.text
    with pytest.raises(ScenarioError, match="epsilon = -1"):
        Decided.of(Context(1, 1, {"partition-id": 0, "epsilon": -1}, RecordDict(), {}))


@pytest.mark.slow
def test_secret_noise_is_not_that_of_the_seed_and_each_run_has_its_own(own):
    plan, folder = own
    run = plan.runs[0]

    def final(**config):
        models = []
        federate(Nodes(run, folder, **config), run, lambda t, m: models.append(m), plan.federation)
        return models[-1][0]

    seeded, again, a, b = final(), final(noise="seeded"), final(noise="secret"), final(noise="secret")
    assert np.array_equal(seeded, again)
    assert not np.isclose(a, seeded).all()
    assert not np.isclose(a, b).all()


def test_a_secret_never_leaves_the_node_and_lasts_for_a_run(own):
    plan, folder = own
    run = plan.runs[0]
    grid = Nodes(run, folder, noise="secret")
    sent: list[Any] = []
    train = grid.train

    def record(messages, contexts):
        replies = train(messages, contexts)
        sent.extend(
            (reply, own.state.config_records[SECRET]["bits"])
            for reply, own in zip(replies, grid.contexts, strict=True)
        )
        return replies

    grid._handler = record
    federate(grid, run, federation=plan.federation)
    assert len(sent) == run.rounds * 3
    assert len({bits for _, bits in sent}) == 3  # one a node, the same in every round
    for reply, bits in sent:
        assert set(reply.content) == {"arrays", "metrics", LEDGER}
        parts = [*reply.content.array_records["arrays"].values()]
        assert all(bits not in array.data for array in parts)
        assert bits.hex() not in repr(reply.content)


def test_a_node_that_sends_its_secret_or_its_records_is_found(own):
    """The checks of every reply cover nodes with files, too: exactly three records, by name."""
    plan, folder = own
    run = plan.runs[0]
    grid = Nodes(run, folder, noise="secret")
    train = grid.train

    def leak(messages, contexts):
        replies = train(messages, contexts)
        replies[1].content["more"] = ConfigRecord(dict(grid.contexts[1].state.config_records[SECRET]))
        return replies

    grid._handler = leak
    assert "client 1 (Male): the reply is malformed: " in refusal(run, grid)


@pytest.mark.parametrize(("limit", "accepted"), [(2.0, True), (1.9, False)])
def test_a_node_rejects_a_run_that_spends_more_than_it_allows(own, limit, accepted):
    plan, folder = own
    run = plan.runs[0]
    grid = Nodes(run, folder, epsilon=limit)
    if accepted:
        federate(grid, run, federation=plan.federation)
    else:
        assert refusal(run, grid).endswith("client 0 (Male): the client rejects the message")


def test_the_limit_is_of_what_the_plan_spends_not_of_what_it_says(own):
    """A server could state a small ε and send little noise."""
    plan, folder = own
    run = plan.runs[0]
    weak = tuple(c.model_copy(update={"noise_multiplier": c.noise_multiplier / 2}) for c in run.clients)
    lying = run.model_copy(update={"clients": weak})
    assert refusal(lying, Nodes(lying, folder, epsilon=2.0)).endswith("the client rejects the message")


def test_the_limit_is_at_the_nodes_delta_not_the_plans(own):
    plan, folder = own
    run = plan.runs[0]
    weak = tuple(c.model_copy(update={"noise_multiplier": 0.2}) for c in run.clients)
    lying = run.model_copy(update={"clients": weak, "delta": 0.999})
    assert refusal(lying, Nodes(lying, folder, epsilon=2.0)).endswith("the client rejects the message")
    assert refusal(run, Nodes(run, folder, epsilon=2.0, delta=1e-9)).endswith(
        "the client rejects the message"
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"noise": "secret"}, "node-config: noise = 'secret': needs partition, a file of own records"),
        ({"delta": 1.0}, "node-config: delta = 1.0: must be a number between 0 and 1"),
        ({"delta": "1e-5"}, "node-config: delta = '1e-5': must be a number between 0 and 1"),
    ],
)
def test_a_configuration_that_protects_nothing_is_refused(config, message):
    with pytest.raises(ScenarioError, match=re.escape(message)):
        Decided.of(Context(1, 0, {"partition-id": 0, **config}, RecordDict(), {}))


def test_a_run_without_noise_is_rejected_under_a_limit(own):
    plan, folder = own
    mine = plan.runs[0]
    free = planned(FEDAVG, training={"engine": "opacus"}).runs[0]
    kept = ("partition", "data", "checksum", "predictions")
    run = free.model_copy(update={key: getattr(mine, key) for key in kept})
    assert refusal(run, Nodes(run, folder, epsilon=50)).endswith("the client rejects the message")


def test_other_grids_refuse_a_scenario_whose_records_are_elsewhere(own):
    plan, _ = own
    file = own[1] / "nodes.toml"
    file.write_text(toml.dumps(plan.scenario.model_dump(mode="json", exclude_defaults=True)))
    for grid in ("local", "flower"):
        with pytest.raises(ScenarioError, match="needs --grid superlink"):
            prepare(str(file), grid=grid)
    assert [r.hash for r in prepare(str(file), grid="superlink").runs] == [r.hash for r in plan.runs]


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"partition": {"kind": "declared", "holders": [{"size": 5, "group": "Fmale"}]}}, "no group 'Fmale'"),
        ({"partition": {"kind": "declared"}}, "holders: required by kind = 'declared'"),
        ({"partition": {"holders": [{"size": 5}]}}, "holders: only with kind = 'declared'"),
        ({"partition": {"kind": "declared", "copies": 2, "holders": [{"size": 5}]}}, "copies: not with"),
        ({"split": {"folds": 3}}, "split: not with"),
    ],
)
def test_a_declaration_that_cannot_be(own, section, reason):
    plan, _ = own
    content = plan.scenario.model_dump(mode="json", exclude_defaults=True) | section
    with pytest.raises(ScenarioError, match=reason):
        plans.plan(validate(content, "x.toml"), "x.toml")


@pytest.mark.slow
def test_clients_without_a_declared_group_have_no_weight_by_group(tmp_path):
    plan = divided(tmp_path, FEDAVG, partition={"kind": "iid", "clients": 3}, **CHANGES)
    run = plan.runs[0]
    tables = federate(Nodes(run, tmp_path), run, federation=plan.federation)
    after = tables["groups"].query("round == 1").set_index("group")["weight"]
    assert math.isnan(after["Male"])
    assert after.dropna().tolist() == [pytest.approx(1.0)]


def test_files_that_cannot_be_split(own):
    with pytest.raises(ScenarioError, match="the records are not here"):
        divide(own[0].scenario, 0)
    with pytest.raises(ScenarioError, match=r"partition\.copies"):
        divide(scenario(FEDAVG, partition={"clients": {"Male": 2, "Female": 2}, "copies": 2}), 0)


def test_older_runs_keep_their_hash():
    """The new key is not in the JSON of a run that does not use it."""
    assert "holders" not in planned(FEDAVG).runs[0].to_json()


@pytest.mark.slow
def test_the_process_that_answers_a_roll_call_imports_no_torch():
    code = "import sys; from fedtoll.clients.app import roll_call; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
