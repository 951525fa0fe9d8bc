"""``fedtoll new-strategy`` and ``fedtoll check-strategy`` as users see them."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

from fedtoll.strategies import registry, template
from fedtoll.strategies.conformance import PROPERTIES, ROUNDS, STATISTICS

BROKEN = """
from dataclasses import dataclass
from fedtoll.strategies.base import Strategy, sizes

@dataclass(frozen=True)
class Broken(Strategy):
    t: float = 1.0

    def weigh(self, reports, state):
        return self.t * sizes(reports), state

class Other:
    pass
"""


@pytest.mark.slow
def test_a_new_strategy_conforms_and_says_what_to_type_next(here, tmp_path):
    code, out, err = here("new-strategy", "my-strategy")
    assert (code, err) == (0, "")
    path, check, run = out.splitlines()
    assert path == "my_strategy.py"
    assert [p.name for p in tmp_path.iterdir()] == [path]
    assert check == "fedtoll check-strategy my_strategy.py:MyStrategy"
    assert run == (
        """fedtoll run adult-race --set 'strategies=[{name="fedavg"}, {name="my_strategy.py:MyStrategy"}]' """
        "--seeds 0:3 --out results/my-strategy"
    )
    code, out, err = here(*shlex.split(check)[1:])
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * (len(PROPERTIES) + 2) + ["shown"] * 3
    for name in (STATISTICS, ROUNDS, *PROPERTIES):
        assert sum(line.startswith(f"ok      {name}  ") for line in lines) == 1
    assert here(*shlex.split(run)[1:], "--dry-run")[0] == 0
    assert here("check-strategy", "my_strategy.py:MyStrategy", "--set", "a=0")[0] == 0
    code, out, err = here("check-strategy", "my_strategy.py:MyStrategy", "--set", "a=1.5")
    assert (code, out) == (2, "")
    assert err == "fedtoll: strategies: MyStrategy: a = 1.5: must be between 0 and 1\n"


@pytest.mark.slow
def test_a_new_strategy_in_another_folder(here, tmp_path):
    code, out, _ = here("new-strategy", "b2b-mean", "--out", "some where/deep")
    assert code == 0
    path, check, run = out.splitlines()
    assert path == "some where/deep/b2b_mean.py"
    assert "class B2bMean(Strategy):" in (tmp_path / path).read_text()
    assert here(*shlex.split(check)[1:])[0] == 0
    assert here(*shlex.split(run)[1:], "--dry-run")[0] == 0


@pytest.mark.slow
def test_the_command_that_new_strategy_prints_runs(here, tmp_path):
    run = here("new-strategy", "my-strategy")[1].splitlines()[2]
    quick = ["training.rounds=2", "training.local_steps=2", 'privacy.epsilons=["inf", 2]']
    short = ("--seeds", "0:1", "--executor", "serial", "--no-tune", "--no-probe")
    code, out, err = here(*shlex.split(run)[1:], *short, *(x for pair in quick for x in ("--set", pair)))
    assert code == 0, err
    assert "MyStrategy" in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("My-Strategy", "must be lowercase letters"),
        ("my_strategy", "e.g. 'my-strategy'"),
        ("2nd", "must be lowercase letters"),
        ("../evil", "must be lowercase letters"),
        ("a--b", "must be lowercase letters"),
        ("fedavg", "already installed; choose another name"),
        ("class", "would shadow a name that Python or the file needs; choose another name"),
        ("json", "would shadow"),
        ("numpy", "would shadow"),
        ("fedtoll", "would shadow"),
        ("strategy", "would shadow"),
        ("report", "would shadow"),
        ("value-error", "would shadow"),
    ],
)
def test_bad_names_are_refused_in_one_line_and_nothing_is_written(here, tmp_path, name, words):
    code, out, err = here("new-strategy", name, "--out", "new")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert name in err
    assert words in err
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(here, tmp_path):
    (tmp_path / "my_strategy.py").write_text("mine")
    code, out, err = here("new-strategy", "my-strategy")
    assert (code, out) == (2, "")
    assert "my_strategy.py exists" in err
    assert (tmp_path / "my_strategy.py").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_one_line(here):
    code, out, err = here("new-strategy", "my-strategy", "--out", "/proc/none")
    assert (code, out) == (2, "")
    assert "/proc/none/my_strategy.py cannot be written" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_what_fails_is_said_and_the_exit_code_is_1(here, tmp_path):
    (tmp_path / "x.py").write_text(BROKEN)
    assert here("check-strategy", "x.py:Broken")[0] == 0
    code, out, err = here("check-strategy", "x.py:Broken", "--set", "t=2.0")
    assert (code, err) == (1, "")
    assert "FAILED  weights on the simplex  " in out
    assert "sum 2 instead of 1 (+1)" in out
    code, out, err = here("check-strategy", "x.py:Broken", "--set", "t=2.0", "--json")
    assert (code, err) == (1, "")
    content = json.loads(out)
    assert content["strategy"] == "x.py:Broken"
    assert {v["property"]: v["outcome"] for v in content["verdicts"]}["weights on the simplex"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["terms"], ["'terms' is unknown", "'term'"]),
        (["term", "--set", "tt=1.0"], ["unknown parameter 'tt'", "'t'"]),
        (["term", "--set", "t"], ["key=value"]),
        (["term", "--set", "=1"], ["key=value"]),
        (["term", "--set", "t=much"], ["'much' is not a TOML literal (a string needs quotes)"]),
        (["term", "--set", "t=[1,"], ["'[1,' is not a TOML literal: ", "at end of document"]),
        (["term", "--set", "t=-1.0"], ["must be 0 or greater"]),
        (["nowhere.py:X"], ["no such file"]),
        (["x.py"], ["write x.py:Class"]),
        (["inner/y:Broken"], ["'inner/y:Broken' cannot be imported", "did you mean 'inner/y.py:Broken'?"]),
        (["x.py:Brokn"], ["no class 'Brokn'", "'Broken'"]),
        (["x.py:Strategi"], ["no class 'Strategi'; known: Broken, Other"]),  # nothing that the file imports
        (["x.py:Other"], ["/x.py:Other is neither a fedtoll nor a Flower strategy"]),
        (["no.module:X"], ["cannot be imported"]),
        (["flwr.serverapp.strategy:QFedAvg"], ["cannot run here"]),
        (["flwr.serverapp.strategy:FedYogi", "--set", "etaa=1.0"], ["'etaa'", "'eta'"]),
        ([], ["Missing argument"]),
    ],
)
def test_wrong_usage_is_one_line(here, tmp_path, arguments, words):
    (tmp_path / "inner").mkdir()
    for name in ("x.py", "inner/y.py"):
        (tmp_path / name).write_text(BROKEN)
    code, out, err = here("check-strategy", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def test_plain_words_say_what_each_strategy_does(here):
    """Each title is one line without a formula."""
    for name, words in json.loads(here("list", "strategies", "--json")[1]).items():
        assert words.endswith("."), name
        assert len(words) <= 90, name
        assert not set("∝ΣΔ←²=") & set(words), name


@pytest.mark.slow
def test_what_describe_prints_has_no_mark_up(here):
    for name in registry.names():
        out = here("describe", name)[1]
        assert ":mod:" not in out
        assert "::" not in out


def test_a_strategy_of_flowers_says_what_was_checked(here):
    code, out, err = here("check-strategy", "flwr.serverapp.strategy:FedYogi", "--set", "eta=0.1")
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    assert "the kit tests fedtoll's own interface; checked only that" in out


def test_the_template_is_a_file_of_ours_in_style(tmp_path):
    path, cls = template.write("my-strategy", tmp_path)
    text = path.read_text(encoding="utf-8")
    assert cls == "MyStrategy"
    assert "NAME" not in text
    assert "CLASS" not in text
    assert max(map(len, text.splitlines())) <= 110
    ruff = [sys.executable, "-m", "ruff"]
    for command in (["check", "--select", "E,F,W,I,B,UP"], ["format", "--check", "--line-length", "110"]):
        subprocess.run([*ruff, *command, path], check=True, capture_output=True)
