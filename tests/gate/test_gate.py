"""fedtoll passes every check of the gate, for every engine, model and number of classes."""

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
REST = [replace(s, seed=2 * i) for i, s in enumerate(REST, 1)]
"""The other systems, each with a seed of its own, so that the draws of every check differ."""

SEEDS = range(2 * len(REST) + 2, 2 * len(REST) + 20, 2)
STATISTICAL = (
    *("noise of training", "freshness of training's noise", "noise of statistics", "sampler", "no records"),
)
"""The checks whose outcome depends on draws and could be a false alarm."""


@pytest.mark.parametrize("system", CORE, ids=str)
@pytest.mark.parametrize("check", CHECKS)
def test_the_core_of_the_gate(check, system):
    CHECKS[check](system)


@pytest.mark.slow
@pytest.mark.parametrize("system", REST, ids=str)
def test_the_whole_gate(system):
    assert {c: message for c in CHECKS if (message := table.alarm(c, system))} == {}


@pytest.mark.slow
@pytest.mark.parametrize("system", CORE, ids=str)
def test_more_records_models_and_draws(system):
    full = replace(system, full=True)
    assert {c: message for c in CHECKS if (message := table.alarm(c, full))} == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SENSITIVITY)
def test_a_hundred_thousand_draws_of_every_statistic(name):
    noise.in_full(System("cohort"), name)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "seeds"), [("cohort", SEEDS[::2]), ("opacus", SEEDS[1::2])], ids=str)
def test_no_false_alarm_over_more_seeds(engine, seeds):
    """With the seeds of the whole gate, every statistical check passes for more than twenty seeds."""
    assert len(REST) + len(SEEDS) >= 20
    alarms = [
        f"seed {seed}: {check}: {message}"
        for seed in seeds
        for check in STATISTICAL
        if (message := table.alarm(check, System(engine, seed=seed)))
    ]
    assert alarms == []
