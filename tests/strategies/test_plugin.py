"""A separate package that adds a strategy: installed, found by name, checked and run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from fedtoll.scenarios import plugins
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.strategies import registry
from fedtoll.strategies.base import Strategy
from tests.server.federation import TOML

SOURCE = Path(__file__).parent / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Return a folder in which the package is installed."""
    made = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(SOURCE, made / "source", ignore=shutil.ignore_patterns("__pycache__"))
    options = "--quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation --target"
    command = [sys.executable, "-m", "pip", "install", *options.split(), made / "site", source]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(source)
    return made / "site"


def fedtoll(site, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "fedtoll.cli", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(site)},
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_it_is_listed_and_described(site, tmp_path):
    code, out, err = fedtoll(site, "list", "strategies", "--json", cwd=tmp_path)
    assert (code, err) == (0, "")
    names = json.loads(out)
    assert names["capped-size"] == "FedAvg with client sizes capped: p_k ∝ min(n_k, cap)."
    assert "fedavg" in names
    code, out, _ = fedtoll(site, "describe", "capped-size", cwd=tmp_path)
    assert code == 0
    assert "Parameters: cap = 1000" in out


@pytest.mark.slow
@pytest.mark.parametrize("way", ["name", "module", "file"])
def test_it_conforms_by_each_of_the_three_ways_in(site, tmp_path, way):
    ways = {
        "name": "capped-size",
        "module": "tollbooth:CappedSize",
        "file": f"{site}/tollbooth.py:CappedSize",
    }
    code, out, err = fedtoll(site, "check-strategy", ways[way], "--set", "cap=50", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "FAILED" not in out
    assert out.count("\nok ") > 10


@pytest.mark.slow
def test_it_runs_by_its_name_and_its_source_is_in_the_results(site, tmp_path):
    (tmp_path / "sex.toml").write_text(TOML)
    strategies = 'strategies=[{name="fedavg"}, {name="capped-size", cap=50}]'
    changes = ["--set", strategies, "--set", 'privacy.epsilons=["inf", 8]']
    options = ["--executor", "serial", "--out", "here"]
    code, out, err = fedtoll(site, "run", "sex.toml", *changes, *options, cwd=tmp_path)
    assert code == 0, err
    assert "capped-size(cap=50)" in out
    digest = registry.resolve(f"{site}/tollbooth.py:CappedSize")[1]
    runs = [path.read_text() for path in tmp_path.glob("here/runs/*/run.json")]
    assert sum("tollbooth:CappedSize" in run and digest in run for run in runs) == len(runs) / 2


def distribution(folder, name, version, *entries):
    """Install a distribution that consists of entry points."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("\n".join(["[fedtoll.strategies]", *entries, ""]))


def test_two_packages_with_one_name_are_refused_and_both_named(tmp_path, monkeypatch):
    distribution(tmp_path / "a", "north", "1.0", "twin = fedtoll.strategies.fedavg:FedAvg", "own = x:X")
    distribution(tmp_path / "b", "south", "2.1", "twin = fedtoll.strategies.uniform:Uniform")
    monkeypatch.syspath_prepend(tmp_path / "a")
    assert registry.resolve("twin") == ("fedtoll.strategies.fedavg:FedAvg", "")
    monkeypatch.syspath_prepend(tmp_path / "b")
    with pytest.raises(ScenarioError) as caught:
        registry.resolve("twin")
    assert "'twin' is the name of a strategy in north 1.0 and in south 2.1" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert issubclass(registry.load(registry.resolve("fedavg")[0]), Strategy)


def test_nobody_takes_the_name_of_a_strategy_of_ours(tmp_path, monkeypatch):
    distribution(tmp_path, "usurper", "0.1", "fedavg = fedtoll.strategies.uniform:Uniform")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ScenarioError, match=r"'fedavg' is the name of a strategy in fedtoll .* and in usurper"
    ):
        registry.resolve("fedavg")
    assert registry.resolve("uniform") == ("fedtoll.strategies.uniform:Uniform", "")


@pytest.mark.slow
def test_a_broken_or_doubled_strategy_leaves_the_others_be(here, tmp_path, monkeypatch):
    (tmp_path / "boom.py").write_text("1 / 0\n")
    broken = ["broken = boom:Strategy", "gone = no_such_package:X", "shapeless = boom"]
    distribution(tmp_path / "a", "north", "1.0", "twin = fedtoll.strategies.fedavg:FedAvg", *broken)
    distribution(tmp_path / "b", "south", "2.1", "twin = fedtoll.strategies.uniform:Uniform")
    for folder in ("", "a", "b"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    code, out, err = here("list", "strategies")
    assert (code, err) == (0, "")
    told = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert told["uniform"] == "Gives every client the same weight, whatever its size."
    for name, words in {
        "twin": "'twin' is the name of a strategy in north 1.0 and in south 2.1",
        "broken": "'boom:Strategy' raises when imported: ZeroDivisionError",
        "gone": "'no_such_package:X' cannot be imported",
        "shapeless": "",
    }.items():
        assert told[name].startswith(f"cannot be loaded: {words}")
        code, out, err = here("describe", name)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
    for name in ("fedavg", "adult", "adult-race", "log_loss"):
        assert here("describe", name)[0] == 0
    assert here("new-strategy", "my-strategy")[0] == 0
    assert here("new-strategy", "twin")[0] == 2


def test_a_package_that_is_found_twice_is_one_package(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        distribution(tmp_path / folder, "north", "1.0", "twin = fedtoll.strategies.fedavg:FedAvg")
        monkeypatch.syspath_prepend(tmp_path / folder)
    assert registry.resolve("twin") == ("fedtoll.strategies.fedavg:FedAvg", "")


def test_packages_are_read_again_only_after_a_change(tmp_path, monkeypatch):
    read: list[str] = []

    def counted(group):
        read.append(group)
        return entry_points(group=group)

    monkeypatch.setattr(plugins, "entry_points", counted)
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        with pytest.raises(ScenarioError, match="'late' is unknown"):
            registry.resolve("late")
    assert len(read) == 1
    distribution(tmp_path, "north", "1.0", "late = fedtoll.strategies.fedavg:FedAvg")
    for _ in range(2):
        assert registry.resolve("late") == ("fedtoll.strategies.fedavg:FedAvg", "")
    assert len(read) == 2
