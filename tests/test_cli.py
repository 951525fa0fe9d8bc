"""The command line as users see it: exit codes, one-line errors, nothing half written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

import fedtoll as package
from fedtoll import cli
from fedtoll.commands import report
from fedtoll.scenarios.read import library

BASE = library()["adult-race"].read_text(encoding="utf-8")
QUICK = [
    "--set",
    "training.rounds=2",
    "--set",
    "training.local_steps=2",
    "--set",
    'privacy.epsilons=["inf", 2]',
]


def fedtoll(*arguments, cwd, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "fedtoll.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1", **environment},
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_version(tmp_path):
    assert fedtoll("--version", cwd=tmp_path) == (0, "fedtoll 0.1.0\n", "")


@pytest.mark.slow
def test_help_takes_under_half_a_second_of_processor_time(tmp_path):
    def once():
        before = os.times()
        code, out, _ = fedtoll("--help", cwd=tmp_path)
        after = os.times()
        assert code == 0
        assert "run" in out
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(once() for _ in range(3)) < 0.5


def test_the_command_line_imports_nothing_heavy(tmp_path):
    heavy = {"torch", "flwr", "opacus", "pandas", "fairlearn", "ray", "altair"}
    code = f"import sys, fedtoll.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_a_report_and_a_comparison_import_neither_torch_nor_flower(tmp_path):
    code = (
        "import sys; from fedtoll.report.folder import write_report; from fedtoll.server.results import load;"
        "from fedtoll.toll import two_folders; print({'torch', 'flwr'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def commands(command, path=()):
    """Yield the words of every command and group of the command line."""
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("command", list(commands(get_command(cli.app))), ids=" ".join)
def test_help_fits_the_terminal_and_has_no_escaped_brackets(here, monkeypatch, command, width):
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = here(*command, "--help")
    assert (code, err) == (0, "")
    assert "Usage: " in out
    assert "\\" not in out
    assert max(map(len, out.splitlines())) <= width
    if command in {("run",), ("audit",), ("report",)}:
        assert "  [required]" in out


@pytest.mark.parametrize("kind", ["scenarios", "findings", "strategies", "mechanisms", "data", "measures"])
def test_list_and_describe(here, kind):
    code, out, err = here("list", kind, "--json")
    assert (code, err) == (0, "")
    names = json.loads(out)
    assert names
    code, plain, _ = here("list", kind)
    assert code == 0
    assert all(name in plain for name in names)
    first = next(iter(names))
    code, out, _ = here("describe", first)
    assert code == 0
    assert len(out) > 20


def test_describe_toml_prints_a_scenario_to_copy(here, tmp_path):
    code, out, _ = here("describe", "adult-race", "--toml")
    assert (code, out) == (0, BASE)
    (tmp_path / "mine.toml").write_text(out)
    assert here("check", "mine.toml")[:2] == (
        0,
        "mine.toml: valid, 150 runs, and as many with the constants that [tune] chooses\n",
    )


def test_check_says_that_a_public_start_cannot_be_tuned(here):
    code, out, _ = here("check", "adult-race", "--set", 'training.start="public"')
    assert (code, out.startswith("adult-race.toml: valid, 150 runs, with --no-tune: ")) == (0, True)


def test_a_finding_is_described_with_its_source_settings_and_claims(here, tmp_path):
    code, out, err = here("describe", "poor-become-poorer")
    assert (code, err) == (0, "")
    assert "\nsource      Kulynych, " in out
    assert "            federated: 13 clients of one race each\n" in out
    claim = "At ε = 1 the three smallest groups lose on average about three times as much as White people"
    assert f"\nClaim: {claim} (published: 17.9 / 5.6 = 3.2).\n" in out
    assert out.endswith("fedtoll findings poor-become-poorer checks the claims.\n")
    code, text, _ = here("describe", "poor-become-poorer", "--toml")
    assert (code, text.count("[[claim]]")) == (0, out.count("\nClaim: "))
    (tmp_path / "mine.toml").write_text(text)
    assert here("check", "mine.toml")[:2] == (
        0,
        "mine.toml: valid, 100 runs, and as many with the constants that [tune] chooses\n",
    )


BAD = {
    "unknown key": ("clip = 3.0", "clipp = 3.0", ["training.clipp", "'clip'"]),
    "ε of 0": ("8, 2, 1, 0.5", "0", ["privacy.epsilons[1] = 0"]),
    "negative ε": ("8, 2, 1, 0.5", "-2", ["privacy.epsilons[1] = -2"]),
    "ε is no number": ("8, 2, 1, 0.5", '"much"', ["privacy.epsilons[1] = 'much'"]),
    "unknown group column": ('groups = ["race"]', 'groups = ["rase"]', ["data.groups = 'rase'", "'race'"]),
    "unknown source": ('source = "adult"', 'source = "adults"', ["'adults'", "'adult'"]),
    "unknown excluded column": (
        'groups = ["race"]',
        'groups = ["race"]\nexclude = ["raze"]',
        ["'raze'", "'race'"],
    ),
    "unknown strategy": ('name = "uniform"', 'name = "unifrom"', ["'unifrom'", "'uniform'"]),
    "unknown parameter": ("t = 5.0", "tt = 5.0", ["'tt'", "'t'"]),
    "wrong parameter": ("t = 5.0", "t = -5.0", ["t = -5.0"]),
    "group with no record": ("Black = 2", "Blak = 2", ["'Blak' has no record", "'Black'"]),
    "more clients than records": ("Black = 2", "Black = 100000", ["Black"]),
    "a budget that statistics exceed": ("8, 2, 1, 0.5", "0.01", ["0.01", "cannot be reached"]),
    "name with ../": ('name = "adult-race"', 'name = "../evil"', ["'../evil'"]),
    "not TOML": ("[data]", "[data", ["not a TOML file"]),
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_input_is_one_clear_line_and_nothing_is_written(here, tmp_path, mistake):
    old, new, words = BAD[mistake]
    (tmp_path / "mine.toml").write_text(BASE.replace(old, new, 1))
    code, out, err = here("run", "mine.toml")
    assert (code, out) == (2, "")
    assert err.startswith("fedtoll: mine.toml: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "adult-rase"], ["'adult-race'"]),
        (["run", "adult-race", "--executor", "process"], ["'processes'"]),
        (["run", "adult-race", "--grid", "flowers"], ["'flower'"]),
        (["run", "adult-race", "--seeds", "5"], ["seeds", "range"]),
        (["run", "adult-race", "--set", "x"], ["key=value"]),
        (["run", "adult-race", "--out", "/proc/none"], ["/proc/none", "cannot be written"]),
        (["run"], ["Missing argument"]),
        (["runn"], ["no command 'runn'; did you mean 'run'?"]),
        (["train", "adult-race"], ["no command 'train'; did you mean 'run'?"]),
        (["run", "adult-race", "--epsilon", "1"], ["""did you mean --set 'privacy.epsilons=["inf", 1]'?"""]),
        (["run", "adult-race", "--sed", "0:2"], ["no option --sed; did you mean --seeds?"]),
        (["run", "adult-race", "--foo"], ["no option --foo; --help lists the options"]),
        (
            ["run", "adult-race", "--set", "training.participation=0.5"],
            ["a section of its own: [participation]"],
        ),
        (["status", "."], ["no results"]),
        (["describe", "zzz"], ["fedtoll list shows all names"]),
        (["describe", "none.toml"], ["no such file"]),
        (["report", "."], ["no results"]),
        (["list", "scenario"], ["'scenarios'"]),
        (["describe", "adul"], ["'adult'"]),
    ],
)
def test_wrong_usage_is_one_line(here, tmp_path, arguments, words):
    code, out, err = here(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert err.count("did you mean") <= 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [(), ("-h",), ("data",), ("federation",), ("run", "-h"), ("data", "-h")])
def test_a_bare_command_and_h_print_help(here, command):
    code, out, err = here(*command)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: ")


@pytest.mark.slow
def test_list_alone_lists_all_kinds(here):
    code, out, err = here("list")
    assert (code, err) == (0, "")
    for kind, name in (("scenarios", "adult-race"), ("strategies", "fedavg"), ("measures", "log_loss")):
        assert f"\n{kind} (" in f"\n{out}"
        assert f"\n  {name} " in out
    assert json.loads(here("list", "--json")[1])["data"]["adult"]


def test_a_scenario_file_is_described(here, tmp_path):
    (tmp_path / "mine.toml").write_text(BASE)
    code, out, err = here("describe", "mine.toml")
    assert (code, err) == (0, "")
    assert out == here("describe", "adult-race")[1].replace(
        "describe adult-race", "describe mine.toml"
    ).replace("run adult-race", "run mine.toml")
    assert here("describe", "mine.toml", "--toml")[1] == BASE


def test_completion_can_be_shown(here):
    assert "--show-completion" in here("--help")[1]


def test_the_report_opens_in_a_browser(monkeypatch, tmp_path, capsys):
    opened: list[str] = []

    def browser(address: str) -> bool:
        opened.append(address)
        return len(opened) == 1

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("webbrowser.open", browser)
    report.open_in_browser(Path("report.html"))
    assert opened == [(tmp_path / "report.html").as_uri()]
    report.open_in_browser(Path("report.html"))
    assert capsys.readouterr().err == "fedtoll: no browser found; open report.html\n"


def test_dry_run_prints_grid_noise_and_time_and_writes_nothing(here, tmp_path):
    code, out, _ = here("run", "adult-race", *QUICK, "--seeds", "0:2", "--dry-run")
    assert code == 0
    assert "12 runs = 3 strategies x 2 ε x 2 seeds" in out
    assert "Amer-Indian-Eskimo" in out
    assert "expected time" in out
    code, out, _ = here("run", "adult-race", *QUICK, "--dry-run", "--json")
    noise = json.loads(out)["noise"]
    assert len(noise) == 3 * 13
    assert all(1.99 < row["epsilon_spent"] <= 2 for row in noise)
    assert not list(tmp_path.iterdir())


def _tables(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(Path(folder).rglob("*.parquet"))}


@pytest.mark.slow
def test_run_report_and_resume(here, tmp_path):
    arguments = [
        "run",
        "adult-race",
        *QUICK,
        "--no-tune",
        "--seeds",
        "0:2",
        "--set",
        'strategies=[{name="term"}]',
        "--out",
        "here",
    ]
    # One process: test_resume.py runs the command with its workers.
    code, out, err = fedtoll(*arguments, "--workers", "1", cwd=tmp_path)
    assert code == 0, err
    assert "Asian-Pac-Islander" in out
    assert "report: here/report.html" in out
    first = _tables(tmp_path / "here")
    assert len(first) == 4 * 5
    assert (tmp_path / "here/report.html").stat().st_size > 100_000
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "here").rglob("*.parquet")}

    # From here on in this process, to import everything only once.
    started = time.monotonic()
    code, out, err = here(*arguments, "--json")
    assert code == 0, err
    assert "4 of 4 runs are stored already" in err
    assert json.loads(out)["runs"] == 4
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "here").rglob("*.parquet")} == stamps
    assert time.monotonic() - started < 60

    code, _, err = here(*arguments[:-1], "again", "--executor", "serial")
    assert code == 0, err
    assert _tables(tmp_path / "again") == first

    code, out, _ = here("report", "here")
    assert code == 0
    assert "report: here/report.html" in out


@pytest.mark.slow
def test_python_door(tmp_path):
    quick = ["training.rounds=1", 'privacy.epsilons=["inf"]']
    folder = tmp_path / "here"
    results = package.run(
        "adult-race", out=folder, overrides=quick, seeds="0:1", executor="serial", tune=False
    )
    again = package.load(folder)
    assert results.groups.equals(again.groups)
    assert set(again.groups.strategy) == {"fedavg", "uniform", "term(clip=1, t=5)"}
