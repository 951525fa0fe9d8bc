"""The benchmarks work: their models train, their sweep can be planned, their page can be written."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _ours(monkeypatch):
    """Some package ships a ``benchmarks`` too: ours is at the top of the repository."""
    monkeypatch.syspath_prepend(str(ROOT))
    for name in [n for n in sys.modules if n.partition(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda f: f.stem)
def test_every_module_can_be_imported(file):
    module = importlib.import_module(f"benchmarks.{file.stem}")
    assert Path(str(module.__file__)).parent == ROOT / "benchmarks"


def test_synthetic_work_is_trained():
    scaling = importlib.import_module("benchmarks.scaling")
    point = scaling._engine(clients=3, rows=70, hidden=(4, 3), rounds=2)
    assert point["seconds"]["n"] == 2
    assert point["peak_mb"] > 0
    gpu = importlib.import_module("benchmarks.gpu")
    worst, moved = gpu.difference("cpu", clients=3, rows=70)
    assert worst == 0 < moved


@pytest.mark.slow
def test_the_sweep_is_of_150_runs_and_one_of_them_is_timed_round_by_round():
    work = importlib.import_module("benchmarks.work")
    assert len(work.sweep(rounds=2)) == work.SWEEP == 150
    in_process = importlib.import_module("benchmarks.in_process")
    timed = in_process.InProcess(work.one(rounds=2), "cohort")
    assert timed.rounds(1) > 0
    assert timed.whole() > timed.training[0] > 0
    assert 0.7 < timed.accuracy < 0.9


def test_the_stored_page_is_that_of_the_stored_measurements():
    report = importlib.import_module("benchmarks.report")
    results = json.loads((ROOT / "benchmarks/results.json").read_text(encoding="utf-8"))
    assert (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8") == report.markdown(results)


def test_the_page_is_written_from_measurements():
    report = importlib.import_module("benchmarks.report")
    machine = importlib.import_module("benchmarks.measure").machine()
    seconds = {
        "b": [2.0, 2.1],
        "d": [0.1, 0.11],
        "f": [0.04, 0.04],
        "products": [0.02] * 2,
        "draws": [0.02] * 2,
    }
    results = {"quick": False, "size": {"rounds": 40}, "machine": machine, "load": {"start": 0.0, "end": 0.0}}
    page = report.markdown({**results, "training": seconds})
    assert "2.62" in page
    assert "19.5 ×" in page or "19.6 ×" in page
    again = {"commit": "abc1234", "load": 0.1, "before": {"median": 3.06, "low": 2.41, "high": 5.36}}
    page = report.markdown({**results, "training": seconds, "again": again})
    assert "again, on commit abc1234" in page
    assert page.count("training alone (d)") == page.count("(b), same core †") + page.count("(f) †") == 2
    assert "(d) ÷ (f) was 3.06 (2.41 to 5.36)" in page


def test_the_page_of_prices_is_made_from_its_file():
    made = importlib.import_module("benchmarks.prices_page")
    found = json.loads((ROOT / "benchmarks/prices.json").read_text(encoding="utf-8"))
    assert made.page(found) == (ROOT / "docs/prices.md").read_text(encoding="utf-8")
    assert made.changes_page(found) == (ROOT / "docs/changes.md").read_text(encoding="utf-8")


def test_what_was_not_confirmed_or_not_run_is_named():
    made = importlib.import_module("benchmarks.prices_page")

    def row(cell, stage, significant=True, strategy="term(t=5)"):
        tested = {"cell": cell, "epsilon": 1.0, "strategy": strategy, "quantity": "disparity"}
        return {**tested, "difference": -0.1, "stage": stage, "significant": significant}

    rows = [
        *(row("law-race", "library"), row("law-race", "again")),
        row("tv16-race", "library"),
        row("compas-race", "library", significant=False),
    ]
    page = made._library(rows, ["law-race", "tv16-race", "compas-race", "credit-sex"])
    assert "| law-race | 1 |  |  | term |  |" in page
    assert "| tv16-race | 1 |  |  |  |  |" in page
    assert "Not run yet: credit-sex." in page
    assert "Not run again yet, so nothing of them is confirmed: tv16-race." in page


def test_a_change_of_one_stage_is_listed_and_a_strategy_that_is_another_is_not_counted():
    made = importlib.import_module("benchmarks.prices_page")

    def row(stage, strategy, significant, quantity="toll gap"):
        tested = {"cell": "law-race", "epsilon": 1.0, "strategy": strategy, "quantity": quantity}
        return {
            **tested,
            "difference": 0.1,
            "low": 0.0,
            "high": 0.2,
            "stage": stage,
            "significant": significant,
        }

    rows = [
        row(stage, strategy, stage == "again" or strategy != "term(t=5)", quantity)
        for stage in ("library", "again")
        for strategy in ("uniform", "epsilon-weighted", "term(t=5)")
        for quantity in ("toll gap", "utility")
    ]
    counted = made._counted(rows)
    listed = made._changes(counted, "library")
    assert (
        listed.count("| uniform | price gap | 0.100 (0.000 to 0.200) | 0.100 (0.000 to 0.200) | yes |") == 1
    )
    assert listed.count("| term(t=5) | price gap |") == listed.count("| second stage only |") == 1
    assert "epsilon-weighted" not in listed
    assert made._confirmed(counted, "library") == {("law-race", 1.0, "uniform", "toll gap", 1)}


def test_collecting_keeps_what_was_measured_before(tmp_path):
    made = importlib.import_module("benchmarks.prices")
    stored = (ROOT / "benchmarks/prices.json").read_text(encoding="utf-8")
    assert made.written(made.collect(tmp_path)) == stored


def test_a_gap_is_real_only_if_both_stages_find_it():
    made = importlib.import_module("benchmarks.prices")

    def gap(gap, low, epsilon=0.5):
        return [{"what": "price", "epsilon": epsilon, "gap": gap, "gap_low": low}]

    assert made.verdict(gap(0.02, 0.001), gap(0.03, 0.002), 0.5) == "real"
    assert made.verdict(gap(0.02, 0.001), gap(0.009, 0.002), 0.5) == "small"
    assert made.verdict(gap(0.02, 0.001), gap(0.03, 0.0), 0.5) == "not confirmed"
    assert made.verdict(gap(0.02, 0.001), [], 0.5) == "found once"
    assert made.verdict(gap(0.02, None), [], 0.5) == "none"


def test_scenarios_whose_search_found_no_gap_say_so():
    from fedtoll.scenarios.read import library, read

    prices = importlib.import_module("benchmarks.prices")
    searched = {row["cell"] for row in prices.stored()["gaps"] if row["stage"] == "search"}
    silent: list[str] = []
    wrong: list[str] = []
    for name in sorted(set(library()) & searched):
        search, confirm = (prices.gaps(stage, name, ROOT / "none") for stage in ("search", "confirm"))
        found = {prices.verdict(search, confirm, epsilon) for epsilon in prices.EPSILONS}
        says = "found none between these groups" in " ".join(read(name).description.split())
        if says != (found == {"none"}):
            (wrong if says else silent).append(name)
    assert not silent
    assert not wrong
