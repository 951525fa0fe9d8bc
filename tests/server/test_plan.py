"""The plan: public constants and calibrated noise, independent of the records and of the seed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from fedtoll.privacy.accounting import epsilon
from fedtoll.privacy.breakdown import events_of
from fedtoll.privacy.ledger import DP_SGD, Ledger, owed
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import ClientPlan, Run
from fedtoll.server.plan import check, from_config, plan
from fedtoll.server.trainer import simulate
from tests.server.federation import FEDAVG, TERM, TOML, planned, scenario
from tests.server.federation import single_run as run_of

EVERYTHING: dict[str, Any] = {"name": "tests.server.asks:Everything"}
RULES: dict[str, dict[str, Any]] = {
    "rate": {"sampling_rate": 0.01, "local_steps": 3},
    "batch": {"sampling_rate": None, "batch_size": 64, "local_steps": 3},
    "batch and epochs": {"sampling_rate": None, "batch_size": 64, "local_steps": None, "local_epochs": 1.5},
    "rate and epochs": {"sampling_rate": 0.4, "local_steps": None, "local_epochs": 0.9},
    "less than a step": {"sampling_rate": 0.9, "local_steps": None, "local_epochs": 0.1},
    "larger batch than client": {"sampling_rate": None, "batch_size": 10**6, "local_steps": 2},
}


def spent(run: Run, client: ClientPlan) -> float:
    """Return the ε of all that the server will charge a client for."""
    ledger = Ledger(run.delta, run.accountant)
    for round in range(1, run.rounds + 1):
        ledger.charge(owed(run, client, round))
    return ledger.epsilon(client.id)


def assert_calibrated(run: Run) -> None:
    """Assert that every client spends the target, and would exceed it with slightly less noise."""
    assert run.epsilon < math.inf
    for client in run.clients:
        assert 0.999 * run.epsilon < spent(run, client) <= run.epsilon
        less = client.model_copy(update={"noise_multiplier": client.noise_multiplier * (1 - 5e-4)})
        assert spent(run, less) > run.epsilon


# Sampling rate, batch size and steps.


@pytest.mark.parametrize("rule", RULES)
def test_rate_batch_and_steps_follow_from_the_public_size(rule):
    training = RULES[rule]
    scenario_plan = planned(FEDAVG, training=training)
    (run,) = scenario_plan.runs
    assert [(c.id, c.group, c.size) for c in run.clients] == [
        (c.id, c.group, c.size) for c in scenario_plan.federation.layout.clients
    ]
    assert len({c.size for c in run.clients}) == 2  # women and men
    for c in run.clients:
        q = training["sampling_rate"] or min(1.0, training["batch_size"] / c.size)
        assert c.sampling_rate == q
        assert c.batch_size == q * c.size
        assert c.steps == training["local_steps"] or max(1, round(training["local_epochs"] / q))


@pytest.mark.parametrize("rule", RULES)
def test_every_client_is_calibrated_at_its_own_rate_and_steps(rule):
    assert_calibrated(run_of(FEDAVG, 2.0, training=RULES[rule]))


def test_the_plan_reads_no_record_and_deals_no_seed(monkeypatch):
    """Other features and labels, with the same public sizes, give the same runs."""
    sections = scenario(TERM, privacy={"epsilons": ["inf", 2.0]})
    federation = Federation.resolve(sections.data, sections.split, sections.partition)
    before = plan(sections, "sex.toml").runs
    table = federation.table
    other = dataclasses.replace(
        table, features=np.full_like(table.features, np.nan), label=np.zeros_like(table.label)
    )
    monkeypatch.setattr(Federation, "resolve", lambda *_, **__: dataclasses.replace(federation, table=other))
    monkeypatch.setattr(Federation, "records", lambda self, seed: pytest.fail("a seed's records were dealt"))
    assert plan(sections, "sex.toml").runs == before


def test_runs_differ_by_seed_in_the_seed_alone():
    first, *others = planned(TERM, privacy={"epsilons": [2.0]}, seeds=[0, 7, 3]).runs
    assert [(r.seed, r.noise_seed) for r in (first, *others)] == [(0, 0), (7, 7), (3, 3)]
    for run in others:
        assert run.hash != first.hash
        assert run.model_copy(update={"seed": 0, "noise_seed": 0}) == first


def test_a_stated_noise_seed_gives_every_seed_noise_of_its_own():
    def noise(k: int) -> list[tuple[str, float, int, int]]:
        runs = planned(TERM, FEDAVG, privacy={"epsilons": ["inf", 4.0, 2.0], "noise_seed": k}, seeds=[0, 1])
        return [(r.strategy.name, r.epsilon, r.seed, r.noise_seed) for r in runs.runs]

    five, six = noise(5), noise(6)
    assert {n for *_, epsilon, _, n in five if epsilon == math.inf} == {0}
    private = {(k, seed, n) for k in (5, 6) for *_, e, seed, n in noise(k) if e < math.inf}
    assert len(private) == len({n for *_, n in private}) == 4  # one per noise seed and seed, whatever else
    assert five == noise(5) != six
    # Pinned: stored runs are found by it on every platform.
    assert next(n for *_, e, seed, n in five if e == 2.0 and seed == 1) == 5015590479820867665


@pytest.mark.slow
def test_seeds_with_one_noise_seed_draw_different_noise():
    """With a record per batch the model is little but noise: runs with the same noise have the same model."""
    changes: dict[str, Any] = {
        "privacy": {"epsilons": [0.02], "noise_seed": 5},
        "training": {"sampling_rate": 1e-4},
    }
    runs = planned(FEDAVG, {"name": "uniform"}, seeds=[0, 1], **changes).runs
    models: list[np.ndarray] = []
    for run in runs:
        last: dict[int, tuple[np.ndarray, ...]] = {}
        simulate(run, last.__setitem__)
        models.append(np.concatenate([np.ravel(p) for p in last[run.rounds]]))
    correlation = np.corrcoef(models)
    assert correlation[0, 2] > 0.8  # another strategy, the same seed: paired
    assert abs(correlation[0, 1]) < 0.4
    assert abs(correlation[2, 3]) < 0.4


def test_runs_come_by_strategy_epsilon_and_seed():
    runs = planned(TERM, FEDAVG, privacy={"epsilons": [2.0, "inf"]}, seeds=[1, 0]).runs
    order = [(r.strategy.name, r.epsilon, r.seed) for r in runs]
    names = ("term(t=5)", "fedavg")
    assert order == [(name, e, seed) for name in names for e in (2.0, math.inf) for seed in (1, 0)]


# Noise: the total is the target.


@pytest.mark.parametrize("strategy", [FEDAVG, TERM, EVERYTHING], ids=lambda s: s["name"])
@pytest.mark.parametrize("target", [0.5, 8.0])
def test_training_and_statistics_together_spend_the_target(strategy, target):
    run = run_of(strategy, target, statistics={"noise_multiplier": 60.0}, training={"rounds": 5})
    assert {s.noise_multiplier for s in run.statistics} <= {60.0}
    assert len(run.statistics) == {"fedavg": 0, "term": 1}.get(strategy["name"], 6)
    assert_calibrated(run)


def test_the_tight_accountant_is_calibrated_too_and_needs_less_noise():
    privacy = {"epsilons": [2.0], "accountant": "prv", "delta": 1e-6}
    one_step = {"rounds": 1, "local_steps": 1, "sampling_rate": 1.0}  # PRV is quick there
    (tight,) = planned(FEDAVG, privacy=privacy, training=one_step).runs
    (loose,) = planned(FEDAVG, privacy={**privacy, "accountant": "rdp"}, training=one_step).runs
    assert (tight.accountant, tight.delta) == ("prv", 1e-6)
    for a, b in zip(tight.clients, loose.clients, strict=True):
        assert 0.99 * 2.0 < spent(tight, a) <= 2.0
        assert a.noise_multiplier < b.noise_multiplier


def test_more_statistics_leave_less_for_training():
    noise = [run_of(s, 1.0).clients[0].noise_multiplier for s in (FEDAVG, TERM, EVERYTHING)]
    assert noise == sorted(set(noise))


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("strategy", [TERM, EVERYTHING], ids=lambda s: s["name"])
def test_the_statistics_spend_their_share_alone(strategy, every):
    statistics = {"budget_share": 0.3, "every": every}
    run = run_of(strategy, 2.0, statistics=statistics, training={"rounds": 5})
    assert len({s.noise_multiplier for s in run.statistics}) == 1
    for client in run.clients:
        events = events_of(run, client)
        del events[DP_SGD]
        assert 0.999 * 0.6 < epsilon(tuple(events.values()), 1e-5) <= 0.6
    assert_calibrated(run)


@pytest.mark.parametrize(("every", "releases"), [(1, 5), (2, 3), (4, 2), (9, 1)])
def test_a_statistic_is_charged_as_often_as_it_is_released(every, releases):
    run = run_of(TERM, 1.0, statistics={"every": every, "noise_multiplier": 20.0}, training={"rounds": 5})
    (statistic,) = run.statistics
    assert (statistic.every, statistic.noise_multiplier) == (every, 20.0)
    charged = [r for t in range(1, 6) for r in owed(run, run.clients[0], t) if r.what != DP_SGD]
    assert len(charged) == releases
    assert_calibrated(run)


def test_statistics_that_spend_more_than_the_target_are_one_line():
    with pytest.raises(
        ScenarioError, match=r"^sex\.toml: privacy\.epsilons: ε = 0\.1 cannot be reached"
    ) as e:
        run_of(TERM, 0.1, statistics={"noise_multiplier": 5.0})
    assert "\n" not in str(e.value)


# The references.


@pytest.mark.parametrize(("word", "clip"), [("inf", None), ("clip-only", 1.0)])
def test_the_references_have_no_noise_and_no_budget(word, clip):
    statistics = {"noise_multiplier": 20.0, "shrinkage": True, "smoothing": 0.5}
    run = run_of(TERM, word, statistics=statistics, seeds=[4])
    assert (run.clip, run.delta, run.accountant, run.noise_seed) == (clip, None, None, 0)
    assert {c.noise_multiplier for c in run.clients} == {0.0}
    assert {s.noise_multiplier for s in run.statistics} == {0.0}
    assert not run.shrinkage  # exact numbers are not shrunk
    assert all(spent(run, c) == run.epsilon == math.inf for c in run.clients)
    private = run_of(TERM, 2.0, statistics=statistics, seeds=[4])
    assert (private.shrinkage, private.smoothing) == (True, 0.5)
    for a, b in zip(run.clients, private.clients, strict=True):  # so that runs are paired
        assert a == b.model_copy(update={"noise_multiplier": 0.0})


# Separate clients, and the configuration of a Flower run.


def test_clients_that_train_separately_use_opacus():
    sections = scenario(FEDAVG)
    assert plan(sections, "x").runs[0].engine == "cohort"
    assert plan(sections, "x", separate=True).runs[0].engine == "opacus"
    cohort = scenario(FEDAVG, training={"engine": "cohort"})
    with pytest.raises(ScenarioError, match=r"^x: training\.engine = 'cohort': cannot train here"):
        plan(cohort, "x", separate=True)


@pytest.fixture
def config(tmp_path) -> dict[str, Any]:
    (tmp_path / "sex.toml").write_text(f'{TOML}\n[[strategies]]\nname = "term"\nt = 5.0\n')
    return {"scenario": str(tmp_path / "sex.toml"), "strategy": "fedavg", "epsilon": "inf", "seed": 0}


@pytest.mark.parametrize("word", ["inf", "clip-only", "2", "0.5"])
@pytest.mark.parametrize(("name", "strategy"), [("term(t=5)", TERM), ("term", TERM), ("fedavg", FEDAVG)])
def test_a_configuration_names_one_run(config, name, strategy, word):
    (run,) = from_config({**config, "strategy": name, "epsilon": word, "seed": 9}).runs
    target = float(word) if word != "clip-only" else word
    expected = run_of(strategy, target, seeds=[9], training={"engine": "opacus"})
    assert run == expected


def test_a_configuration_may_name_a_strategy_that_the_scenario_has_not(config):
    (run,) = from_config({**config, "strategy": "uniform"}).runs
    assert run.strategy.name == "uniform"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"seed": "x"}, "^run configuration: seed = 'x': must be from 0 to"),
        ({"seed": -1}, "^run configuration: seed = -1: must be from 0 to"),
        ({"epsilon": "many"}, "^run configuration: epsilon = 'many': must be a number above 0"),
        ({"epsilon": "-1"}, "^run configuration: epsilon = '-1': must be a number above 0"),
        ({"epsilon": "nan"}, "^run configuration: epsilon = 'nan': must be a number above 0"),
        ({"strategy": "fedavgg"}, r"fedavgg.*did you mean 'fedavg'"),
        ({"scenario": "adult-rase"}, r"adult-rase.*did you mean 'adult-race'"),
    ],
    ids=str,
)
def test_a_mistake_in_a_configuration_is_one_line(config, change, line):
    with pytest.raises(ScenarioError, match=line) as caught:
        from_config({**config, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data": {"groups": ["sexx"]}}, "data.groups = 'sexx': .*did you mean 'sex'"),
        ({"data": {"exclude": ["agee"]}}, "data.exclude = 'agee': .*did you mean 'age'"),
        ({"partition": {"clients": {"Mal": 1}}}, "partition.clients: group 'Mal' .*did you mean 'Male'"),
        (
            {"partition": {"kind": "column", "column": "sxe", "clients": {"*": 1}}},
            "partition.column = 'sxe': .*did you mean 'sex'",
        ),
        ({"strategies": [{"name": "term", "tt": 1.0}]}, "unknown parameter 'tt'.*did you mean 't'"),
        ({"model": {"kind": "nowhere_x:make"}}, "model.kind = 'nowhere_x:make': cannot be imported"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_unknown_name_is_one_line_that_begins_with_the_file(changes, line):
    with pytest.raises(ScenarioError, match=f"^sex.toml: .*{line}") as caught:
        check(scenario(**changes), "sex.toml")
    assert "\n" not in str(caught.value)
