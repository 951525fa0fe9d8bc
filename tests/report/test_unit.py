"""The report on runs that protect a client with all its records, from a folder of real runs."""

from __future__ import annotations

import json

import pytest

from fedtoll.report import privacy, tables, trust
from fedtoll.report.digest import Digest
from fedtoll.report.page import render
from fedtoll.server.results import load
from fedtoll.server.store import Store
from fedtoll.server.trainer import simulate
from fedtoll.sweep.dry_run import preview, scenario_spending
from tests.server.federation import FEDAVG, TOML, planned, scenario

TRAINING = {"local_steps": 2, "sampling_rate": 0.002}
HIDDEN = {"kind": "poisson", "rate": 0.5}


def folder(path, by, *strategies, **changes):
    section = {"epsilons": ["inf", 3.0], "unit": "client", "trust": by, **changes.pop("privacy", {})}
    plan = planned(
        *(strategies or [FEDAVG]),
        privacy=section,
        training=TRAINING,
        partition={"clients": {"*": 4}},
        **changes,
    )
    store = Store(path)
    store.open(plan, TOML, "fedtoll run sex.toml")
    for run in plan.runs:
        store.write(run, simulate(run))
    return load(path)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    path = tmp_path_factory.mktemp("hidden")
    return folder(path, "central", participation=HIDDEN, privacy={"adaptive_clip": 0.5, "weight_cap": 2.0})


def test_the_card_names_the_unit_and_who_knows_what(hidden):
    card = privacy.card(hidden)
    terms = dict(card.promises)
    assert terms["Unit"] == "One client, with all its records."
    assert "all records of one client" in terms["Neighbours"]
    assert "does not know which clients take part, so that sampling them amplifies" in terms["Adversary"]
    assert "probability 0.5, drawn in secret" in terms["Participation"]
    assert "whether or not it takes part" in terms["Guarantee"]
    assert "clips its whole update to norm 1." in terms["Mechanism"]
    assert "at most 2 times their mean" in terms["Mechanism"]
    assert "the 0.5 quantile" in terms["Mechanism"]
    assert "of the 8 clients here" in terms["δ and clients"]
    assert "δ and records" not in terms
    assert terms["Statistics"] == "No strategy asks clients for statistics."
    assert any(text.startswith("Who took part.") for text in card.not_covered)
    (spent,) = card.spent
    assert (spent.rate, spent.steps, spent.statistics) == ("0.5", "2", "none")
    assert card.by_client == (("all clients", "3.0000"),) or card.by_client[0][0] == "all clients"


@pytest.mark.slow
def test_the_page_can_be_written(hidden):
    text = render(Digest(hidden))
    assert "whole clients" in text
    assert "drawn in secret" in text
    table = tables.participation_table(Digest(hidden))
    assert table is not None
    assert "public seed" not in table.note


def test_under_secure_aggregation_the_card_claims_no_amplification(tmp_path):
    participation = {"kind": "fraction", "fraction": 0.5}
    found = folder(tmp_path, "secure-aggregation", participation=participation)
    terms = dict(privacy.card(found).promises)
    assert "No amplification by client sampling is claimed" in terms["Adversary"]
    assert "each client adds its share of one Gaussian noise" in terms["Mechanism"]
    assert "Each client is charged for the rounds in which it is asked" in terms["Guarantee"]
    assert "lowers no ε" in terms["Participation"]


def test_records_are_the_unit_by_default():
    assert trust.phrase({"trust": "central"}) == " with a trusted server"
    assert trust.phrase({"trust": "central", "unit": "client"}) == (
        " with a trusted server that protects whole clients"
    )


def test_budget_speaks_of_clients():
    section = {"epsilons": [3.0], "unit": "client", "trust": "central"}
    stated = scenario(FEDAVG, privacy=section, training=TRAINING, participation=HIDDEN)
    (row,) = scenario_spending(stated, "x.toml", None, lambda file, text: None)
    assert row["unit"] == "client"
    (part,) = row["parts"]
    assert (part["what"], part["releases"], part["sampling_rate"]) == ("client-update", 2, 0.5)
    assert row["spent"] == pytest.approx(3.0, rel=1e-3)


def test_a_preview_has_one_row_for_all_clients_that_are_charged_alike():
    section = {"epsilons": [3.0], "unit": "client", "trust": "central"}
    plan = planned(FEDAVG, privacy=section, training=TRAINING, participation=HIDDEN)
    rows = json.loads(preview(plan, 1, as_json=True))["noise"]
    assert [(r["client"], r["group"]) for r in rows] == [(-1, "Male"), (-1, "Female")]
    for row in rows:
        assert (row["sampling_rate"], row["steps"]) == (0.5, 2)
        assert row["epsilon_spent"] == pytest.approx(3.0, rel=1e-3)


@pytest.mark.slow
def test_card_page_and_account_say_what_statistics_are_part_of(tmp_path):
    strategies = FEDAVG, {"name": "fedminmax"}
    options = {"every": 2, "record_cap": 20.0}
    found = folder(tmp_path, "central", *strategies, participation=HIDDEN, statistics=options)
    card = privacy.card(found)
    said = dict(card.promises)["Statistics"]
    assert said.startswith("fedminmax asks for group_loss. What a client adds")
    assert "the norm of 20 records of one cell" in said
    assert "charged as one release" in said
    spent = {s.strategy: s for s in card.spent}
    assert spent["fedavg"].statistics == "none"
    assert spent["fedminmax"].statistics == "group_loss: 1 releases, each one with the update"
    assert (spent["fedminmax"].rate, spent["fedminmax"].steps) == ("0.5", "2")
    assert "client-update + group_loss" in set(found.ledger["release"])
    assert "group_loss asks" not in render(Digest(found))
    stated = scenario(
        *strategies,
        privacy={"epsilons": [3.0], "unit": "client", "trust": "central"},
        training=TRAINING,
        partition={"clients": {"*": 4}},
        participation=HIDDEN,
        statistics=options,
    )
    plain, joint = scenario_spending(stated, "x.toml")
    assert "joint" not in plain
    assert [part["what"] for part in joint["parts"]] == ["client-update", "client-update + group_loss"]
    update, statistic = joint["joint"]["client-update"], joint["joint"]["group_loss"]
    assert joint["parts"][1]["noise_multiplier"] == pytest.approx((update**-2 + statistic**-2) ** -0.5)
    assert joint["spent"] == pytest.approx(3.0, rel=1e-3)
