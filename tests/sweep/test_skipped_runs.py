"""Runs with skips: ledger, tables, statistics, and Flower's own strategies."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedtoll.cli import main
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.store import Store
from fedtoll.server.trainer import simulate
from fedtoll.sweep.executor import execute
from tests.peers.test_accounting import DISTRIBUTIONS, recomputed, spent_in
from tests.server.federation import (
    FEDAVG,
    TERM,
    TOML,
    Wrapped,
    planned,
)
from tests.server.test_skip import by_client, charged, lost, skipped, skipping

FLOWER = "flwr.serverapp.strategy:"


@pytest.mark.slow
def test_what_was_skipped_is_charged_and_an_outsider_finds_the_same(tmp_path):
    """ε does not depend on which clients replied, neither in the tables nor recomputed from them."""
    plan = planned(TERM, privacy={"epsilons": [2.0]}, training={"rounds": 3, "on_failure": "skip"})
    (run,) = plan.runs
    full, partial = simulate(run), federate(Wrapped(run, lost((1, 0), (2, 1), (3, 1), (3, 2))), run)
    assert len(skipped(partial)) == 4
    assert partial["ledger"].equals(full["ledger"])
    assert partial["clients"]["epsilon_spent"].equals(full["clients"]["epsilon_spent"])
    store = Store(tmp_path)
    store.write(run, partial)
    ledger = pd.read_parquet(tmp_path / "runs" / run.hash / "ledger.parquet")
    assert spent_in(ledger) == pytest.approx(recomputed(ledger, DISTRIBUTIONS), rel=5e-4)
    assert all(spent > 0.99 * 2 for (_, round), spent in spent_in(ledger).items() if round == 3)


def test_a_run_with_skips_is_finished(tmp_path, monkeypatch):
    plan = planned(FEDAVG, TERM, privacy={"epsilons": ["inf", 2.0]}, training={"on_failure": "skip"})
    send = LocalGrid.send_and_receive

    def lossy(self, messages, **options):
        replies = send(self, messages, **options)
        return replies if "roll-call" in replies[0].content else lost((1, 2))(replies, 1)

    monkeypatch.setattr(LocalGrid, "send_and_receive", lossy)
    done: list[str] = []
    store = Store(tmp_path)
    assert execute(plan.runs, store, executor="serial", finished=lambda r: done.append(r.hash)) == []
    assert sorted(done) == sorted(r.hash for r in plan.runs)
    assert not (tmp_path / "errors").exists()
    assert execute(plan.runs, store, executor="serial") == []


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["no column", "truncated", "gone"])
def test_a_damaged_table_of_a_run_ends_in_one_line_or_is_trained_again(tmp_path, monkeypatch, capsys, damage):
    monkeypatch.chdir(tmp_path)
    text = TOML.replace("[training]", '[training]\non_failure = "skip"')
    assert text != TOML
    Path("sex.toml").write_text(text)

    monkeypatch.setattr("sys.argv", ["fedtoll", "run", "sex.toml", "--executor", "serial", "--json"])

    def command() -> Any:
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    assert command() == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == 0
    (file,) = Path("results").glob("*/runs/*/clients.parquet")
    before = file.read_bytes()
    if damage == "no column":
        pd.read_parquet(file).drop(columns="skipped").to_parquet(file)
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.unlink()
    code, caught = command(), capsys.readouterr()
    if damage != "no column":  # a torn run
        assert code == 0
        assert json.loads(caught.out)["skipped"] == 0
        assert file.read_bytes() == before
        return
    assert (code, caught.out) == (2, "")
    (line,) = (x for x in caught.err.splitlines() if not x.endswith("runs are stored already"))
    assert re.match(r"fedtoll: results/\S+: cannot be read as results of fedtoll \(\w+: ", line)


# Statistics of clients that were skipped.


def test_a_client_without_a_statistic_waits_until_it_releases_it():
    run = skipping(training={"rounds": 6}, statistics={"every": 2})
    tables = federate(Wrapped(run, lost((1, 1), (5, 1))), run)
    assert skipped(tables) == {
        (1, 1): "the reply is missing",
        (2, 1): "its mean_loss is not known: it was skipped whenever it was due",
        (5, 1): "the reply is missing",
    }
    seen: Any = tables["clients"].pivot_table(index="round", columns="client", values="mean_loss")
    assert math.isnan(seen.loc[2, 1])
    assert seen.loc[4, 1] == seen.loc[3, 1] == seen.loc[6, 1]  # the last that was released
    assert seen.loc[6, 0] == seen.loc[5, 0] != seen.loc[3, 0]


@pytest.mark.parametrize(
    "partition", [{}, {"partition": {"kind": "iid", "clients": 3}}], ids=["groups", "mixed"]
)
def test_cells_of_a_statistic_are_undefined_where_a_client_was_not_there(partition, tmp_path):
    run = skipping({"name": "fedminmax"}, training={"rounds": 3}, **partition)
    tables = federate(Wrapped(run, lost((2, 2))), run)
    rows = by_client(tables)
    for column in ("group_loss", "group_loss_sd"):
        assert np.isnan(rows.loc[(2, 2), column]).all()
        assert len(rows.loc[(2, 2), column]) == len(rows.loc[(2, 1), column]) == 4
        assert np.isfinite(rows.loc[(3, 2), column]).all()
    Store(tmp_path).write(run, tables)
    again = Store(tmp_path).read(run.hash)
    assert len(again["clients"]) == 9


# Flower's own strategies.


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("FedAvg", {}),
        ("FedAvgM", {"server_momentum": 0.9}),
        ("FedAdam", {"eta": 0.05}),
        ("FedAdagrad", {}),
        ("FedProx", {"proximal_mu": 0.1}),
        ("FedYogi", {"eta": 0.01}),
        ("FedMedian", {}),
        ("FedTrimmedAvg", {"beta": 0.34}),
        ("MultiKrum", {"num_nodes_to_select": 2}),
    ],
)
def test_flowers_own_strategies_get_the_replies_that_are_there(name, parameters):
    run = skipping({"name": FLOWER + name, **parameters}, training={"rounds": 3})
    tables = federate(Wrapped(run, lost((2, 1))), run)
    assert skipped(tables) == {(2, 1): "the reply is missing"}
    assert np.isfinite(tables["groups"]["log_loss"]).all()
    assert tables["rounds"]["replies"].tolist() == [3, 2, 3]
    assert tables["clients"]["weight"].isna().all()  # Flower's strategies do not report weights
    assert tables["rounds"]["effective_noise"].isna().all()
    assert charged(run, tables)


def test_flowers_fedavg_is_ours_where_a_client_is_missing():
    def final(strategy):
        run = skipping(strategy, training={"rounds": 3, "precision": "float64"})
        return federate(Wrapped(run, lost((2, 1), (3, 2))), run)["predictions"]["score"]

    np.testing.assert_allclose(final({"name": FLOWER + "FedAvg"}), final(FEDAVG), rtol=0, atol=1e-9)
