"""Schedules of the server's step, from the file to the model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import read
from fedtoll.scenarios.schedule import step
from fedtoll.server.plan import plan
from fedtoll.server.trainer import simulate


def runs(schedule: str, strategy: str = "fedavg", rounds: int = 2):
    overrides = [
        f"training.rounds={rounds}",
        f'training.server_schedule="{schedule}"',
        f'strategies=[{{name="{strategy}"}}]',
        'privacy.epsilons=["inf"]',
    ]
    return plan(read("compas-race", overrides, "0:1"), "x").runs


def models(run):
    found = []
    simulate(run, lambda round, parameters: found.append(parameters))
    return found


@pytest.mark.parametrize("strategy", ["fedavg", "flwr.serverapp.strategy:FedAvg"])
def test_the_server_takes_the_share_of_the_step_that_the_schedule_says(strategy):
    """Round 1 takes all of it. In round 2 the clients start from the same model, so the step is to scale."""
    (full,), (part,) = runs("constant", strategy), runs("inverse-time(1)", strategy)
    whole, scaled = models(full), models(part)
    for a, b in zip(whole[1], scaled[1], strict=True):
        np.testing.assert_array_equal(a, b)
    for start, a, b in zip(whole[1], whole[2], scaled[2], strict=True):
        np.testing.assert_allclose(b - start, (a - start) / 2, atol=1e-6)


def test_the_recorded_coefficients_are_those_of_the_step_taken():
    (run,) = runs("inverse-time(1)")
    clients = simulate(run)["clients"]
    sums = clients.groupby("round")["coefficient"].sum()
    assert sums.tolist() == pytest.approx([1.0, 0.5])
    assert clients.groupby("round")["weight"].sum().tolist() == pytest.approx([1.0, 1.0])


def test_the_default_is_left_out_of_the_run_and_another_schedule_changes_its_hash():
    (constant,), (cosine,) = runs("constant"), runs("cosine")
    assert "server_schedule" not in constant.to_json()
    assert constant.hash != cosine.hash
    assert cosine.from_json(cosine.to_json()) == cosine


def test_steps_fall_from_one_to_almost_nothing():
    for schedule in ("cosine", "inverse-time(2.5)"):
        steps = [step(schedule, t, 20) for t in range(1, 21)]
        assert steps[0] == 1
        assert all(a > b > 0 for a, b in itertools.pairwise(steps))


@pytest.mark.parametrize("schedule", ["linear", "inverse-time(0)", "inverse-time(-1)", "inverse-time", ""])
def test_an_unknown_schedule_is_one_line(schedule):
    with pytest.raises(ScenarioError, match=r"training.server_schedule = .*: must be 'constant'"):
        read("adult-race", [f'training.server_schedule="{schedule}"'])
