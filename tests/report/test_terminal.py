"""The summary in the terminal: one screen of plain text that claims no more than the page."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from fedtoll.report import headline, terminal_summary
from tests.server.fake import adult_race


def screen(results, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(terminal_summary(results))
    return out.getvalue()


@pytest.mark.parametrize("strategies", [3, 8])
def test_it_is_one_screen_of_100_by_40(strategies):
    names = ("fedavg", "uniform", "term(clip=1, t=5)", *(f"noise-fair(x={i})" for i in range(9)))[:strategies]
    seeds = tuple(range(6 if strategies > 3 else 8))
    lines = screen(adult_race(strategies=names, seeds=seeds, rounds=1, records=60)).splitlines()
    assert len(lines) <= 38  # the path of the report and the prompt come below
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in "".join(lines)


def test_it_says_who_pays_over_epsilon_what_was_compared_and_the_headline(eight):
    out = screen(eight)
    lines = out.splitlines()
    assert lines[0].strip() == (
        "Who pays at ε = 0.5: log-loss added by privacy (nats) ± half the 95% interval over 8 seeds"
    )
    asian = [line for line in lines if line.startswith("Asian-Pac-Islander")]
    assert len(asian) == 2  # at the tightest ε, and over ε
    assert "1,515" in asian[0]
    assert "410" in asian[0]
    assert asian[0].count("±") == 3
    assert "Toll under fedavg at each ε" in out
    groups = [line.split("  ")[0] for line in lines if re.match(r"[A-Zer].* \d+\.\d{3}", line)]
    assert groups[:2] == ["Asian-Pac-Islander", "race “Other”"]  # who pays most comes first
    assert (
        "Against fedavg at ε = 0.5: difference (95% interval), p after Holm over 4 default comparisons" in out
    )
    compared = [line for line in lines if re.match(r"(uniform|term\(t=5\)) +(toll gap|utility) ", line)]
    assert len(compared) == 4
    assert all(re.search(r" p (\d|below)", line) for line in compared)
    assert not [line for line in lines if line.endswith(" ")]
    assert " ".join(out.split()).endswith(headline(eight))


def test_the_title_at_best_constants_is_one_line(eight):
    row = {"strategy": "fedavg", "mechanism": "dp-sgd", "epsilon": 0.5, "chosen": True}
    tuning = [row | {"constants": {"learning_rate": 0.5}, "seeds": 2, "loss": {"(all)": 0.3}}]
    resolved = eight.results.resolved | {"tuning": tuning}
    lines = screen(replace(eight.results, resolved=resolved)).splitlines()
    assert lines[0] == (
        "Who pays at ε = 0.5, at best constants: added log-loss (nats) ± half the 95% interval over 8 seeds"
    )
    assert "Price under fedavg at each ε" in lines


def test_it_says_why_there_is_no_test(digest):
    assert "4 default comparisons, not tested (too few seeds" in screen(digest)


def test_a_declared_family_is_not_called_the_default_one(results):
    scenario = results.resolved["scenario"] | {"compare": {"quantities": ["utility"]}}
    asked = replace(results, resolved=results.resolved | {"scenario": scenario})
    assert "\n2 comparisons, not tested (too few seeds" in screen(asked)


def test_it_marks_what_may_not_be_claimed(fake_digest):
    out = screen(fake_digest(seeds=(0,)))
    assert re.search(r"“Other” +81 +10\*", out)
    assert "* too few records, or of a class, for a claim" in out
    assert "±" not in out  # one seed has no interval


def test_more_strategies_are_left_to_the_report():
    out = screen(adult_race(strategies=("fedavg", "uniform", "a", "b"), seeds=(0, 1), rounds=1, records=60))
    out = " ".join(out.split())
    assert "only in the report: 1 strategy with a wider gap" in out


def test_several_classes_have_no_positives(digits):
    out = screen(digits)
    assert "pos." not in out
    assert out.count("digit “2”") == 3  # two tables and the headline


def test_hostile_names_are_no_markup(disguised):
    out = screen(disguised)
    assert "[red]" in out
    assert "/bold]" in out
