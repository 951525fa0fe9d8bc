"""Skipped replies on the page, in the terminal and as a table."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest
from rich.console import Console

from fedtoll.report import page, terminal_summary
from fedtoll.report.digest import Digest
from fedtoll.report.skips import MOST_ROWS, skips_line, skips_table
from tests.server.fake import adult_race

LINE = (
    "4 of 468 replies were skipped, in 2 of 12 runs, from 2 clients (Black: 3 and race “Other”: 1). "
    "They had no weight in those rounds; the report lists who and why."
)


def screen(results) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(terminal_summary(results))
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def without(results, *gone):
    """Return results where the replies of these (strategy, ε, seed, round, client) were skipped."""
    clients = results.clients.assign(skipped="")
    for strategy, epsilon, seed, round, client, reason in gone:
        at = (clients[["strategy", "epsilon", "seed"]] == [strategy, epsilon, seed]).all(axis=1)
        at &= (clients["round"] == round) & (clients["client"] == client)
        assert at.sum() == 1
        clients.loc[at, ["weight", "coefficient"]] = 0.0
        clients.loc[at, "noise_variance"] = float("nan")
        clients.loc[at, "skipped"] = reason
    resolved = {**results.resolved, "scenario": {**results.resolved["scenario"]}}
    resolved["scenario"]["training"] = {**resolved["scenario"]["training"], "on_failure": "skip"}
    return replace(results, clients=clients, resolved=resolved)


@pytest.fixture(scope="module")
def plain():
    return adult_race(strategies=("fedavg", "uniform"), epsilons=(float("inf"), 2.0, 0.5), seeds=(0, 1))


@pytest.fixture(scope="module")
def partial(plain):
    return without(
        plain,
        ("fedavg", 0.5, 1, 2, 8, "failed: KeyError: '<age>'"),
        ("fedavg", 0.5, 1, 3, 8, "the reply is missing"),
        ("fedavg", 0.5, 1, 3, 12, "the reply is missing"),
        ("uniform", 2.0, 0, 1, 8, "=1+1"),
    )


@pytest.mark.slow
def test_nothing_is_said_where_every_reply_ends_a_run(results, text):
    assert skips_line(results) == ""
    assert skips_table(Digest(results)) is None
    assert "skipped" not in text
    assert "skipped" not in screen(results)


@pytest.mark.slow
def test_that_none_was_skipped_is_said_where_some_could_have_been(plain):
    results = without(plain)
    html = page.render(results)
    assert skips_line(results) == ""
    assert "Skipped replies" in html
    assert "none was" in html
    assert 'href="#skips"' not in html
    assert "skipped" not in screen(results)


@pytest.mark.slow
def test_the_head_the_terminal_and_the_table_say_who_was_skipped(partial):
    html = page.render(partial)
    assert LINE in screen(partial)
    head = html[: html.index("<main")]
    assert skips_line(partial) in head
    assert "count for less than the strategy intends" in " ".join(head.split())
    assert 'href="#skips"' in head
    assert 'id="skips"' in html
    assert "KeyError: &#39;&lt;age&gt;&#39;" in html
    assert "<age>" not in html
    table = skips_table(Digest(partial))
    assert table is not None
    assert [c.name for c in table.columns][2:7] == ["Client", "Group", "Replies skipped", "Rounds", "Seeds"]
    assert [[c.text for c in row.cells] for row in table.rows] == [
        ["fedavg", "0.5", "8", "Black", "2 of 6", "2 to 3", "1", "failed: KeyError: '<age>'"],
        ["fedavg", "0.5", "12", "race “Other”", "1 of 6", "3", "1", "the reply is missing"],
        ["uniform", "2", "8", "Black", "1 of 6", "1", "1", "=1+1"],
    ]
    rows = list(csv.DictReader(io.StringIO(table.csv)))
    assert [(r["seed"], r["round"], r["client"]) for r in rows] == [
        ("1", "2", "8"), ("1", "3", "8"), ("1", "3", "12"), ("0", "1", "8"),
    ]  # fmt: skip
    assert rows[-1]["reason"] == "'=1+1"


@pytest.mark.slow
def test_a_long_table_is_by_group(plain):
    everyone = [
        (s, e, k, r, c, "the reply is missing")
        for s in ("fedavg", "uniform")
        for e in (float("inf"), 2.0, 0.5)
        for k in (0, 1)
        for r in (1, 2)
        for c in range(12)
    ]
    few, many = (skips_table(Digest(without(plain, *gone))) for gone in (everyone[:24], everyone))
    assert few is not None
    assert many is not None
    assert [c.name for c in few.columns][2] == "Client"
    assert MOST_ROWS >= len(few.rows) == 12
    assert many.columns[2].name == "Client"  # 72 rows
    longer = without(plain, *everyone)
    longer = replace(longer, clients=longer.clients.assign(client=range(len(longer.clients))))
    by_group = skips_table(Digest(longer))
    assert by_group is not None
    assert [c.name for c in by_group.columns][2] == "Group"
    assert len(by_group.rows) == 2 * 3 * 4  # strategies, ε, groups
    assert len(by_group.csv.splitlines()) == 1 + len(everyone)


def test_mixed_clients_are_counted_and_no_group_is_named(partial):
    mixed = replace(partial, clients=partial.clients.assign(group=""))
    assert skips_line(mixed) == "4 of 468 replies were skipped, in 2 of 12 runs, from 2 clients."
    table = skips_table(Digest(mixed))
    assert table is not None
    assert {row.cells[3].text for row in table.rows} == {"any"}
