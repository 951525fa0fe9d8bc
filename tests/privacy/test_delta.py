"""δ is compared with the number of records: what n·δ warns of, and what it rejects."""

from __future__ import annotations

import math

import pytest

import fedtoll
from fedtoll.privacy.delta import delta_of, delta_warning, largest_delta
from fedtoll.scenarios.data import source_of
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import library, read
from fedtoll.server.plan import check, plan
from tests.server import own
from tests.server.federation import FEDAVG, planned

ACS_AT_MOST = 1_000_000
"""More records than six US states have in ``acs``, which are counted when they are fetched."""


@pytest.mark.parametrize("records", [1, 9, 10, 999, 1_000, 1_001, 48_842, 10_000, 299_285, 10**7])
def test_the_advised_delta_is_the_largest_power_of_ten_without_a_warning(records):
    advised = largest_delta(records)
    assert delta_warning(advised, records) == ""
    power = round(math.log10(advised))
    assert advised == float(f"1e{power}")
    assert float(f"1e{power + 1}") * records >= 0.1


@pytest.mark.parametrize(
    ("delta", "records", "product"),
    [(1e-5, 9_999, None), (1e-5, 10_000, "0.1"), (1e-5, 99_999, "1"), (9e-6, 100_000, "0.9")],
)
def test_the_warning_starts_at_a_tenth(delta, records, product):
    warning = delta_warning(delta, records)
    assert bool(warning) == (product is not None)
    if product:
        assert f"that is {product}, and it should be below 0.1" in warning


@pytest.mark.parametrize(("delta", "records"), [(1e-5, 100_001), (0.9, 2), (0.5, 2)])
def test_from_one_on_it_is_rejected(delta, records):
    with pytest.raises(ScenarioError, match=r"^privacy.delta = .*, and it must be below 1; give .* or less$"):
        delta_warning(delta, records)


@pytest.mark.parametrize("name", sorted(library()))
def test_no_library_scenario_warns(name):
    scenario = read(name)
    records = source_of(scenario.data).rows or ACS_AT_MOST
    assert delta_of(scenario, records) == ""


@pytest.mark.parametrize("epsilons", [["inf"], ["inf", "clip-only"]])
def test_without_a_finite_epsilon_delta_says_nothing(epsilons):
    assert planned(FEDAVG, privacy={"epsilons": epsilons, "delta": 0.9}).warning == ""


def test_all_records_count_not_those_of_one_client_or_one_fold():
    found = planned(FEDAVG, privacy={"epsilons": [2.0], "delta": 1e-5}, split={"folds": 2, "validation": 0.4})
    assert "times 48,842 records" in found.warning
    assert sum(client.size for client in found.runs[0].clients) < 48_842 / 2


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "run", "budget"])
def test_every_command_warns_once_and_refuses_in_one_line(here, command):
    more = {"run": ["--dry-run"], "budget": ["--epsilon", "2"], "check": []}[command]
    narrow = ["--set", 'privacy.epsilons=["inf", 2]', "--set", 'strategies=[{name="fedavg"}]']
    arguments = [command, "adult-race", *more, *narrow, *(["--seeds", "0:1"] if command != "budget" else [])]
    code, out, err = here(*arguments)
    assert (code, err) == (0, "")
    code, again, err = here(*arguments, "--set", "privacy.delta=1e-5")
    assert code == 0
    assert err == (
        "fedtoll: warning: adult-race.toml: privacy.delta = 1e-05: times 48,842 records that is 0.49, and it "
        "should be below 0.1; give 1e-06 or less\n"
    )
    assert bool(out) == bool(again)
    code, out, err = here(*arguments, "--set", "privacy.delta=0.9")
    assert (code, out) == (2, "")
    assert err.startswith("fedtoll: adult-race.toml: privacy.delta = 0.9: times 48,842 records")
    assert err.count("\n") == 1


def test_your_own_records_are_counted_when_they_are_read(tmp_path):
    scenario = own.write(tmp_path, own.patients())
    large = read(scenario, ["privacy.delta=1e-3"])
    check(large, "patients.toml")  # reads no records
    assert f"times {own.RECORDS} records that is 0.4" in plan(large, "patients.toml").warning
    with pytest.raises(ScenarioError, match=r"^patients.toml: privacy.delta = 0.1: times 400 records"):
        plan(read(scenario, ["privacy.delta=0.1"]), "patients.toml")
    few = ["privacy.delta=1e-3", 'strategies=[{name="fedavg"}]']
    with pytest.warns(UserWarning, match="privacy.delta = 0.001: times 400 records"):
        fedtoll.run(scenario, out=tmp_path / "out", overrides=few, seeds="0:1", executor="serial")
