"""The section [client]: what it states, what a run records of it, and what it does not go with."""

from __future__ import annotations

import math

import pytest

from fedtoll.privacy.update_noise import noise_variance
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import plan
from tests.server.federation import FEDAVG, scenario


def planned(**sections):
    private = {"epsilons": ["inf", "clip-only", 2.0]}
    return plan(scenario(FEDAVG, **{"privacy": private, **sections}), "x.toml").runs


def test_without_the_section_nothing_is_written_or_hashed():
    runs = planned()
    for stated in ({}, {"mechanism": "dp-sgd"}, {"momentum": 0.0}):
        assert planned(client=stated) == runs
        assert "client" not in scenario(FEDAVG, client=stated).model_dump(mode="json")
    assert all("client_mechanism" not in run.to_json() for run in runs)


def test_a_mechanism_divides_the_noise_that_is_charged():
    plain, runs = planned(), planned(client={"mechanism": "dpsgd-f", "statistic_share": 0.19})
    assert runs[0] == plain[0]  # nothing is clipped at ε = ∞
    for run, other in zip(runs[1:], plain[1:], strict=True):
        assert run.hash != other.hash
        assert Run.from_json(run.to_json()) == run
        for a, b in zip(run.clients, other.clients, strict=True):
            assert a.noise_multiplier == b.noise_multiplier  # both releases of a step together
            assert a.added_noise == pytest.approx(a.noise_multiplier / 0.9)
    forged = runs[2].clients[0].model_copy(update={"noise_share": runs[2].clients[0].noise_multiplier})
    with pytest.raises(ValueError, match="noise_share"):
        runs[2].changed(clients=(forged, *runs[2].clients[1:]))


def test_a_mechanism_without_a_statistic_has_all_the_noise():
    run = planned(client={"mechanism": "dp-sgd-global", "z": 3.0})[2]
    assert [c.noise_share for c in run.clients] == [None] * len(run.clients)
    assert run.client_mechanism.parameters == {"z": 3.0}
    assert run.hash != planned(client={"mechanism": "dp-sgd-global", "z": 4.0})[2].hash


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"client": {"mechanism": "dpsgdf"}},
            "client.mechanism: 'dpsgdf' is unknown; did you mean 'dpsgd-f'?",
        ),
        ({"client": {"momentun": 0.5}}, "client: momentun: unknown key; did you mean 'momentum'?"),
        ({"client": {"mechanism": "dpsgd-f", "momentun": 0.5}}, "unknown parameter 'momentun'; did you mean"),
        (
            {"client": {"mechanism": "global-adapt", "z": -1.0}},
            "client: GlobalAdapt: z = -1.0: must be greater",
        ),
        ({"client": {"mechanism": "global-adapt", "z": "a"}}, "client: GlobalAdapt: z = 'a': "),
        ({"client": {"mechanism": "adaptive-clip", "rate": math.inf}}, "rate = inf: must be finite"),
        ({"client": {"mechanism": "gone.py:A"}}, "gone.py: no such file"),
        ({"client": {"mechanism": "mine.py"}}, "write mine.py:Class, with the name of its class"),
        ({"client": {"mechanism": "fedtoll.clients.clipping.base:Nothing"}}, "no ClientMechanism 'Nothing'"),
        ({"client": {"momentum": 0.5}, "training": {"local_steps": 1}}, "has no effect with one local step"),
        (
            {"client": {"mechanism": "dpsgd-f"}, "personal": {"kind": "ditto", "strength": 0.1}},
            "client: not with [personal]",
        ),
        (
            {
                "client": {"mechanism": "dpsgd-f"},
                "training": {"local_steps": 1},
                "privacy": {"epsilons": [1.0], "trust": "central"},
            },
            "client.mechanism = 'dpsgd-f': not with privacy.trust = 'central'",
        ),
    ],
)
def test_mistakes_are_one_line(sections, message):
    with pytest.raises(ScenarioError) as caught:
        planned(**sections)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mu", [0.0, 0.4])
def test_momentum_carries_noise_on(mu):
    """The variance is that of the sum of what is left of every step's noise."""
    run = planned(client={"momentum": 0.6}, training={"local_steps": 4})[2]
    client, pull = run.clients[0], run.learning_rate * mu
    total = 0.0
    for step in range(client.steps):
        place = velocity = 0.0
        for t in range(client.steps):
            velocity = 0.6 * velocity + (t == step) - pull * place
            place += velocity
        total += place**2
    unit = run.learning_rate * client.noise_multiplier * run.clip / client.batch_size
    assert noise_variance(run, client, mu) == pytest.approx(unit**2 * total)


def test_the_noise_of_an_unknown_bound_is_not_known():
    _, clipped, run = planned(client={"mechanism": "adaptive-clip"})
    assert math.isnan(noise_variance(run, run.clients[0]))
    assert noise_variance(clipped, clipped.clients[0]) == 0
    once, twice = (noise_variance(run, run.clients[0], bound=b) for b in (0.5, 1.0))
    assert twice == pytest.approx(4 * once)
