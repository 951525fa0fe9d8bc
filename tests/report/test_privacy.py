"""The privacy card: its numbers come from the ledger and the plan, and from nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import pandas as pd
import pytest

from fedtoll.privacy import accounting
from fedtoll.privacy.ledger import CHOICE
from fedtoll.report import privacy, tables


def test_the_card_is_made_from_the_results(results):
    ledger = results.ledger.assign(delta=3e-6, accountant="prv")
    loud = (ledger["client"] == 11) & (ledger["epsilon"] == 0.5)
    ledger.loc[loud, "epsilon_spent"] = 0.75
    card = privacy.card(replace(results, ledger=ledger))
    guarantee = dict(card.promises)["Guarantee"]
    assert "δ = 3e-06" in guarantee
    assert "prv accountant" in guarantee
    assert "0.75 of ε = 0.5" in guarantee
    spent = [table for table in (tables.spent_table(card), tables.spent_by_client(card)) if table]
    cells = [cell.text for table in spent for row in table.rows for cell in row.cells]
    assert "client 11, Amer-Indian-Eskimo, n\u00a0=\u00a0376" in cells
    assert "mean_loss: 3 releases, noise multiplier 100" in cells
    assert "to norm 3, and adds" in dict(card.promises)["Mechanism"]


def test_the_page_shows_the_card(results, page):
    card = privacy.card(results)
    assert dict(card.promises).items() <= page.card.items()
    shown = {e["text"] for e in page.elements if e["tag"] in {"td", "th"}}
    for table in (tables.spent_table(card), tables.spent_by_client(card)):
        assert table is not None
        assert {cell.text for row in table.rows for cell in row.cells} <= shown
    assert set(card.not_covered) <= {e["text"] for e in page.all("li")}


def test_clipping_alone_is_not_private(clipped):
    assert "clipped but not noised" in dict(privacy.card(clipped).promises)["Not private"]


@pytest.mark.slow
def test_the_card_adds_the_ledgers_of_a_record_that_several_clients_hold(results):
    scenario = results.resolved["scenario"]
    copied = {**scenario, "partition": {**scenario["partition"], "copies": 2}}
    card = privacy.card(replace(results, resolved={**results.resolved, "scenario": copied}))
    guarantee = dict(card.promises)["Guarantee"]
    assert "Each record is held by 2 clients, so their ledgers add up" in guarantee
    single, double = (accounting.epsilon(_events(results, k), 1e-5, "rdp") for k in (1, 2))
    assert double > 1.2 * single
    assert f"{double:.4g} of ε = 0.5" in guarantee
    assert "Clients hold disjoint records" in dict(privacy.card(results).promises)["Guarantee"]


def _events(results, clients):
    """Return the releases, in one run at ε = .5, of equal clients of the strategy that spends most."""
    one = results.ledger.query("epsilon == 0.5 and strategy == 'term(t=5)' and seed == 0 and client == 0")
    releases = zip(one["noise_multiplier"], one["sampling_rate"], one["count"], strict=True)
    return [accounting.Event(z, q, n) for z, q, n in releases] * clients


def test_the_card_says_what_a_choice_of_constants_costs_and_assumes(results):
    private = results.ledger[results.ledger["mechanism"] == "dp-sgd"]
    first = private[private["round"] == 1].drop_duplicates(["strategy", "epsilon", "seed", "client"])
    first = first.assign(round=0, release=CHOICE, sampling_rate=math.nan, noise_multiplier=math.nan, count=1)
    first = first.assign(epsilon_spent=first["epsilon"] * 0.75)
    ledger = pd.concat([results.ledger, first], ignore_index=True)
    free, card = privacy.card(results), privacy.card(replace(results, ledger=ledger))
    terms = dict(card.promises)
    assert "0.375 of ε = 0.5" in terms["Choice of constants"]
    assert "Choice of constants" not in dict(free.promises)
    assert terms["Statistics"] == dict(free.promises)["Statistics"]
    assert card.spent == free.spent
    assert any("the grid of candidates" in item for item in card.not_covered)
    assert any("whoever sees the messages" in item for item in card.not_covered)
    assert not any("whoever sees the messages" in item for item in free.not_covered)


def test_the_card_is_at_most_what_any_clients_with_a_copy_spend(results):
    """Two clients can spend less each, but more together, than the two that spend most alone."""
    scenario = results.resolved["scenario"]
    copied = {**scenario, "partition": {**scenario["partition"], "copies": 2}}
    ledger = results.ledger.query("strategy == 'fedavg' and epsilon == 0.5 and release == 'dp-sgd'")
    one = ledger.drop_duplicates("client").head(4).assign(seed=0, delta=1e-5)
    # The first two spend most alone, the others together: the ε of rare samples hardly adds up.
    one = one.assign(noise_multiplier=[0.695, 0.695, 3.2, 3.2], sampling_rate=[1e-3, 1e-3, 1.0, 1.0], count=1)
    events = {c: _own(rows) for c, rows in one.groupby("client", sort=False)}
    alone = [accounting.epsilon(e, 1e-5, "rdp") for e in events.values()]
    assert min(alone[:2]) > max(alone[2:])
    one = one.assign(epsilon_spent=alone)
    card = privacy.card(replace(results, ledger=one, resolved={**results.resolved, "scenario": copied}))
    guarantee = dict(card.promises)["Guarantee"]
    stated = float(guarantee.split("at most ")[1].split(" of ε")[0])
    pairs = [accounting.epsilon([*a, *b], 1e-5, "rdp") for a, b in combinations(events.values(), 2)]
    assert max(pairs) > 1.3 * pairs[0]  # pairs[0] are the two that spend most alone
    assert stated >= max(pairs) * (1 - 1e-3)


def test_the_card_is_at_most_what_any_seed_spends(results):
    scenario = results.resolved["scenario"]
    copied = {**scenario, "partition": {**scenario["partition"], "copies": 2}}
    ledger = results.ledger.query("epsilon == 0.5")
    late = ledger["seed"] == ledger["seed"].max()
    assert late.any()
    assert not late.all()
    more = ledger.assign(count=ledger["count"].where(~late, 2 * ledger["count"]))
    before, after = (
        dict(
            privacy.card(
                replace(results, ledger=t, resolved={**results.resolved, "scenario": copied})
            ).promises
        )
        for t in (ledger, more)
    )
    assert before["Guarantee"] != after["Guarantee"]


def _own(rows):
    releases = zip(rows["noise_multiplier"], rows["sampling_rate"], rows["count"], strict=True)
    return [accounting.Event(z, q, n) for z, q, n in releases]


def _trusting(results, **keys):
    scenario = results.resolved["scenario"]
    changed = {**scenario, "privacy": {**scenario["privacy"], **keys}}
    return privacy.card(replace(results, resolved={**results.resolved, "scenario": changed}))


def test_the_card_names_the_trust_model(results):
    card = _trusting(results, trust="secure-aggregation", colluding=3)
    terms = dict(card.promises)
    assert "secure aggregation: the server sees sums only" in terms["Trust"]
    assert "never a single message" in terms["Adversary"]
    assert "Up to 3 clients may tell it" in terms["Adversary"]
    assert "its share of one Gaussian noise" in terms["Mechanism"]
    assert any("It is simulated" in item for item in card.not_covered)
    card = _trusting(results, trust="central")
    terms = dict(card.promises)
    assert "The server is trusted" in terms["Adversary"]
    assert "The server adds Gaussian noise once" in terms["Mechanism"]
    assert any("without noise" in item for item in card.not_covered)
    assert "Trust" not in dict(privacy.card(results).promises)
    assert "Sees every message" in dict(privacy.card(results).promises)["Adversary"]
