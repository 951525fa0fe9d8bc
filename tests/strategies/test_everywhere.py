"""Every installed strategy in real runs: both engines, with and without privacy, one group each or mixed."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from fedtoll.privacy import accounting
from fedtoll.server.trainer import simulate
from fedtoll.strategies import registry
from tests.peers.test_accounting import DISTRIBUTIONS, google, integrated, rdp, recomputed, spent_in
from tests.server.federation import planned

MIXED = {"kind": "iid", "clients": 3}
STRATEGIES = sorted(registry.names())

GOOGLE = cache(google(rdp(accounting.ORDERS)))
"""dp-accounting's ε of a ledger's rows; many strategies have the same rows."""

TIGHT = cache(DISTRIBUTIONS)


def test_all_of_tier_one_is_installed():
    assert set(STRATEGIES) >= {
        "fedavg", "uniform", "fedprox", "fedavgm", "fedadam", "fedyogi", "q-fedavg", "term", "afl",
        "fedminmax", "fairfed", "inverse-variance", "robust-hdp", "epsilon-weighted", "noise-fair",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("epsilon", "partition"),
    [
        pytest.param("inf", {}, id="inf-one group each"),
        pytest.param(1.0, MIXED, id="1.0-mixed"),
        pytest.param("inf", MIXED, id="inf-mixed", marks=pytest.mark.slow),
        pytest.param(1.0, {}, id="1.0-one group each", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_runs_everywhere_with_the_total_asked_for(strategy, epsilon, partition):
    tables: dict[str, Any] = {}
    for engine in ("cohort", "opacus"):
        change: dict[str, Any] = {"training": {"engine": engine, "rounds": 3, "precision": "float64"}}
        change["privacy"] = {"epsilons": [epsilon], "accountant": "rdp" if partition else "pld"}
        change |= {"partition": partition} if partition else {}
        (run,) = planned({"name": strategy}, **change).runs
        tables[engine] = simulate(run)
        groups = tables[engine]["groups"]
        assert np.isfinite(groups["log_loss"]).all()
        weights = tables[engine]["clients"].groupby("round")["weight"].sum()
        assert weights.to_numpy() == pytest.approx(1.0)
        shares = groups[(groups["round"] > 0) & (groups["group"] != "(all)")].groupby("round")["weight"].sum()
        assert shares.to_numpy() == pytest.approx(1.0)
    ledger, same = (t["ledger"] for t in tables.values())
    assert ledger.equals(same)
    if epsilon == "inf":
        assert (ledger["epsilon_spent"] == math.inf).all()
    else:
        ours = spent_in(ledger)
        if run.accountant == "rdp":
            assert ours == pytest.approx(recomputed(ledger, integrated), rel=1e-6)
            # dp-accounting itself, whose bound at orders that are not whole is a little looser.
            for key, spent in recomputed(ledger, GOOGLE, last_only=True).items():
                assert spent * (1 - 1e-3) < ours[key] <= spent * (1 + 1e-9)
        else:
            for key, spent in recomputed(ledger, TIGHT, last_only=True).items():
                assert ours[key] == pytest.approx(spent, rel=5e-4)
        assert all(spent <= 1.0 for spent in ours.values())
        assert all(spent > 0.99 for (_, round), spent in ours.items() if round == 3)
    one_, other = (t["groups"]["log_loss"].to_numpy() for t in tables.values())
    assert one_ == pytest.approx(other, abs=1e-9)  # the engines agree
