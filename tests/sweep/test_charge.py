"""A choice of constants that is charged: how many candidates, with which noise, and what the ledger says."""

from __future__ import annotations

import pytest

import fedtoll
from fedtoll.privacy.ledger import CHOICE
from fedtoll.report.constants import sentences
from fedtoll.report.digest import Digest
from fedtoll.report.page import render
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import read
from fedtoll.server.plan import plan
from fedtoll.sweep.candidates import candidates
from fedtoll.sweep.dry_run import scenario_spending

SMALL = [
    "training.rounds=2",
    "training.local_steps=4",
    'privacy.epsilons=["inf", 2]',
    'strategies=[{name="fedavg"}, {name="uniform"}]',
    'privacy.accountant="rdp"',
]
CHARGED = "tune={learning_rates=[0.03125, 0.125], seeds=[1000], charge='random-stopping'}"
NONE_DRAWN = CHARGED.replace("charge=", "stopping={kind='poisson', mean=1.0}, charge=").replace("1000", "903")


def planned(*overrides: str):
    return plan(read("compas-race", [*SMALL, *overrides], "0:2"), "x")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("charged")
    return fedtoll.run("compas-race", out=folder, overrides=[*SMALL, CHARGED], seeds="0:2", executor="serial")


@pytest.mark.slow
def test_the_ledger_has_the_choice_and_no_client_spends_more_than_epsilon(results):
    ledger = results.ledger
    rows = ledger[ledger["release"] == CHOICE]
    assert set(rows["mechanism"]) == {"dp-sgd"}
    assert len(rows) == 2 * 2 * ledger["client"].nunique()  # strategies, seeds, clients
    private = ledger[ledger["mechanism"] == "dp-sgd"]
    spent = private.groupby(["strategy", "seed", "client"])["epsilon_spent"].max()
    assert (spent <= 2).all()
    assert (spent > 1.99).all()
    assert (rows["epsilon_spent"] > 0.5).all()


@pytest.mark.slow
def test_the_recipe_is_not_charged_and_trains_with_less_noise(results):
    recipe = results.recipe
    assert recipe is not None
    assert not (recipe.ledger["release"] == CHOICE).any()
    noise = {
        name: part.ledger.query("mechanism == 'dp-sgd' and release == 'dp-sgd'")["noise_multiplier"].min()
        for name, part in (("tuned", results), ("recipe", recipe))
    }
    assert noise["tuned"] > 1.2 * noise["recipe"]


@pytest.mark.slow
def test_the_card_says_what_is_charged(results):
    page = render(results)
    assert "The choice is charged, and so is the final training" in page
    assert "Their number was drawn at random, and ε includes the choice" in page
    assert "is not counted in ε" not in page


@pytest.mark.slow
def test_every_strategy_draws_the_same_number_and_every_draw_has_seeds_of_its_own():
    found = planned(CHARGED)
    tune = found.scenario.tune
    assert tune is not None
    private = [c for c in candidates(found, tune) if c.epsilon == 2]
    counts = {name: sum(c.strategy == name for c in private) for name in ("fedavg", "uniform")}
    assert counts["fedavg"] == counts["uniform"] >= 1
    seeds = [run.seed for c in private if c.strategy == "fedavg" for run in c.runs]
    assert len({*seeds}) == len(seeds)
    assert not {*seeds} & {*found.scenario.seeds, 1000}
    assert all(run.choice is not None for c in private for run in c.runs)
    free = [c for c in candidates(found, tune) if c.epsilon != 2]
    assert {run.seed for c in free for run in c.runs} == {1000}
    assert len(free) == 2 * 2  # at ∞ the whole grid


@pytest.mark.slow
def test_at_infinity_all_strategies_try_the_same_number_although_one_has_more_combinations():
    found = planned(
        'strategies=[{name="fedavg"}, {name="fedprox"}]',
        CHARGED.replace("seeds", "strategies={fedprox={mu=[0.01, 0.1]}}, seeds"),
    )
    tune = found.scenario.tune
    assert tune is not None
    free = [c.strategy for c in candidates(found, tune) if c.epsilon != 2]
    assert free == ["fedavg"] * 2 + ["fedprox"] * 2


@pytest.mark.slow
def test_the_headline_says_that_the_noise_pays_for_the_choice(results):
    words = " ".join(sentences(Digest(results)))
    assert "They differ because the noise of the tuned runs also pays for the choice of constants" in words


@pytest.mark.slow
def test_without_a_candidate_the_constants_are_the_first_of_the_grid(tmp_path):
    found = planned(NONE_DRAWN)
    assert found.scenario.tune is not None
    (drawn,) = (c for c in candidates(found, found.scenario.tune) if (c.strategy, c.epsilon) == ("fedavg", 2))
    assert drawn.runs == ()
    results = fedtoll.run(
        "compas-race", out=tmp_path, overrides=[*SMALL, NONE_DRAWN], seeds="0:1", executor="serial"
    )
    (row,) = (
        r for r in results.resolved["tuning"] if (r["strategy"], r["mechanism"]) == ("fedavg", "dp-sgd")
    )
    assert row["constants"] == {"learning_rate": 0.03125}
    assert (row["seeds"], row["loss"], row["chosen"]) == (0, {"(all)": None}, True)
    assert "Every strategy chose among" in render(results)


def test_the_budget_of_a_scenario_includes_the_choice():
    charged, free = (
        scenario_spending(read("compas-race", [*SMALL, *more], "0:2"), "x") for more in ((CHARGED,), ())
    )
    assert all(entry["epsilon"] == pytest.approx(2, abs=0.01) for entry in charged)
    assert CHOICE in str(charged)
    assert CHOICE not in str(free)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (CHARGED.replace("seeds", "method='halving', seeds"), "method: not with charge"),
        (CHARGED.replace("seeds", "candidates=2, seeds"), "candidates: not with charge"),
        (
            "tune={learning_rates=[0.1, 0.2], stopping={kind='poisson', mean=8.0}}",
            "stopping: needs charge = 'random-stopping'",
        ),
        (CHARGED.replace("random-stopping", "random-stoping"), "did you mean 'random-stopping'"),
        (
            NONE_DRAWN.replace("poisson", "poison"),
            "tune.stopping.kind = 'poison': unknown; did you mean 'poisson'?",
        ),
        (NONE_DRAWN.replace("kind='poisson', ", ""), "tune.stopping.kind: missing"),
        (NONE_DRAWN.replace(", mean=1.0", ""), "tune.stopping.mean: missing"),
        (NONE_DRAWN.replace("mean=", "meen="), "tune.stopping.meen: unknown key; did you mean 'mean'?"),
        ("partition.copies=2", "tune.charge: 'random-stopping' needs partition.copies = 1"),
    ],
)
def test_nonsense_is_refused(change, line):
    with pytest.raises(ScenarioError) as error:
        read("compas-race", [*SMALL, CHARGED, change], "0:2")
    assert line in str(error.value)


@pytest.mark.parametrize("accountant", ["prv", "pld"])
def test_the_charge_needs_the_rdp_accountant(accountant):
    with pytest.raises(ScenarioError, match=r"'random-stopping' needs privacy\.accountant = 'rdp'"):
        read("compas-race", [*SMALL, CHARGED, f'privacy.accountant="{accountant}"'], "0:2")
