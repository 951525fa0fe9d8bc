"""``fedtoll budget``: both directions, the parts, and one-line errors."""

from __future__ import annotations

import json
import math

import pytest

from fedtoll.privacy.accounting import Event, epsilon
from fedtoll.privacy.gaussian import gaussian_epsilon
from fedtoll.scenarios.read import read
from fedtoll.server.plan import plan
from tests.server.federation import TOML


def test_from_epsilon_to_sigma_and_back(here):
    code, out, err = here("budget", "--epsilon", 2, "--rate", 0.02, "--steps", 300, "--json")
    assert (code, err) == (0, "")
    forward = json.loads(out)
    sigma = forward["parts"][0]["noise_multiplier"]
    assert forward["spent"] <= 2.0
    assert forward["left"] == pytest.approx(2.0 - forward["spent"])
    code, out, _ = here("budget", "--sigma", sigma, "--rate", 0.02, "--steps", 300, "--json")
    back = json.loads(out)
    assert (code, back["spent"]) == (0, forward["spent"])
    assert "left" not in back
    assert back["spent"] == epsilon([Event(sigma, 0.02, 300)], 1e-5)


def test_statistics_are_paid_from_the_same_epsilon(here):
    arguments = ("budget", "--epsilon", 2, "--rate", 0.02, "--steps", 300, "--statistic", "100:30", "--json")
    row = json.loads(here(*arguments)[1])
    training, statistic = row["parts"]
    assert row["spent"] <= 2.0
    assert row["spent"] == epsilon(
        [Event(training["noise_multiplier"], 0.02, 300), Event(100.0, 1.0, 30)], 1e-5
    )
    assert statistic["alone"] == epsilon([Event(100.0, 1.0, 30)], 1e-5)
    assert statistic["adds"] == pytest.approx(row["spent"] - training["alone"])
    text = here(*arguments[:-1])[1]
    assert "do not add up" in text
    assert f"total ε = {row['spent']:.4f} of 2, left" in text


@pytest.mark.slow
def test_a_scenario_by_client(here):
    code, out, err = here("budget", "adult-race", "--epsilon", 2, "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    run = plan(read("adult-race", ["privacy.epsilons=[2.0]"], seeds="0:1"), "adult-race.toml").runs[-1]
    last = rows[-1]
    assert last["strategy"] == run.strategy.name == "term(clip=1, t=5)"
    assert [c for row in rows if row["strategy"] == last["strategy"] for c in row["clients"]] == list(
        range(13)
    )
    assert [p["what"] for p in last["parts"]] == ["dp-sgd", "mean_loss"]
    assert last["parts"][0]["noise_multiplier"] == run.clients[0].noise_multiplier
    assert last["parts"][0]["releases"] == 300
    assert 1.99 < last["spent"] <= 2.0
    text = here("budget", "adult-race", "--epsilon", 2)[1]
    assert "term(clip=1, t=5), ε = 2: clients 0 to 12 (public size 292 to 3,758)" in text


def test_a_scenario_whose_clients_spend_differently(here, tmp_path):
    (tmp_path / "sex.toml").write_text(TOML.replace("sampling_rate = 0.01", "batch_size = 64"))
    code, out, _ = here("budget", "sex.toml", "--epsilon", 3, "--json")
    assert code == 0
    men, women = json.loads(out)
    assert (men["clients"], men["groups"], women["clients"]) == ([0, 1], ["Male"], [2])
    assert men["parts"][0]["sampling_rate"] == 64 / men["public_sizes"][0]
    assert men["parts"][0]["noise_multiplier"] != women["parts"][0]["noise_multiplier"]
    assert all(2.99 < row["spent"] <= 3.0 for row in (men, women))


def test_another_noise_than_the_calibrated(here):
    rows = json.loads(here("budget", "adult-race", "--epsilon", 2, "--sigma", 0.9, "--json")[1])
    assert all(row["parts"][0]["noise_multiplier"] == 0.9 for row in rows)
    assert all(row["spent"] > 2 and row["left"] < 0 for row in rows)


@pytest.mark.slow
def test_distributions_spend_less_than_rdp(here):
    both = ("budget", "--sigma", 1.0, "--rate", 0.02, "--steps", 1000, "--json", "--accountant")
    rdp, prv, pld = (json.loads(here(*both, a)[1])["spent"] for a in ("rdp", "prv", "pld"))
    assert rdp == pytest.approx(4.324, abs=1e-3)
    assert prv == pytest.approx(3.909, abs=2e-3)
    assert pld == pytest.approx(3.899, abs=1e-3)
    assert json.loads(here(*both[:-1])[1])["accountant"] == "pld"


def test_what_holds_at_every_delta(here):
    sampled = ("budget", "--sigma", 1.0, "--rate", 0.02, "--steps", 1000, "--statistic", "100:30")
    row = json.loads(here(*sampled, "--json")[1])
    assert row["gaussian_dp"]["least_delta"] == 1e-9
    assert row["spent"] < gaussian_epsilon(row["gaussian_dp"]["mu"], 1e-5)
    assert row["zero_concentrated_dp"] == {"rho": pytest.approx(1000 / 2 + 30 / 100**2 / 2)}
    text = here(*sampled)[1]
    regret = f"{row['gaussian_dp']['regret']:.2g}"
    assert f"(Gaussian DP, at every δ ≥ 1e-09, regret {regret})" in text
    assert "ρ = 500.1 (zero-concentrated DP, sampling does not lower it)" in text  # 500.0015, rounded up
    exact = ("budget", "--sigma", 3.0, "--rate", 1, "--steps", 4)
    row = json.loads(here(*exact, "--json")[1])
    assert row["gaussian_dp"] == {"mu": pytest.approx(2 / 3), "least_delta": 0.0, "regret": 0.0}
    assert row["spent"] == pytest.approx(gaussian_epsilon(2 / 3, 1e-5))
    assert (
        "μ = 0.6667 (Gaussian DP, exact, at every δ)\n  ρ = 0.2223 (zero-concentrated DP, exact)"
        in here(*exact)[1]
    )


@pytest.mark.slow
def test_of_a_charged_choice_only_epsilon_is_known(here):
    charged = "tune={learning_rates=[0.03125, 0.125], seeds=[1000], charge='random-stopping'}"
    choice = ("budget", "compas-race", "--epsilon", 1, "--accountant", "rdp", "--set", charged)
    rows = json.loads(here(*choice, "--json")[1])
    assert all(row["gaussian_dp"] is row["zero_concentrated_dp"] is None for row in rows)
    assert "μ" not in here(*choice)[1]


def test_what_is_not_finite_is_json_too(here):
    row = json.loads(here("budget", "--sigma", 1e-4, "--rate", 1, "--steps", 10**6, "--json")[1])
    assert row["spent"] == "inf" or float(row["spent"]) > 1e6
    assert math.isfinite(row["delta"])


BAD = {
    "nothing": ((), "name a scenario, or give --rate, --steps"),
    "no steps": (("--epsilon", 1, "--rate", 0.1), "--steps"),
    "both": (("--epsilon", 1, "--sigma", 1, "--rate", 0.1, "--steps", 1), "one of --epsilon and --sigma"),
    "rate of 0": (("--epsilon", 1, "--rate", 0, "--steps", 1), "--rate 0: must be greater than 0"),
    "rate above 1": (("--epsilon", 1, "--rate", 1.5, "--steps", 1), "--rate 1.5: must be"),
    "no number": (
        ("--epsilon", "nan", "--rate", 0.5, "--steps", 1),
        "--epsilon nan: must be a finite",
    ),
    "infinite": (("--epsilon", "inf", "--rate", 0.5, "--steps", 1), "--epsilon inf: must be a finite number"),
    "negative σ": (("--sigma", -1, "--rate", 0.5, "--steps", 1), "--sigma -1: must be"),
    "steps of 0": (("--sigma", 1, "--rate", 0.5, "--steps", 0), "--steps 0: must be 1 or more"),
    "δ of 1": (("--sigma", 1, "--rate", 0.5, "--steps", 1, "--delta", 1), "--delta 1: must lie between"),
    "δ of 0": (("--sigma", 1, "--rate", 0.5, "--steps", 1, "--delta", 0), "--delta 0: must lie between"),
    "gdp": (
        ("--sigma", 1, "--rate", 0.5, "--steps", 1, "--accountant", "gdp"),
        "is an approximation, not an upper bound",
    ),
    "plds": (
        ("--sigma", 1, "--rate", 0.5, "--steps", 1, "--accountant", "plds"),
        "must be 'pld', 'rdp' or 'prv'",
    ),
    "statistic": (("--sigma", 1, "--rate", 0.5, "--steps", 1, "--statistic", "20"), "e.g. 100:30"),
    "too little": (
        ("--epsilon", 0.1, "--rate", 0.02, "--steps", 300, "--statistic", "100:30"),
        "--epsilon: ε = 0.1 cannot be reached at δ = 1e-05: the statistics alone spend",
    ),
    "unknown scenario": (("adult-rase",), "did you mean 'adult-race'?"),
    "rate of a scenario": (("adult-race", "--rate", 0.1), "--set training.sampling_rate="),
    "rate of 0 of a scenario": (("adult-race", "--rate", 0, "--epsilon", 1), "--rate: the scenario sets it"),
    "steps of 0 of a scenario": (("adult-race", "--steps", 0, "--epsilon", 1), "--steps: the scenario sets"),
    "set without one": (("--set", "training.rounds=1"), "needs a scenario"),
    "no finite ε": (("adult-race", "--set", 'privacy.epsilons=["inf"]'), "no finite ε to account for"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_one_line(here, case):
    arguments, words = BAD[case]
    code, out, err = here("budget", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
