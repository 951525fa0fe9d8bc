"""Personal budgets: each client's noise, ledger and tables are those of its own share of ε."""

from __future__ import annotations

import json

import pytest

from fedtoll.privacy.accounting import epsilon
from fedtoll.privacy.breakdown import events_of
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.run import Run
from fedtoll.server import results, store
from fedtoll.server.trainer import simulate
from fedtoll.sweep import export
from fedtoll.sweep.dry_run import scenario_spending
from tests.server.federation import FEDAVG, TERM, planned, scenario

HALF = {"Female": 0.5}
WEIGHTED = {"name": "epsilon-weighted"}


def private(*strategies, factor=HALF, epsilons=(2.0,), **changes):
    section = {"epsilons": list(epsilons), "epsilon_factor": factor, **changes.pop("privacy", {})}
    return planned(*strategies, privacy=section, **changes)


def test_every_client_spends_its_own_share():
    (run,) = private(TERM).runs
    assert [c.epsilon_factor for c in run.clients] == [1.0, 1.0, 0.5]
    for client in run.clients:
        spent = epsilon(list(events_of(run, client).values()), *run.guarantee)
        target = 1.0 if client.group == "Female" else 2.0
        assert 0.99 * target < spent <= target
    assert Run.from_json(run.to_json()) == run


def test_the_noise_of_a_share_is_that_of_a_smaller_budget():
    (run,) = private(FEDAVG).runs
    (plain,) = planned(FEDAVG, privacy={"epsilons": [1.0]}).runs
    assert run.clients[2].noise_multiplier == plain.clients[2].noise_multiplier
    assert run.clients[0].noise_multiplier < plain.clients[0].noise_multiplier


@pytest.mark.parametrize("factor", [{}, {"Female": 1.0}, {"*": 1.0}])
def test_a_share_of_all_is_the_same_run(factor):
    assert private(factor=factor).runs == planned(privacy={"epsilons": [2.0]}).runs


def test_references_do_not_depend_on_budgets():
    epsilons = ("inf", "clip-only")
    assert private(epsilons=epsilons).runs == planned(privacy={"epsilons": list(epsilons)}).runs


def test_scenarios_without_shares_are_written_as_before():
    assert "epsilon_factor" not in scenario().model_dump(mode="json")["privacy"]
    (run,) = planned(privacy={"epsilons": [2.0]}).runs
    assert "epsilon_factor" not in run.to_json()
    assert "epsilon_factor" in private().runs[0].to_json()


def test_the_most_specific_entry_applies():
    (run,) = private(factor={"*": 0.9, "Male": 0.8, "client 1": 0.3}).runs
    assert [c.epsilon_factor for c in run.clients] == [0.8, 0.3, 0.9]


@pytest.mark.parametrize(
    ("factor", "line"),
    [
        ({"Femal": 0.5}, "did you mean 'Female'?"),
        ({"client 01": 0.5}, "neither a group nor a client"),
        ({"client 3": 0.5}, "no client 3; there are clients 0 to 2"),
        ({"Female": 1.5}, "less than or equal to 1"),
        ({"Female": 0.0}, "greater than 0"),
        ({"Female": float("nan")}, "privacy.epsilon_factor.Female"),
        ({"Female": "half"}, "privacy.epsilon_factor.Female"),
    ],
)
def test_nonsense_is_refused_in_one_line(factor, line):
    with pytest.raises(ScenarioError) as caught:
        private(factor=factor)
    text = str(caught.value)
    assert line in text
    assert text.startswith("sex.toml: privacy.epsilon_factor")
    assert "\n" not in text


MIXED = {"kind": "iid", "clients": 3}


def test_a_mixed_client_has_a_share_by_its_number_only():
    with pytest.raises(ScenarioError, match="client 0 may hold records of several groups"):
        private(partition=MIXED)
    (run,) = private(factor={"client 0": 0.5}, partition=MIXED).runs
    assert [c.epsilon_factor for c in run.clients] == [0.5, 1.0, 1.0]
    named = {f"client {k}": 0.5 for k in range(3)}
    with pytest.raises(ScenarioError, match="no client holds records of group 'Female' alone"):
        private(factor={**named, "Female": 0.5}, partition=MIXED)


def test_statistics_take_their_share_of_the_least_budget():
    asked = {"statistics": {"budget_share": 0.2}}
    (run,) = private(TERM, **asked).runs
    (plain,) = planned(TERM, privacy={"epsilons": [1.0]}, **asked).runs
    assert run.statistics == plain.statistics


def test_weights_by_epsilon_are_the_budgets():
    planned_ = private(WEIGHTED)
    clients = simulate(planned_.runs[0], federation=planned_.federation)["clients"]
    first, last = (clients[clients["round"] == t]["weight"].tolist() for t in (1, 2))
    assert first == pytest.approx([0.4, 0.4, 0.2], rel=0.05)  # of what was spent so far
    assert last == pytest.approx([0.4, 0.4, 0.2], rel=2e-4)
    (uniform,) = planned(WEIGHTED, privacy={"epsilons": [2.0]}).runs
    assert set(simulate(uniform, federation=planned_.federation)["clients"]["weight"]) == {1 / 3}


def test_a_folder_says_what_every_client_may_spend(tmp_path):
    planned_ = private(FEDAVG)
    (run,) = planned_.runs
    folder = store.Store(tmp_path / "out")
    folder.open(planned_, "", "fedtoll run")
    folder.write(run, simulate(run, federation=planned_.federation))
    resolved = json.loads((tmp_path / "out" / "resolved.json").read_text())
    assert [c.get("epsilon_factor", 1.0) for c in resolved["clients"]] == [1.0, 1.0, 0.5]
    assert [row["epsilon_target"] for row in resolved["noise"]] == [2.0, 2.0, 1.0]
    loaded = results.load(tmp_path / "out")
    for table in (loaded.ledger, loaded.clients):
        last = table.groupby("client")[["epsilon_target", "epsilon_spent"]].max()
        assert last["epsilon_target"].tolist() == [2.0, 2.0, 1.0]
        assert (last["epsilon_spent"] <= last["epsilon_target"]).all()
        assert (last["epsilon_spent"] > 0.99 * last["epsilon_target"]).all()
    export.export(tmp_path / "out", tmp_path / "copy")
    assert results.load(tmp_path / "copy").ledger["epsilon_target"].max() == 2.0


def test_a_budget_is_itemised_by_share():
    section = {"epsilons": [2.0], "epsilon_factor": HALF}
    rows = scenario_spending(scenario(FEDAVG, privacy=section), "sex.toml")
    assert [(row["epsilon"], row["clients"]) for row in rows] == [(2.0, [0, 1]), (1.0, [2])]
    assert all(0 <= row["left"] < 0.01 * row["epsilon"] for row in rows)


def test_a_choice_of_constants_is_paid_from_the_share():
    from fedtoll.privacy.constants import charged
    from fedtoll.privacy.selection import charge_of
    from fedtoll.privacy.selection import epsilon as priced
    from fedtoll.scenarios.choice import TruncatedNegativeBinomial

    stated = {"epsilons": [2.0], "epsilon_factor": HALF, "accountant": "rdp"}
    at = scenario(FEDAVG, privacy=stated)
    layout = private(FEDAVG).federation.layout.clients
    tries = TruncatedNegativeBinomial.with_expected(4.0)
    statistics, clients, choice = charged(at, layout, (), 2.0, tries, 1, [(at.training, ())])
    (run,) = private(FEDAVG, privacy={"accountant": "rdp"}).runs
    run = run.changed(clients=clients, statistics=statistics, choice=choice)
    for client in clients:
        charge = charge_of(run, client)
        target = run.target_of(client)
        assert 0.99 * target < priced(charge, run.delta) <= target
