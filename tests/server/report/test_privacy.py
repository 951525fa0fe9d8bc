"""The privacy card: made from ledger and plan, and from nothing else."""

from __future__ import annotations

from dataclasses import replace

from fedtoll.clients import budget
from fedtoll.server.report import privacy
from fedtoll.server.report.page import render
from tests.server.report.html import Page


def test_the_card_is_made_from_the_results(results):
    ledger = results.ledger.assign(delta=3e-6, accountant="prv")
    loud = (ledger["client"] == 11) & (ledger["epsilon"] == 0.5)
    ledger.loc[loud, "epsilon_spent"] = 0.75
    page = Page(render(replace(results, ledger=ledger)))
    guarantee = page.card["Guarantee"]
    assert "δ = 3e-06" in guarantee
    assert "prv accountant" in guarantee
    assert "0.75 of ε = 0.5" in guarantee
    cells = [e["text"] for e in page.all("td")]
    assert "client 11, Amer-Indian-Eskimo, n\u00a0=\u00a0376" in cells
    assert "mean_loss: 3 releases, noise multiplier 100" in cells
    assert "to norm 3 and adds" in page.card["Mechanism"]


def test_clipping_alone_is_not_private(clipped):
    assert "clipped, yet not noised" in dict(privacy.card(clipped).promises)["Not private"]


def test_the_card_adds_the_ledgers_of_a_record_that_several_clients_hold(results):
    scenario = results.resolved["scenario"]
    copied = {**scenario, "partition": {**scenario["partition"], "copies": 2}}
    card = privacy.card(replace(results, resolved={**results.resolved, "scenario": copied}))
    guarantee = dict(card.promises)["Guarantee"]
    assert "Each record is held by 2 clients, so its ledgers add" in guarantee
    single, double = (budget.epsilon(_events(results, k), 1e-5) for k in (1, 2))
    assert double > 1.2 * single
    assert f"{double:.4g} of ε = 0.5" in guarantee
    assert "Clients hold disjoint records" in dict(privacy.card(results).promises)["Guarantee"]


def _events(results, clients):
    """What so many equal clients of the strategy that spends most release at ε = .5, in one run."""
    one = results.ledger.query("epsilon == 0.5 and strategy == 'term(t=5)' and seed == 0 and client == 0")
    releases = zip(one["noise_multiplier"], one["sampling_rate"], one["count"], strict=True)
    return [budget.Event(z, q, n) for z, q, n in releases] * clients
