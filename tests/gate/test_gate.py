"""fedtoll passes the gate: every check, for every engine, model and number of classes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.gate import noise, table
from tests.gate.replay import SENSITIVITY
from tests.gate.system import CHECKS, System

CORE = [System("cohort", "mlp", 3), System("opacus", "mlp", 2)]
REST = [
    System(engine, model, classes)
    for engine in ("cohort", "opacus")
    for model in ("logistic", "mlp", "plug-in")
    for classes in (2, 3)
]
REST = [s for s in [*REST, System("opacus", "gated")] if s not in CORE]
SEEDS = range(0, 40, 2)


@pytest.mark.parametrize("system", CORE, ids=str)
@pytest.mark.parametrize("check", CHECKS)
def test_the_core_of_the_gate(check, system):
    CHECKS[check](system)


@pytest.mark.slow
@pytest.mark.parametrize("system", REST, ids=str)
def test_the_whole_gate(system):
    assert {c: words for c in CHECKS if (words := table.alarm(c, system))} == {}


@pytest.mark.slow
@pytest.mark.parametrize("system", CORE, ids=str)
def test_more_records_models_and_draws(system):
    full = replace(system, full=True)
    assert {c: words for c in CHECKS if (words := table.alarm(c, full))} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SENSITIVITY)
def test_a_hundred_thousand_draws_of_every_statistic(name):
    noise.in_full(System("cohort"), name)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "seeds"), [("cohort", SEEDS[::2]), ("opacus", SEEDS[1::2])], ids=str)
def test_no_false_alarm_over_twenty_seeds(engine, seeds):
    """Seeds that the other tests have not: the draws of every check are others. The engines take turns."""
    alarms = [
        f"seed {seed}: {check}: {words}"
        for seed in seeds
        for check in CHECKS
        if (words := table.alarm(check, System(engine, seed=seed)))
    ]
    assert alarms == []
