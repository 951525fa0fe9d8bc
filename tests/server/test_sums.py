"""Secure aggregation and a trusted server: the sums are those of DP-SGD on all records in one place."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from fedtoll.audit.run import prepare
from fedtoll.clients.engines import sampling
from fedtoll.clients.engines.base import Task
from fedtoll.clients.failures import RejectedError
from fedtoll.clients.node import Decided, Node
from fedtoll.clients.train import Clients
from fedtoll.scenarios import trust
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.read import read
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.shares import largest_ratio
from fedtoll.server.app import federate, fit
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import check, plan
from fedtoll.server.trainer import simulate
from fedtoll.strategies import registry
from fedtoll.strategies.fedavg import FedAvg
from tests.peers.oracle import at_most
from tests.server.federation import FEDAVG, parquet, planned, scenario
from tests.shared import records

ONE_STEP = {"local_steps": 1, "sampling_rate": 0.01, "precision": "float64"}
SUMS = ("secure-aggregation", "central")


def one(strategy: dict[str, Any] = FEDAVG, by: str = "secure-aggregation", **changes: Any) -> Run:
    """Return one private run of one-step rounds."""
    training = {**ONE_STEP, **changes.pop("training", {})}
    privacy = {"epsilons": [2.0], "trust": by, **changes.pop("privacy", {})}
    (run,) = planned(strategy, training=training, privacy=privacy, **changes).runs
    return run


def models(run: Run, handler: Any = None) -> list[list[np.ndarray[Any, Any]]]:
    found: list[list[np.ndarray[Any, Any]]] = []
    fit(LocalGrid(run, handler), run, lambda _, model: found.append([*model]), Federation.of(run))
    return found


def moves(run: Run) -> list[np.ndarray[Any, Any]]:
    """Return how each round moved the model, as vectors."""
    flat = [np.concatenate([a.ravel() for a in model]) for model in models(run)]
    return [b - a for a, b in itertools.pairwise(flat)]


# The mechanism.


def clipped_sum(run: Run, model: Any, round: int) -> np.ndarray[Any, Any]:
    """Return the sum of clipped gradients of all batches, from the formula of logistic regression."""
    held = records(run)
    total = 0.0
    for client, rows in zip(run.clients, held.held, strict=True):
        empty: Any = np.empty((len(rows), 0))
        task = Task(client, round, model, empty, rows)  # type: ignore[arg-type]
        (batch,) = sampling.batches(run, task)
        x = held.table.features[rows][batch].astype(np.float64)
        y = held.table.label[rows][batch]
        weight, bias = (a.astype(np.float64) for a in model)
        logits = x @ weight.T + bias
        if logits.shape[1] == 1:
            error = 1 / (1 + np.exp(-logits)) - y[:, None]
        else:
            exp = np.exp(logits - logits.max(1, keepdims=True))
            error = exp / exp.sum(1, keepdims=True) - np.eye(logits.shape[1])[y]
        gradients = np.concatenate([(error[:, :, None] * x[:, None]).reshape(len(x), -1), error], axis=1)
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        total = total + (gradients * np.minimum(1, run.clip / np.maximum(norms, 1e-30))).sum(axis=0)
    return np.asarray(total)


def injected(run: Run, round: int, size: int) -> np.ndarray[Any, Any]:
    """Return the noise that the shares of all clients add up to, in units of the clip."""
    generator, total = sampling.noise_generator(), np.zeros(size)
    for client in run.clients:
        task = Task(client, round, (), np.empty((1, 0)), np.empty(1))  # type: ignore[arg-type]
        sampling.begin(generator, sampling.noise_keys(run, task)[0])
        total += client.added_noise * generator.standard_normal(size)
    return total


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["cohort", "opacus"])
def test_secure_aggregation_equals_central_dp_sgd_with_the_same_noise(engine):
    run = one(training={"engine": engine})
    found = models(run)
    n = sum(c.size for c in run.clients)
    for round, (before, after) in enumerate(itertools.pairwise(found), 1):
        flat = np.concatenate([a.ravel() for a in before])
        noise = run.clip * injected(run, round, flat.size)
        step = run.learning_rate / (0.01 * n) * (clipped_sum(run, before, round) + noise)
        assert np.abs(np.concatenate([a.ravel() for a in after]) - (flat - step)).max() < 1e-6
    # One noise for all: its sd is that of central DP-SGD with the charged σ.
    shares = [c.added_noise for c in run.clients]
    assert math.sqrt(sum(s**2 for s in shares)) == pytest.approx(run.clients[0].noise_multiplier)


@pytest.mark.slow
@pytest.mark.parametrize("by", SUMS)
def test_the_sums_have_the_distribution_of_central_dp_sgd(by):
    """Over many noise seeds and fixed batches: normal around the exact sum, with sd σ η C / (q n)."""
    run = one(by=by, training={"rounds": 1})
    (start, _), size = models(run), sum(c.size for c in run.clients)
    exact = -run.learning_rate / (0.01 * size) * clipped_sum(run, start, 1)
    sd = run.clients[0].noise_multiplier * run.learning_rate * (run.clip or 0.0) / (0.01 * size)
    draws = [moves(run.model_copy(update={"noise_seed": seed}))[0] - exact for seed in range(24)]
    z = np.array(draws) / sd
    assert kstest(z.ravel(), "norm").pvalue > 1e-4
    assert z.std() == pytest.approx(1, abs=5 / math.sqrt(2 * z.size))
    correlations = np.corrcoef(z) - np.eye(len(z))
    assert np.abs(correlations).max() < 6 / math.sqrt(z.shape[1])


def test_local_noise_has_K_times_the_variance_of_a_sum_at_one_epsilon():
    local, shared = one(by="local"), one()
    assert {c.noise_multiplier for c in local.clients} == {c.noise_multiplier for c in shared.clients}
    mean = {r.trust: simulate(r)["rounds"]["effective_noise"].iloc[0] for r in (local, shared)}
    assert mean["local"] / mean["secure-aggregation"] == pytest.approx(len(local.clients))
    central = one(by="central")
    noise = simulate(central)["rounds"]["effective_noise"]
    assert noise.to_numpy() == pytest.approx(mean["secure-aggregation"])


def test_uniform_weights_pay_for_the_smallest_client():
    shared, uniform = one(), one({"name": "uniform"})
    ratios = [
        largest_ratio([c.weight or 0.0 for c in run.clients], [c.batch_size for c in run.clients])
        for run in (shared, uniform)
    ]
    sizes = [c.size for c in shared.clients]
    assert ratios[1] / ratios[0] == pytest.approx(sum(sizes) / (len(sizes) * min(sizes)))


@pytest.mark.slow
def test_every_epsilon_is_the_oracles_for_one_ledger_of_sums():
    run = one(training={"sampling_rate": 0.05, "rounds": 8})
    table = simulate(run)["ledger"]
    (sigma,) = set(table["noise_multiplier"])
    expected = at_most(((sigma, 0.05, 8),), run.delta, 1e-4)
    for _, rows in table.groupby("client"):
        assert rows["epsilon_spent"].max() == pytest.approx(expected, rel=1e-3)
        assert expected <= 2.0 * 1.001


def test_clients_with_other_rates_get_the_noise_of_the_largest_rate():
    run = one(training={"sampling_rate": None, "batch_size": 100})
    spent = simulate(run)["ledger"].groupby("client")["epsilon_spent"].max()
    largest = max(run.clients, key=lambda c: c.sampling_rate)
    assert spent.idxmax() == largest.id
    assert spent.max() == pytest.approx(2.0, rel=1e-3)
    assert spent.min() < 1.99


@pytest.mark.slow
@pytest.mark.parametrize("by", SUMS)
def test_engines_and_single_clients_give_the_same_sums(by):
    """Clients asked one by one, as by Flower's simulation, give the bytes of clients asked together."""
    run = one({"name": "fedminmax"}, by, training={"engine": "opacus"})
    clients = Clients()

    def one_by_one(messages: Any, contexts: Any) -> Any:
        return [clients.train([m], [c])[0] for m, c in zip(messages, contexts, strict=True)]

    apart = federate(LocalGrid(run, one_by_one), run)
    assert parquet(apart) == parquet(simulate(run))
    cohort = run.model_copy(update={"engine": "cohort"})
    for a, b in zip(models(run), models(cohort), strict=True):
        assert all(np.allclose(x, y, atol=1e-9) for x, y in zip(a, b, strict=True))


def test_with_several_local_steps_the_composed_epsilon_would_not_hold():
    """Why one step: others' second gradients can undo their first noise, and the record's shift adds up.

    Ten clients of two steps on whole batches. The record of client 0 shifts both of its steps by C. The other
    clients' gradients have slope B/η in the model, so that their second step takes the first back, with its
    noise. The sum then tells the two apart as one release with less noise than two composed ones claim.
    """
    clients, sigma, draws = 10, 1.0, 20_000
    share = sigma / math.sqrt(clients)
    rng = np.random.default_rng(0)
    own = share * rng.standard_normal((draws, 2)).sum(axis=1)
    others = share * rng.standard_normal((draws, clients - 1))  # of their second step
    sd = float((own + others.sum(axis=1)).std())
    composed = math.sqrt(2) / sigma  # μ of two Gaussian releases of sensitivity 1
    assert 2 / sd > 1.25 * composed


# What a strategy sees.


@pytest.mark.parametrize("by", SUMS)
@pytest.mark.parametrize(
    "name",
    [
        *("fedavg", "uniform", "fedavgm", "fedadam", "fedyogi", "fedprox"),
        *("fedminmax", "fpfl", "fedfb", "puffle", "dp-fermi", "fedfdp"),
    ],
)
def test_strategies_with_public_weights_run(by, name):
    tables = simulate(one({"name": name}, by))
    assert tables["groups"]["accuracy"].notna().all()
    asked = {
        "fedminmax": "group_loss",
        "fpfl": "group_loss",
        "fedfb": "label_group_loss",
        "fedfdp": "group_loss",
        "puffle": "group_score",
        "dp-fermi": "group_score",
    }
    for statistic in ("group_loss", "label_group_loss", "group_score"):
        assert not {statistic, f"{statistic}_sd"} & {*tables["clients"]}
        assert (statistic in tables["rounds"]) == (asked.get(name) == statistic)


@dataclass(frozen=True)
class Loudest(FedAvg):
    """Gives all weight to the largest update."""

    def weigh(self, reports: Any, state: Any) -> Any:
        norms = [float(np.linalg.norm(r.update[0])) for r in reports]
        return np.eye(len(reports))[int(np.argmax(norms))], state


NEEDS = {
    "term": "needs each client's own mean_loss",
    "q-fedavg": "needs each client's own mean_loss",
    "afl": "needs each client's own",
    "fairfed": "depend on what single clients report",
    "noise-fair": "depend on what single clients report",
    "inverse-variance": "depend on what single clients report",
    "epsilon-weighted": "depend on what single clients report",
    "flwr.serverapp.strategy:FedAvg": "Flower's own strategies read the reply of each client",
}


@pytest.mark.parametrize(("name", "reason"), NEEDS.items())
@pytest.mark.parametrize("by", SUMS)
def test_strategies_that_need_single_clients_are_refused_before_training(name, reason, by):
    stated = scenario({"name": name}, training=ONE_STEP, privacy={"epsilons": [2.0], "trust": by})
    with pytest.raises(ScenarioError) as caught:
        check(stated, "x.toml")
    assert str(caught.value).startswith(f"x.toml: privacy.trust = '{by}'")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fedtolls_strategies_are_all_decided():
    ours = {n for n in registry.names() if registry.resolve(n)[0].startswith("fedtoll.")}
    run = {"fedavg", "uniform", "fedavgm", "fedadam", "fedyogi", "fedprox", "fedminmax"}
    run |= {"fpfl", "fedfb", "puffle", "dp-fermi", "fedfdp"}
    assert run <= ours
    for name in ours - run - {*NEEDS}:
        stated = scenario({"name": name}, training=ONE_STEP, privacy={"epsilons": [2.0], "trust": "central"})
        with pytest.raises(ScenarioError, match="sees only sums"):
            check(stated, "x.toml")


def test_a_subclass_with_weights_of_its_own_is_refused():
    stated = scenario(
        {"name": f"{__name__}:Loudest"}, training=ONE_STEP, privacy={"epsilons": [2.0], "trust": "central"}
    )
    with pytest.raises(ScenarioError, match="overrides weigh without public_weights"):
        check(stated, "x.toml")


# What makes no sense.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"training": {**ONE_STEP, "local_steps": 2}},
            r"training.local_steps = 2: must be 1 with privacy.trust",
        ),
        (
            {"training": {**ONE_STEP, "local_steps": None, "local_epochs": 1.0}},
            r"training.local_epochs = 1: use local_steps = 1",
        ),
        ({"training": {**ONE_STEP, "on_failure": "skip"}}, r"training.on_failure = 'skip': must be 'abort'"),
        ({"partition": {"kind": "iid", "clients": 4, "copies": 2}}, r"partition.copies = 2: must be 1"),
        (
            {"split": {"validation": 0.1}, "tune": {"local_steps": [1, 2]}},
            r"tune.local_steps = 2: must be 1",
        ),
        (
            {
                "split": {"validation": 0.1},
                "tune": {"learning_rates": [1.0, 2.0], "charge": "random-stopping"},
                "privacy": {"epsilons": [2.0], "trust": "central", "accountant": "rdp"},
            },
            r"tune.charge = 'random-stopping': must be 'none'",
        ),
        (
            {"participation": {"kind": "fraction", "fraction": 0.5}},
            r"participation.kind = 'fraction': must be 'all'",
        ),
        (
            {"privacy": {"epsilons": [2.0], "trust": "central", "epsilon_factor": {"Female": 0.5}}},
            r"privacy.epsilon_factor: not with privacy.trust = 'central'",
        ),
        ({"privacy": {"epsilons": [2.0], "colluding": 1}}, r"privacy.colluding = 1: needs privacy.trust"),
        (
            {"privacy": {"epsilons": [2.0], "trust": "central", "colluding": 1}},
            r"privacy.colluding = 1: needs privacy.trust",
        ),
        (
            {"privacy": {"epsilons": [2.0], "trust": "centrall"}},
            r"privacy.trust = 'centrall': unknown.*'central'",
        ),
    ],
    ids=str,
)
def test_combinations_without_sense_are_one_line(changes, reason):
    changes = {"training": ONE_STEP, "privacy": {"epsilons": [2.0], "trust": "central"}, **changes}
    with pytest.raises(ScenarioError, match=reason) as caught:
        scenario(FEDAVG, **changes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("sex.toml: ")


def test_as_many_colluders_as_clients_are_refused():
    with pytest.raises(ScenarioError, match=r"privacy.colluding = 3: must be less than the 3 clients"):
        one(privacy={"colluding": 3})
    run = one(privacy={"colluding": 2})
    assert [c.noise_share for c in run.clients] == pytest.approx([c.noise_multiplier for c in run.clients])


def test_a_run_whose_shares_are_too_small_is_not_valid():
    run = one({"name": "fedminmax"})
    text = run.to_json()
    assert Run.from_json(text) == run
    smaller = [c.model_copy(update={"noise_share": c.added_noise / 2}) for c in run.clients]
    for change in (
        {"clients": tuple(smaller)},
        {"clients": tuple(c.model_copy(update={"weight": 0.5}) for c in run.clients)},
        {"clients": tuple(c.model_copy(update={"steps": 2}) for c in run.clients)},
        {"statistics": tuple(s.model_copy(update={"noise_share": 0.0}) for s in run.statistics)},
        {"colluding": 1},
        {"trust": "local"},
        {"trust": "central"},
    ):
        with pytest.raises(ValueError, match=r"noise_share|weight|colluding|step"):
            Run.from_json(run.model_copy(update=change).to_json())


def test_local_trust_leaves_no_trace_in_runs_and_scenarios():
    run = one(by="local")
    for text in (run.to_json(), scenario(FEDAVG, privacy={"trust": "local"}).model_dump_json()):
        assert not any(word in text for word in ("trust", "colluding", "noise_share", '"weight":'))


def test_a_supernode_with_records_of_its_own_answers_no_such_run():
    for decided in (Decided(1, "mine.csv"), Decided(0, limit=8.0), Decided(0, secret=1)):
        with pytest.raises(RejectedError, match=r"privacy\.trust"):
            Node(decided).read(one().to_json())
    assert Node(Decided()).read(one().to_json()) == one()
    local = scenario(FEDAVG, training=ONE_STEP)
    declared = SimpleNamespace(
        privacy=local.privacy.changed(trust="central"),
        training=local.training,
        partition=SimpleNamespace(kind="declared", copies=1),
        participation=local.participation,
        statistics=local.statistics,
        tune=None,
    )
    with pytest.raises(ValueError, match=r"partition.kind = 'declared': not with privacy.trust = 'central'"):
        trust.check(declared)


def test_an_audit_refuses_sums():
    with pytest.raises(ScenarioError, match=r"privacy.trust = 'central': an audit attacks messages"):
        prepare("adult-race", ["privacy.trust='central'", "training.local_steps=1"], "0:4")


@pytest.mark.parametrize("by", ["local", *SUMS])
def test_the_scenario_of_trust_can_be_planned_under_each(by):
    """Its statistics must leave enough of the smallest ε for training."""
    name = "adult-race-trust"
    stated = read(name, [f'privacy.trust="{by}"', "seeds=[0]"])
    runs = plan(stated, name).runs
    assert {run.epsilon for run in runs} == {math.inf, 0.5, 0.2}
    assert {run.trust for run in runs} == {by}
