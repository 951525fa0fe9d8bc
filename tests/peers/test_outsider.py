"""The script of docs/threat-model.md recomputes every ε from a results folder alone."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from fedtoll.server.store import Store
from fedtoll.server.trainer import simulate
from fedtoll.strategies import registry
from tests.server.federation import TOML, planned

PAGE = (Path(__file__).parents[2] / "docs/threat-model.md").read_text(encoding="utf-8")
OURS = sorted(n for n in registry.names() if registry.resolve(n)[0].startswith("fedtoll."))


def script() -> str:
    (found,) = re.findall(r"^```python\n(# recompute\.py.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def recomputed(folder, capsys, monkeypatch) -> list[tuple[float, float]]:
    """Return what the script prints for each run and client: the ledger's ε and its own."""
    monkeypatch.setattr(sys, "argv", ["recompute.py", str(folder)])
    exec(compile(script(), "recompute.py", "exec"), {"__name__": "__main__"})
    lines = capsys.readouterr().out.splitlines()
    return [(float(ours), float(theirs)) for _, _, ours, theirs in (line.split() for line in lines)]


def stored(folder: Path, accountant: str, *names: str) -> int:
    """Store real results of these strategies at two ε; return the number of private clients."""
    privacy = {"epsilons": ["inf", 3.0, 0.7], "accountant": accountant}
    plan = planned(*({"name": n} for n in names), privacy=privacy)
    store = Store(folder)
    store.open(plan, TOML, "fedtoll run sex.toml")
    for run in plan.runs:
        store.write(run, simulate(run))
    return sum(len(run.clients) for run in plan.runs if run.mechanism == "dp-sgd")


def test_the_script_is_short():
    assert len(script().splitlines()) <= 20
    assert len(OURS) >= 14


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_the_oracle_agrees_at_the_same_orders(name, tmp_path, capsys, monkeypatch, whole_orders):
    clients = stored(tmp_path, "rdp", name)
    pairs = recomputed(tmp_path, capsys, monkeypatch)
    assert len(pairs) == clients
    for ours, theirs in pairs:
        assert ours > 0.5
        assert theirs == pytest.approx(ours, rel=1e-6)


@pytest.mark.slow
def test_with_fractional_orders_the_oracle_is_a_little_above(tmp_path, capsys, monkeypatch):
    clients = stored(tmp_path, "rdp", "term")
    pairs = recomputed(tmp_path, capsys, monkeypatch)
    assert len(pairs) == clients
    for ours, theirs in pairs:
        assert theirs * (1 - 1e-3) < ours <= theirs * (1 + 1e-9)


SLOW = ("fairfed", "fedfb", "fedminmax", "fpfl", "puffle")
"""Strategies that ask for statistics of other kinds than ``term``; the rest repeat one of these."""


def _mark(name: str) -> Any:
    marks = () if name == "term" else pytest.mark.slow if name in SLOW else pytest.mark.thorough
    return pytest.param(name, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize("name", map(_mark, OURS))
def test_the_oracle_agrees_on_distributions(name, tmp_path, capsys, monkeypatch):
    clients = stored(tmp_path, "pld", name)
    pairs = recomputed(tmp_path, capsys, monkeypatch)
    assert len(pairs) == clients
    for ours, theirs in pairs:
        assert ours > 0.5
        assert theirs == pytest.approx(ours, rel=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("trust", ["secure-aggregation", "central"])
def test_the_oracle_agrees_where_the_server_sees_sums(trust, tmp_path, capsys, monkeypatch):
    privacy = {"epsilons": [3.0, 0.7], "trust": trust}
    training = {"local_steps": 1, "batch_size": 150, "sampling_rate": None}
    plan = planned({"name": "fedminmax"}, privacy=privacy, training=training)
    store = Store(tmp_path)
    store.open(plan, TOML, "fedtoll run sex.toml")
    for run in plan.runs:
        store.write(run, simulate(run))
    pairs = recomputed(tmp_path, capsys, monkeypatch)
    assert len(pairs) == 2 * 3
    assert max(ours for ours, _ in pairs) == pytest.approx(3.0, rel=1e-3)  # of the client with the largest q
    assert len({round(ours, 3) for ours, _ in pairs}) > 2
    for ours, theirs in pairs:
        assert theirs == pytest.approx(ours, rel=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trust", "participation", "clients"),
    [
        ("central", {"kind": "poisson", "rate": 0.4}, 1),  # one line a round for all clients
        ("secure-aggregation", {"kind": "fraction", "fraction": 0.7}, 3),
    ],
    ids=["hidden", "seen"],
)
@pytest.mark.parametrize("name", ["fedavg", "fedminmax"])
def test_the_oracle_agrees_where_a_client_is_the_unit(
    name, trust, participation, clients, tmp_path, capsys, monkeypatch
):
    privacy = {"epsilons": [3.0, 0.7], "trust": trust, "unit": "client", "adaptive_clip": 0.5}
    every = {"every": 2} if name == "fedminmax" else {}
    plan = planned({"name": name}, privacy=privacy, participation=participation, statistics=every)
    store = Store(tmp_path)
    store.open(plan, TOML, "fedtoll run sex.toml")
    for run in plan.runs:
        store.write(run, simulate(run))
    pairs = recomputed(tmp_path, capsys, monkeypatch)
    assert len(pairs) == 2 * clients
    assert max(ours for ours, _ in pairs) == pytest.approx(3.0, rel=1e-3)
    for ours, theirs in pairs:
        assert theirs == pytest.approx(ours, rel=2e-4)
