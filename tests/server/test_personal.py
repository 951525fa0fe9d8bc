"""Personal models against numpy, with noise off and injected, and where they are something known."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest

from fedtoll.audit.run import prepare
from fedtoll.clients import wire
from fedtoll.clients.engines import sampling
from fedtoll.clients.engines.base import Task
from fedtoll.report import who
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Privacy, Scenario, Training
from fedtoll.server.app import federate, fit
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import plan
from fedtoll.server.trainer import Trainer
from fedtoll.sweep.validate import validation_losses
from tests.server.federation import FEDAVG, Wrapped, parquet, refusal
from tests.server.federation import planned as smallest
from tests.server.nodes import Nodes, divided
from tests.shared import records

KINDS: dict[str, dict[str, Any]] = {
    "mr-mtl": {"kind": "mr-mtl", "strength": 0.3},
    "fedper": {"kind": "fedper", "last": 1},
    "ditto": {"kind": "ditto", "strength": 0.3, "steps": 3},
}
MIXED = {"kind": "shares", "shares": [[0.5, 0.2], [0.3, 0.2], [0.2, 0.6]]}


def scenario(personal: dict[str, Any] | None = None, **changes: Any) -> Scenario:
    """Return three clients of made-up records of two groups, three rounds of two steps."""
    table: dict[str, Any] = {
        "name": "own-models",
        "title": "Own models",
        "seeds": [0],
        "data": {
            "source": "synthetic",
            "groups": ["group"],
            "synthetic": {
                "features": 3,
                "groups": {"A": {"size": 90}, "B": {"size": 45, "concept_shift": 0.4}},
            },
        },
        "split": {"folds": 3},
        "partition": {"kind": "group", "clients": {"A": 2}},
        "training": {
            "rounds": 3,
            "sampling_rate": 0.4,
            "local_steps": 2,
            "learning_rate": 0.7,
            "clip": 0.5,
            "precision": "float64",
        },
        "privacy": {"epsilons": ["inf"], "delta": 1e-3},
        "strategies": [{"name": "fedavg"}],
    }
    if personal is not None:
        table["personal"] = personal
    for key, value in changes.items():
        whole = key == "partition" or not isinstance(value, dict)
        table[key] = value if whole else {**table.get(key, {}), **value}
    return validate(table, "own.toml")


def one(personal: dict[str, Any] | None = None, epsilon: Any = "inf", **changes: Any) -> Run:
    (run,) = plan(scenario(personal, privacy={"epsilons": [epsilon]}, **changes), "own.toml").runs
    return run


Vector = np.ndarray[Any, Any]


def trained(run: Run) -> tuple[list[Vector], list[dict[int, Vector]]]:
    """Return the server's model and every client's own after each round, the initial one first."""
    shared: list[Vector] = []
    own: dict[int, Any] = {}
    mine: list[dict[int, Vector]] = []

    def look(_: int, model: Any) -> None:
        shared.append(vector(model))
        mine.append({client: vector(arrays) for client, arrays in own.items()})

    fit(LocalGrid(run), run, look, Federation.of(run), own)
    return shared, mine


def vector(model: Any) -> Vector:
    return np.concatenate([np.ravel(a) for a in model]).astype(np.float64)


# The oracle: logistic regression in numpy. A model is a vector of weights and, last, the bias.


def steps(run: Run, client: int, round: int, model: Vector, own: bool, towards: Vector | None) -> Vector:
    """Return a client's model after the local steps of a round, from the equations."""
    held = records(run)
    rows = held.held[client]
    count = run.own_steps(run.clients[client]) if own else run.clients[client].steps
    changed = run.clients[client].model_copy(update={"steps": count})
    task = Task(changed, round, (), np.empty((1, 0)), rows, own=own)  # type: ignore[arg-type]
    generator = sampling.noise_generator()
    for batch, key in zip(sampling.batches(run, task), sampling.noise_keys(run, task), strict=True):
        x = held.table.features[rows][batch].astype(np.float64)
        x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        error = 1 / (1 + np.exp(-x @ model)) - held.table.label[rows][batch]
        gradients = error[:, None] * x
        if run.clip is not None:
            norms = np.linalg.norm(gradients, axis=1, keepdims=True)
            gradients *= np.minimum(1, run.clip / np.maximum(norms, 1e-30))
        total = gradients.sum(axis=0)
        if run.mechanism == "dp-sgd":
            sampling.begin(generator, key)
            total += changed.noise_multiplier * (run.clip or 0) * generator.standard_normal(len(model))
        pull = 0.0 if towards is None else (run.personal.strength or 0.0) * (model - towards)  # type: ignore[union-attr]
        model = model - run.learning_rate * (total / changed.batch_size + pull)
    return model


def oracle(run: Run) -> tuple[list[Vector], list[dict[int, Vector]]]:
    """Return what :func:`trained` returns, from the definitions of the methods."""
    assert run.personal is not None
    kind, last = run.personal.kind, run.personal.last or 0
    size = 1 + records(run).table.features.shape[1]
    server, clients = np.zeros(size), range(len(run.clients))
    weights = np.array([c.size for c in run.clients]) / sum(c.size for c in run.clients)
    own = [server for _ in clients]
    shared, mine = [server], [dict[int, Vector]()]
    for t in range(1, run.rounds + 1):
        sent = []
        for k in clients:
            if kind == "mr-mtl":
                own[k] = steps(run, k, t, own[k], False, server)
                sent.append(own[k])
            elif kind == "fedper":
                mixed = np.concatenate([server[: size - last], own[k][size - last :]])
                own[k] = steps(run, k, t, mixed, False, None)
                sent.append(np.concatenate([own[k][: size - last], server[size - last :]]))
            else:
                sent.append(steps(run, k, t, server, False, None))
                own[k] = steps(run, k, t, own[k], True, server)
        server = np.asarray(weights @ np.array(sent))
        shared.append(server)
        mine.append(dict(enumerate(own)))
    return shared, mine


@pytest.mark.parametrize("engine", ["cohort", "opacus"])
@pytest.mark.parametrize("epsilon", ["inf", "clip-only", 3.0])
@pytest.mark.parametrize("kind", KINDS)
def test_models_are_those_of_the_equations(kind, epsilon, engine):
    """With ``last = 1`` the head is the bias: the last number of the vector."""
    run = one(KINDS[kind], epsilon, training={"engine": engine}, partition=MIXED)
    (shared, mine), (due_shared, due_mine) = trained(run), oracle(run)
    for found, due in zip(shared, due_shared, strict=True):
        assert np.abs(found - due).max() < 1e-5
    for own, due_own in zip(mine, due_mine, strict=True):
        assert own.keys() == due_own.keys()
        for client, model in own.items():
            assert np.abs(model - due_own[client]).max() < 1e-5, client


@cache
def tables(personal: str = "", epsilon: Any = 3.0, **changes: Any) -> dict[str, Any]:
    run = one(KINDS[personal] if personal else None, epsilon, **changes)
    return federate(LocalGrid(run), run)


def test_mr_mtl_without_a_pull_is_training_alone():
    """The own model of each client is that of a federation of it alone, and the server's is their mean."""
    run = one({"kind": "mr-mtl", "strength": 0.0}, 3.0)
    shared, mine = trained(run)
    alone = run.model_copy(update={"personal": None})
    for k in range(len(run.clients)):
        model = np.zeros_like(shared[0])
        for t in range(1, run.rounds + 1):
            model = steps(alone, k, t, model, False, None)
        assert np.abs(mine[-1][k] - model).max() < 1e-5
    weights = np.array([c.size for c in run.clients]) / sum(c.size for c in run.clients)
    assert np.allclose(shared[-1], weights @ np.array([mine[-1][k] for k in range(len(weights))]))


@pytest.mark.parametrize("epsilon", ["inf", 3.0])
def test_fedper_that_keeps_nothing_is_fedavg(epsilon):
    run = one({"kind": "fedper", "last": 0}, epsilon)
    shared, mine = trained(run)
    due, none = trained(run.model_copy(update={"personal": None}))
    assert [a.tobytes() for a in shared] == [a.tobytes() for a in due]
    assert len(mine[-1]) == 3
    assert not none[-1]


def test_fedper_that_keeps_everything_is_training_alone():
    whole = trained(one({"kind": "fedper", "last": 2}, 3.0))
    alone = trained(one({"kind": "mr-mtl", "strength": 0.0}, 3.0))
    assert all(np.array_equal(whole[1][-1][k], alone[1][-1][k]) for k in range(3))
    assert not whole[0][-1].any(), "the server's model moved"


@pytest.mark.parametrize("engine", ["cohort", "opacus"])
@pytest.mark.parametrize("strategy", [{"name": "fedavg"}, {"name": "term", "t": 2.0}], ids=["fedavg", "term"])
def test_the_model_of_dittos_server_has_the_bytes_of_a_run_without(strategy, engine):
    run = one(KINDS["ditto"], 3.0, training={"engine": engine}, strategies=[strategy])
    shared, mine = trained(run)
    due, _ = trained(run.model_copy(update={"personal": None}))
    assert [a.tobytes() for a in shared] == [a.tobytes() for a in due]
    assert not np.array_equal(mine[-1][0], shared[-1])


# What the plan and the tables say.


def test_ditto_pays_for_the_steps_of_both_models():
    usual, ditto = one(None, 3.0), one(KINDS["ditto"], 3.0)
    five = one(None, 3.0, training={"local_steps": 5})
    for a, b, c in zip(usual.clients, ditto.clients, five.clients, strict=True):
        assert a.noise_multiplier < b.noise_multiplier == c.noise_multiplier
    ledger = tables("ditto")["ledger"]
    assert dict(ledger[ledger["client"] == 0].groupby("release")["count"].sum()) == {
        "dp-sgd": 6,
        "own model": 9,
    }
    assert ledger["epsilon_spent"].max() == pytest.approx(3.0, abs=0.01)
    for kind in ("mr-mtl", "fedper"):
        same = one(KINDS[kind], 3.0)
        assert [c.noise_multiplier for c in same.clients] == [c.noise_multiplier for c in usual.clients]


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_is_scored_by_the_own_models_of_its_clients(kind):
    run = one(KINDS[kind], 3.0)
    found = tables(kind)
    _, mine = trained(run)
    held = records(run)
    scores = found["predictions"]
    for row in scores.itertuples():
        client = run.clients[row.client]
        assert client.group == row.group
        weight = mine[-1][row.client]
        logit = float(held.table.features[row.record].astype(float) @ weight[:-1] + weight[-1])
        assert row.score == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    last = found["groups"].query(f"round == {run.rounds} and group == 'B'").iloc[0]
    mine_B = scores[scores["group"] == "B"]
    right = ((mine_B["score"] >= 0.5) == (mine_B["label"] == 1)).mean()
    assert last["accuracy"] == pytest.approx(right)
    assert set(scores["record"]) == set(held.test)


def test_held_out_records_are_dealt_as_training_records_are():
    one_group = one(KINDS["mr-mtl"])
    test, groups = records(one_group).test, records(one_group).groups
    owners = Federation.of(one_group).owners(test, 0)
    dealt = Counter(zip(groups.codes[test].tolist(), owners.tolist(), strict=True))
    assert set(dealt) == {(0, 0), (0, 1), (1, 2)}
    assert abs(dealt[0, 0] - dealt[0, 1]) <= 1
    federation = Federation.of(one(KINDS["mr-mtl"], partition=MIXED))
    owners = federation.owners(test, 0)
    for g in range(2):
        of_g = owners[groups.codes[test] == g]
        due = np.array(MIXED["shares"])[:, g]
        assert np.abs(np.bincount(of_g, minlength=3) / len(of_g) - due).max() < 0.5 / len(of_g) + 1e-9 + 0.04
    assert np.array_equal(owners, federation.owners(test, 0))
    assert not np.array_equal(owners, federation.owners(test, 1))


@pytest.mark.slow
def test_results_do_not_depend_on_which_runs_train_together():
    runs = [one(p, 3.0) for p in (None, *KINDS.values())]
    together = Trainer().train_together(runs)
    for run, found in zip(runs, together, strict=True):
        assert isinstance(found, dict)
        assert parquet(found) == parquet(Trainer().train(run))


def test_a_run_without_has_no_trace_of_them():
    run = one()
    assert "personal" not in run.to_json()
    assert "personal" not in scenario().model_dump_json()
    hashes = {one(p).hash for p in (None, *KINDS.values(), {"kind": "mr-mtl", "strength": 0.4})}
    assert len(hashes) == 5
    assert Run.from_json(one(KINDS["ditto"]).to_json()) == one(KINDS["ditto"])


# What cannot run.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"privacy": {"trust": "central"}, "training": {"local_steps": 1}}, "privacy.trust = 'central'"),
        ({"participation": {"kind": "fraction", "fraction": 0.5}}, "participation.kind = 'fraction'"),
        ({"training": {"on_failure": "skip"}}, "training.on_failure = 'skip'"),
        ({"training": {"average": True}}, "training.average: must be false"),
        ({"partition": {"kind": "iid", "clients": 4, "copies": 2}}, "partition.copies = 2"),
        ({"personal": {"kind": "mr-mtl"}}, "strength: required by kind = 'mr-mtl'"),
        (
            {"personal": {"kind": "fedper", "last": 2, "strength": 1.0}},
            "strength: only with kind = 'mr-mtl' or",
        ),
        ({"personal": {"kind": "fedper"}}, "last: required by kind = 'fedper'"),
        ({"personal": {"kind": "mr-mtl", "strength": 1.0, "steps": 2}}, "steps: only with kind = 'ditto'"),
        ({"personal": {"kind": "mrmtl", "strength": 1.0}}, "personal.kind: 'mrmtl' is unknown; .*'mr-mtl'"),
        ({"strategies": [{"name": "term"}]}, "not with strategy 'term': clients release their mean_loss"),
        ({"strategies": [{"name": "fedprox"}]}, "not with strategy 'fedprox': MR-MTL fixes"),
        ({"strategies": [{"name": "inverse-variance"}]}, "not with strategy 'inverse-variance'"),
        ({"strategies": [{"name": "flwr.serverapp.strategy:FedYogi"}]}, "Flower's own strategies read"),
        ({"personal": {"kind": "fedper", "last": 3}}, "personal.last = 3: the model has 2"),
    ],
    ids=str,
)
def test_what_cannot_run_is_one_line(changes, reason):
    changes = {"personal": KINDS["mr-mtl"], **changes}
    with pytest.raises(ScenarioError, match=reason) as caught:
        plan(scenario(**changes), "own.toml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("own.toml: ")


def test_a_choice_of_constants_is_made_by_own_models():
    """The validation loss is that of own models on the records that their clients would hold."""
    run = one(KINDS["mr-mtl"], 3.0, split={"validation": 0.2})
    (losses,) = validation_losses(Trainer(), [run.to_json()])
    assert isinstance(losses, dict)
    _, mine = trained(run)
    held = records(run)
    owners = Federation.of(run).owners(held.validation, run.seed)
    x = held.table.features[held.validation].astype(float)
    models = np.array([mine[-1][k] for k in owners])
    logits = (x * models[:, :-1]).sum(axis=1) + models[:, -1]
    nats = np.logaddexp(0, np.where(held.table.label[held.validation] == 1, -logits, logits))
    assert losses["(all)"] == pytest.approx(nats.mean(), abs=1e-6)


def test_an_audit_refuses():
    with pytest.raises(ScenarioError, match=r"personal.kind = 'mr-mtl': an audit attacks"):
        prepare("adult-race", ['personal.kind="mr-mtl"', "personal.strength=0.1"], "0:4")


def test_the_card_and_the_headline_say_so():
    resolved = {"personal": {"kind": "ditto", "strength": 0.5}}
    assert who.phrase(resolved) == " with personal models (Ditto, λ = 0.5)"
    terms = dict(who.terms(resolved))
    assert "ISRL-DP" in terms["Personal models"]
    assert "own model are charged too" in terms["Personal models"]
    mine = {"personal": {"kind": "a/mine.py:Mine", "share": 0.5}}
    assert who.phrase(mine) == " with personal models (Mine, share = 0.5)"
    assert "own model, if there are any, are charged" in dict(who.terms(mine))["Personal models"]
    assert who.phrase({}) == ""
    calibrated = {"calibration": {"noise_multiplier": 20.0, "prior": 0.5}}
    assert who.phrase(calibrated) == " with offsets calibrated by group"
    assert "noise multiplier 20" in dict(who.terms(calibrated))["Calibration"]
    assert "Personal models" not in dict(who.terms({}))
    assert who.phrase({"personal": {"kind": "later"}}) == " with personal models (later)"


def _without(content: Any) -> None:
    del content["personal"]


def _longer(content: Any) -> None:
    content["personal"] = wire.encoded([np.zeros((1, 4)), np.zeros(1)])


def _infinite(content: Any) -> None:
    content["personal"] = wire.encoded([np.full((1, 3), np.inf), np.zeros(1)])


def _fewer(content: Any) -> None:
    content["personal"] = wire.encoded([np.zeros((1, 3))])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without, "it has no 'personal'"),
        (_longer, "own parameter 0: "),
        (_infinite, "own parameter 0 is not finite"),
        (_fewer, "own parameters ['0'] instead of ['0', '1']"),
    ],
)
def test_a_malformed_own_model_ends_the_run_in_one_line(change, reason):
    run = one(KINDS["mr-mtl"])

    def second(replies: Any, round: int) -> Any:
        if round == 2:
            change(replies[1].content)
        return replies

    line = refusal(run, Wrapped(run, second))
    assert line.startswith("round 2, client 1 (A): the reply is malformed: ")
    assert reason in line


def test_an_own_model_in_a_run_without_is_malformed():
    run = one()

    def extra(replies: Any, round: int) -> Any:
        replies[0].content["personal"] = wire.encoded([np.zeros(3)])
        return replies

    assert "malformed" in refusal(run, Wrapped(run, extra))


def test_the_noise_of_mr_mtl_is_that_of_all_rounds_so_far():
    table = tables("mr-mtl")["clients"]
    run = one(KINDS["mr-mtl"], 3.0)
    client, decay = run.clients[0], 1 - 0.7 * 0.3
    step = (0.7 * client.noise_multiplier * 0.5 / client.batch_size) ** 2
    due = [step * sum(decay ** (2 * j) for j in range(2 * t)) for t in (1, 2, 3)]
    assert table[table["client"] == 0]["noise_variance"].tolist() == pytest.approx(due)
    for kind in ("fedper", "ditto"):
        same = tables(kind)["clients"]
        z = one(KINDS[kind], 3.0).clients[0].noise_multiplier
        of_one = 2 * (0.7 * z * 0.5 / client.batch_size) ** 2
        assert same[same["client"] == 0]["noise_variance"].tolist() == pytest.approx([of_one] * 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "section",
    [{"personal": KINDS["ditto"]}, {"calibration": {"noise_multiplier": 9.0}}],
    ids=["own", "offsets"],
)
def test_clients_with_files_of_their_own_give_the_figures_of_a_simulation(tmp_path, section):
    changes = {"privacy": {"epsilons": [2.0]}, "training": {"engine": "opacus"}, **section}
    nodes, (simulated,) = divided(tmp_path, FEDAVG, **changes), smallest(FEDAVG, **changes).runs
    (run,) = nodes.runs
    there = parquet(federate(Nodes(run, tmp_path), run, federation=nodes.federation))
    here = parquet(Trainer().train(simulated))
    for name in ("groups", "clients", "ledger", "rounds"):
        assert there[name] == here[name], name


def test_clients_with_files_of_their_own_need_groups(tmp_path):
    plan_ = divided(tmp_path, FEDAVG, privacy={"epsilons": [2.0]}, personal=KINDS["mr-mtl"])
    table = plan_.scenario.model_dump(mode="json")
    holders = table["partition"]["holders"]
    holders[0]["group"] = ""
    with pytest.raises(ScenarioError, match=r"partition.holders: each needs a group"):
        validate(table, "own.toml")
    for holder in holders:
        holder["group"] = "Male"
    with pytest.raises(ScenarioError, match=r"no client holds records of 'Female'"):
        plan(validate(table, "own.toml"), "own.toml")


THOUGHT_OF = {
    Scenario: "name title description seeds data split partition model training client participation "
    "personal privacy statistics calibration strategies compare source setting claim tune results",
    Training: "rounds learning_rate clip sampling_rate batch_size local_steps local_epochs engine device "
    "precision average server_schedule start pull on_failure timeout",
    # The last three need another trust model than local, which own models refuse.
    Privacy: "epsilons delta accountant noise_seed epsilon_factor trust colluding "
    "unit adaptive_clip weight_cap",
}
"""The keys for which it was decided whether they go with own models and a calibration."""


@pytest.mark.parametrize("section", THOUGHT_OF, ids=lambda s: s.__name__)
def test_new_keys_are_refused_or_known_to_go_with_own_models(section):
    """What changes how clients train, or what is charged, may not hold for a client's own model as well.

    Whoever adds a key refuses it in ``check`` of ``scenarios/personal.py`` and ``scenarios/calibration.py``,
    or tests that both go with it, and then adds it here.
    """
    assert set(section.model_fields) == set(THOUGHT_OF[section].split())
