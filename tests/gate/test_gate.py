"""fedtoll passes every check of the gate, for every engine, model and number of classes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.gate import noise, table
from tests.gate.parts import FIRST, MANY, part_of, runs_on
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


def _is_slow(check, system):
    """Quick are the first system's checks on the default engine."""
    return system.engine != "cohort" or not FIRST.owns(check)


@pytest.mark.parametrize(
    ("check", "system"),
    [
        pytest.param(check, system, marks=pytest.mark.slow if _is_slow(check, system) else ())
        for check in CHECKS
        for system in CORE
        if runs_on(check, system.engine)
    ],
    ids=str,
)
def test_the_core_of_the_gate(check, system):
    CHECKS[check](system)


@pytest.mark.thorough
@pytest.mark.parametrize("system", REST, ids=str)
def test_the_whole_gate(system):
    """Later systems have one model, so their checks are not repeated here."""
    assert {c: message for c in FIRST.names() if (message := table.alarm(c, system))} == {}


@pytest.mark.thorough
@pytest.mark.parametrize("system", CORE, ids=str)
def test_more_records_models_and_draws(system):
    full = replace(system, full=True)
    checks = [c for c in CHECKS if FIRST.owns(c) or (system.engine == part_of(c).engines[0])]
    assert {c: message for c in checks if (message := table.alarm(c, full))} == {}


@pytest.mark.thorough
@pytest.mark.parametrize("name", SENSITIVITY)
def test_a_hundred_thousand_draws_of_every_statistic(name):
    noise.in_full(System("cohort"), name)


STATISTICAL_OF_MANY = ("noise of training", "freshness", "noise of statistics", "sampler")


@pytest.mark.thorough
@pytest.mark.parametrize(("engine", "seeds"), [("cohort", (1, 2, 3)), ("opacus", (4,))], ids=str)
def test_no_false_alarm_of_the_second_system(engine, seeds):
    """Twenty seeds on either engine passed when this was written: python -m tests.gate.alarms."""
    alarms = [
        f"seed {seed}: {check}: {message}"
        for seed in seeds
        for check in STATISTICAL_OF_MANY
        if (message := table.alarm(MANY.prefix + check, System(engine, seed=seed)))
    ]
    assert alarms == []


@pytest.mark.thorough
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
