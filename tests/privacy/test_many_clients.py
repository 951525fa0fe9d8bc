"""Planning many clients costs little: those with the same constants are planned once."""

from __future__ import annotations

import pytest

from fedtoll.privacy import accounting
from fedtoll.privacy.constants import constants
from fedtoll.scenarios.partition import Client
from tests.server.federation import FEDAVG, scenario

MANY = [Client(k, "", 15 + k % 2) for k in range(20_000)]


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"sampling_rate": None, "batch_size": 5}},
        {
            "privacy": {"epsilons": [2.0], "unit": "client", "trust": "central"},
            "participation": {"kind": "poisson", "rate": 0.05},
        },
    ],
    ids=["records", "clients"],
)
def test_twenty_thousand_clients_of_two_sizes_are_calibrated_twice(changes, monkeypatch):
    asked = []
    original = accounting.calibrate

    def calibrate(target: float, **how: object) -> float:
        asked.append(how)
        return original(target, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(accounting, "calibrate", calibrate)
    _, planned = constants(scenario(FEDAVG, **changes), MANY, (), 2.0)
    assert len(asked) == 2
    assert [(c.id, c.size) for c in planned] == [(c.id, c.size) for c in MANY]
    small, large = planned[:2]
    assert small.batch_size <= large.batch_size
    if "participation" in changes:
        assert {c.noise_multiplier for c in planned} == {small.noise_multiplier}
    else:
        assert small.noise_multiplier > large.noise_multiplier
