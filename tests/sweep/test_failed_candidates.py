"""A candidate of ``[tune]`` that fails is shown, never chosen, tried again, and does not end the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedtoll.report.page import render
from fedtoll.scenarios.read import read
from fedtoll.server.plan import plan
from fedtoll.server.results import load
from fedtoll.sweep.tune import tune
from tests.server.federation import TOML

FRAGILE = '''
import os, signal, time
from dataclasses import dataclass
from fedtoll.strategies.fedavg import FedAvg

@dataclass(frozen=True)
class Fragile(FedAvg):
    """Ends its process, hangs or raises, by its parameter."""

    how: str = "well"

    def weigh(self, reports, state):
        if self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "hang":
            time.sleep(600)
        if self.how == "raise" and not os.path.exists("mended"):
            raise KeyError("record 37")
        return super().weigh(reports, state)
'''

TUNE = """
split.validation = 0.1
[tune]
learning_rates = [1.0]
seeds = [1000]
strategies = { "fragile.py:Fragile" = { how = HOW } }
"""


@pytest.fixture
def scenario(tmp_path: Path):
    """Return a function that writes a scenario whose candidates end in the given ways."""
    (tmp_path / "fragile.py").write_text(FRAGILE)

    def write(*how: str, epsilons: str = '["inf"]') -> None:
        text = TOML.replace('name = "fedavg"', 'name = "fragile.py:Fragile"')
        top, sections = text[: text.index("\n[")], text[text.index("\n[") :]
        validation, tuning = TUNE.replace("HOW", json.dumps(how)).split("\n[", 1)
        (tmp_path / "x.toml").write_text(f"{top}\n{validation}\n{sections}\n[{tuning}")

    return write


@pytest.mark.slow
def test_the_others_go_on_and_the_failures_are_shown(here, scenario, tmp_path):
    scenario("raise", "die", "well", "hang")
    command = ("run", "x.toml", "--out", "out", "--timeout", 20, "--workers", 1)
    code, _, err = here(*command)
    assert code == 1, err
    lines = sorted(err.splitlines())
    expected = (("KeyError", "traceback"), ("killed", "noted"), ("20 s", "noted"))
    for line, words in zip(lines, expected, strict=True):
        assert line.startswith("fedtoll: failed: a candidate of Fragile"), line
        assert words[0] in line
        assert f"({words[1]} in out/errors/" in line
    assert len(list(tmp_path.glob("out/errors/*.txt"))) == 3

    rows = {row["constants"]["how"]: row for row in load(tmp_path / "out").resolved["tuning"]}
    assert [how for how, row in rows.items() if row["chosen"]] == ["well"]
    reasons = {how: row.get("failed") for how, row in rows.items()}
    assert reasons == {
        "raise": "KeyError: 'record 37'",
        "die": "its worker process was killed by signal 9 (SIGKILL, out of memory?)",
        "well": None,
        "hang": "not finished after 20 s",
    }
    for how in ("raise", "die", "hang"):
        assert rows[how]["loss"] == {"(all)": None}
        assert rows[how]["seeds"] == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "3 candidates have failed, and could not be chosen." in page
    assert page.count('<td class="text">failed</td>') == 3
    assert "record 37" not in page

    assert here("export", "out", "--shareable", "copy")[0] == 0
    assert "record 37" not in (tmp_path / "copy/resolved.json").read_text()


@pytest.mark.slow
def test_a_candidate_that_failed_is_tried_again_and_then_nothing_is_left_of_it(here, scenario, tmp_path):
    scenario("raise", "well")
    command = ("run", "x.toml", "--out", "out", "--executor", "serial")
    assert here(*command)[0] == 1
    (trace,) = tmp_path.glob("out/errors/*.txt")
    assert "KeyError" in trace.read_text()
    assert here(*command)[0] == 1  # still
    (tmp_path / "mended").touch()
    code, _, err = here(*command)
    assert (code, err) == (0, "1 of 2 runs are stored already\n")  # of the recipe; the choice changed
    rows = load(tmp_path / "out").resolved["tuning"]
    assert not any("failed" in row for row in rows)
    assert {row["seeds"] for row in rows} == {1}
    assert not trace.exists()
    page = render(load(tmp_path / "out"))
    assert "could not be chosen" not in page
    assert '<td class="text">failed</td>' not in page


@pytest.mark.slow
def test_if_all_candidates_of_a_strategy_fail_it_is_one_line(here, scenario, tmp_path):
    scenario("raise", "die")
    code, out, err = here("run", "x.toml", "--out", "out")
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith(
        "fedtoll: adult-sex: tuning Fragile at ε = inf: every candidate diverged or failed,"
    )
    assert "'record 37'" in line
    assert not list(tmp_path.glob("out/runs/*/run.json"))


def test_halving_trains_a_failed_candidate_no_further(tmp_path, monkeypatch):
    from fedtoll.scenarios.run import Run

    overrides = [
        "split.validation=0.1",
        'privacy.epsilons=["inf"]',
        'tune={learning_rates=[0.125, 0.25, 0.5, 1.0], seeds=[1000, 1001, 1002], method="halving"}',
    ]
    planned = plan(read("adult-central", overrides, "0:1"), "x")
    trained = []

    def loss(text):
        run = Run.from_json(text)
        trained.append((run.learning_rate, run.seed))
        if run.learning_rate == 0.5 or (run.learning_rate == 0.25 and run.seed == 1001):
            return OSError("no memory")
        return {"(all)": 2.0 - run.learning_rate}

    monkeypatch.setattr("fedtoll.sweep.tune.validation_losses", lambda _, texts: [loss(x) for x in texts])
    noted: list[str] = []
    tuned = tune(planned, tmp_path, executor="serial", failed=lambda run, line, trace: noted.append(line))
    assert [rate for rate, _ in trained].count(0.5) == 1
    assert [rate for rate, _ in trained].count(0.25) == 2
    assert noted == ["OSError: no memory"] * 2
    assert [row["constants"]["learning_rate"] for row in tuned.facts["tuning"] if row["chosen"]] == [1.0]
    assert [row.get("failed") for row in tuned.facts["tuning"]] == [None, *noted, None]
