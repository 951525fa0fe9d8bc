"""The report on clients that do not take part in every round."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest

from fedtoll.report import privacy, tables
from fedtoll.report.digest import Digest
from fedtoll.report.page import render

RULE = {"kind": "availability", "fraction": None, "availability": {"White": 0.9, "*": 0.4}, "seed": 7}


@pytest.fixture
def partly(results):
    """Results in which client 0 never took part, and client 12 in the last round only."""
    resolved = deepcopy(results.resolved)
    resolved["scenario"]["participation"] = RULE
    rows = results.clients
    clients = rows[(rows["client"] != 0) & ((rows["client"] != 12) | (rows["round"] == 3))]
    counts = clients.groupby(["strategy", "mechanism", "epsilon", "seed", "round"]).size()
    rounds = results.rounds.assign(participants=counts.to_numpy())
    return replace(results, resolved=resolved, clients=clients, rounds=rounds)


def test_without_a_schedule_there_is_no_table(digest, text):
    assert tables.participation_table(digest) is None
    assert "Who took part" not in text
    assert "Participation" not in dict(privacy.card(digest.results).promises)


def test_the_report_says_who_took_part(partly):
    table = tables.participation_table(Digest(partly))
    assert table is not None
    rows = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in table.rows}
    sizes = [c["group"] for c in partly.resolved["clients"]]
    assert rows["White"] == [str(sizes.count("White")), "90.0%", "87.5%", "0.0% to 100.0%"]
    last = partly.resolved["clients"][12]["group"]
    assert sizes.count(last) == 1
    (label,) = (name for name in rows if last in name)
    assert rows[label] == ["1", "40.0%", "33.3%", "33.3%"]
    assert "11 to 12 of 13 clients took part in a round" in table.note
    assert "public seed 7" in table.note


@pytest.mark.slow
def test_the_page_and_the_card_have_it(partly):
    text = render(Digest(partly))
    assert "Who took part" in text
    card = dict(privacy.card(partly).promises)
    assert "lowers no ε" in card["Participation"]
    assert "calibrated for their number" in card["Participation"]
