"""Fixtures for all tests, one torch thread, no telemetry, and ``--shuffle SEED`` for a random order."""

from __future__ import annotations

import functools
import os
import random
import signal
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["FEDTOLL_PROGRESS"] = "off"  # on a slow machine, commands would say how far they are

from typing import Any
from unittest.mock import patch

import pytest
import typer.main
from hypothesis import HealthCheck, settings

import fedtoll  # noqa: F401  (switches telemetry, update checks and usage statistics off)
from fedtoll import cli
from fedtoll.scenarios import federation
from fedtoll.scenarios.data import SOURCES, load_table, source_of
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.read import read
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.plan import plan
from tests.shared import built_in_table

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it, children inherit that

settings.register_profile("fedtoll", settings(), suppress_health_check=[HealthCheck.too_slow])  # busy machine
settings.load_profile("fedtoll")

BUILT_IN = tuple(SOURCES.values())

SMALL = ("training.rounds=2", "training.local_steps=2", 'privacy.epsilons=["inf", 2]')


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run files and tests in random order")


def pytest_report_header(config: pytest.Config) -> str | None:
    seed = config.getoption("shuffle")
    return None if seed is None else f"random order: --shuffle {seed}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Count thorough tests among the slow ones, and shuffle if asked to.

    The files are shuffled, and the tests in each. Only the order is random: no test's seed changes.
    """
    for item in items:
        if item.get_closest_marker("thorough"):
            item.add_marker(pytest.mark.slow)
    if (seed := config.getoption("shuffle")) is not None:
        rng = random.Random(seed)
        place = {path: rng.random() for path in dict.fromkeys(item.path for item in items)}
        rng.shuffle(items)
        items.sort(key=lambda item: place[item.path])


@pytest.fixture(autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _built_in_records_once():
    """Resolve a federation of built-in records once per process: most tests share a few of them."""
    resolve = Federation.resolve
    known: dict[Any, Federation] = {}

    def once(data, split, partition, *, source=None, like=None):
        source = source_of(data) if source is None else source
        if all(source is not built_in for built_in in BUILT_IN):
            return resolve(data, split, partition, source=source, like=like)
        key = data, split, partition
        if key not in known:
            near = next((f for f in known.values() if f.data == data), None)
            known[key] = resolve(data, split, partition, source=source, like=near)
        return known[key]

    def load(source):
        return built_in_table(source.name) if source in BUILT_IN else load_table(source)

    with patch.object(Federation, "resolve", once), patch.object(federation, "load_table", load):
        yield


@pytest.fixture(autouse=True, scope="session")
def _command_line_once():
    """Read the signatures of all commands once per process, not at every call of a command: it takes .1 s."""
    with patch.object(typer.main, "get_command", functools.cache(typer.main.get_command)):
        yield


@pytest.fixture(scope="session")
def small() -> Scenario:
    """``adult-race`` with two rounds of two steps, ε = ∞ and 2, and two seeds."""
    return read("adult-race", SMALL, seeds="0:2")


@pytest.fixture(scope="session")
def runs(small) -> dict[tuple[str, str], Run]:
    """The runs of ``small`` with seed 0, by name of the strategy and mechanism."""
    return {
        (run.strategy.name.split("(")[0], run.mechanism): run
        for run in plan(small, "small.toml").runs
        if run.seed == 0
    }


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command line in this process and in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")  # regardless of the terminal and of other libraries

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fedtoll", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call
