"""The preview of a sweep: its expected time."""

from __future__ import annotations

import json

import pytest

from fedtoll.server.trainer import Trainer
from fedtoll.sweep import dry_run
from tests.server.federation import FEDAVG, TERM, planned

SETUP = {"fedavg": 3.0, "term(t=5)": 7.0}
ROUND = {("fedavg", "none"): 1.0, ("fedavg", "clip-only"): 2.0, ("fedavg", "dp-sgd"): 4.0}
ROUND |= {("term(t=5)", mechanism): 10 * ROUND["fedavg", mechanism] for _, mechanism in tuple(ROUND)}


@pytest.fixture
def clock(monkeypatch):
    """Replace training by a clock that advances by ``SETUP`` and ``ROUND``; return the trained runs."""
    now, trained = [0.0], []

    def train(self, run):
        trained.append(run)
        name = run.strategy.name
        now[0] += SETUP[name] + ROUND[name, run.mechanism] * run.rounds

    monkeypatch.setattr(Trainer, "train", train)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return trained


@pytest.mark.parametrize("strategies", [(FEDAVG, TERM), (TERM, FEDAVG)], ids=["dear last", "dear first"])
def test_the_expected_time_counts_every_strategy_and_mechanism_at_its_own_cost(clock, strategies):
    epsilons = ["inf", "clip-only", 8, 2]
    plan = planned(*strategies, privacy={"epsilons": epsilons}, training={"rounds": 20}, seeds=[3, 4, 5])
    exact = sum(SETUP[r.strategy.name] + 20 * ROUND[r.strategy.name, r.mechanism] for r in plan.runs)
    content = json.loads(dry_run.preview(plan, 1, as_json=True))
    assert content["expected_seconds"] == round(exact)
    assert len(clock) == 1 + 2 * 6  # a warm-up, and two short runs of each strategy and mechanism
    assert {run.seed for run in clock} == {3}


def test_workers_share_the_time_and_take_time_to_start(clock):
    plan = planned(FEDAVG, privacy={"epsilons": ["inf"]}, training={"rounds": 100}, seeds=[0, 1, 2, 3])
    alone, four = (json.loads(dry_run.preview(plan, n, as_json=True))["expected_seconds"] for n in (1, 4))
    assert alone == 4 * (3 + 100)
    assert four == 3 + 100 + dry_run._STARTUP


def test_it_says_whose_noise_it_shows_if_candidates_have_another(clock):
    rates, rounds = {"learning_rates": [0.1, 0.5]}, {"rounds": [1, 2]}
    for lists, said in ((rates, False), (rounds, True)):
        plan = planned(FEDAVG, split={"validation": 0.1}, tune=lists, privacy={"epsilons": ["inf", 2]})
        assert ("σ, q and steps of the scenario's own constants" in dry_run.preview(plan, 1)) == said
    assert "on 1 process" in dry_run.preview(plan, 1)
    assert "1 processes" not in dry_run.preview(plan, 1)
