"""Our ε, recomputed by an outsider from the ledger table alone.

Two oracles: Google's dp-accounting, and Rényi divergences integrated numerically from their definition.
At whole orders all three agree. At fractional orders dp-accounting 0.6 bounds the series from above (by
2e-4 at q = .1, σ = 1, order 4.2; by 1.5e-2 at order 2.5), while ours equals the integral to 1e-11.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dp_accounting import (
    DpEvent,
    GaussianDpEvent,
    NeighboringRelation,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy.special import logsumexp

from fedtoll.privacy import accounting
from fedtoll.server.trainer import simulate
from tests.peers.conftest import WHOLE
from tests.server.federation import FEDAVG, TERM, planned, single_run

ADD_OR_REMOVE = NeighboringRelation.ADD_OR_REMOVE_ONE

Spent = dict[tuple[int, int], float]
Row = tuple[str, float, float, int]
Outsider = Callable[[tuple[Row, ...], float], float]


def recomputed(ledger: pd.DataFrame, outsider: Outsider, last_only: bool = False) -> Spent:
    """Return the ε of every client and round from the rows up to that round, once for equal ledgers."""
    spent: Spent = {}
    known: dict[tuple[Row, ...], float] = {}
    columns = ["release", "sampling_rate", "noise_multiplier", "count"]
    for client, rows in ledger.groupby("client"):
        rounds = sorted(rows["round"].unique())
        for last in rounds[-1:] if last_only else rounds:
            key = tuple(rows[rows["round"] <= last][columns].itertuples(index=False, name=None))
            if key not in known:
                known[key] = outsider(key, float(rows["delta"].iloc[0]))
            spent[int(str(client)), int(last)] = known[key]
    return spent


def spent_in(ledger: pd.DataFrame) -> Spent:
    first = ledger.groupby(["client", "round"])["epsilon_spent"].first().reset_index()
    return {(int(c), int(r)): float(e) for c, r, e in first.itertuples(index=False)}


def google(make: Callable[[], Any]) -> Outsider:
    def outsider(rows: tuple[Row, ...], delta: float) -> float:
        account = make()
        for release, rate, noise, count in rows:
            event: DpEvent = GaussianDpEvent(noise)
            if release == "dp-sgd":
                event = PoissonSampledDpEvent(rate, event)
            else:
                assert rate == 1  # statistics use all records
            account.compose(SelfComposedDpEvent(event, int(count)))
        return float(account.get_epsilon(delta))

    return outsider


def rdp(orders: Sequence[float]) -> Callable[[], RdpAccountant]:
    return lambda: RdpAccountant(orders=list(orders), neighboring_relation=ADD_OR_REMOVE)


@cache
def divergence(order: float, rate: float, noise: float) -> float:
    """Return the Rényi divergence of (1 − q) N(0, σ²) + q N(1, σ²) from N(0, σ²), by the trapezoidal rule.

    Mironov, Talwar and Zhang 2019, theorem 4: it bounds both adding and removing a record.
    """
    z = np.linspace(-30 * noise, order + 30 * noise, 20_001)
    log_density = -(z**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
    log_base = math.log1p(-rate) if rate < 1 else -math.inf
    log_ratio = np.logaddexp(log_base, math.log(rate) + (2 * z - 1) / (2 * noise**2))
    return float(logsumexp(log_density + order * log_ratio) + math.log(z[1] - z[0])) / (order - 1)


@cache
def integrated(rows: tuple[Row, ...], delta: float) -> float:
    """Return ε by Balle et al. 2020, theorem 21, from the integrated divergences at all of our orders."""
    bounds = []
    for order in accounting.ORDERS:
        total = sum(count * divergence(order, rate, noise) for _, rate, noise, count in rows)
        bounds.append(total + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1))
    return max(0.0, min(bounds))


EVERYTHING: dict[str, Any] = {"name": "tests.server.asks:Everything"}

CASES: dict[str, tuple[dict[str, Any], float, dict[str, Any], dict[str, Any]]] = {
    "fedavg": (FEDAVG, 2.0, {}, {}),
    "fedavg, small ε": (FEDAVG, 0.3, {"sampling_rate": 0.05, "local_steps": 5}, {}),
    "fedavg, whole batches": (FEDAVG, 8.0, {"sampling_rate": 1.0, "local_steps": 1}, {}),
    "fedavg, sizes differ": (FEDAVG, 1.0, {"sampling_rate": None, "batch_size": 64}, {}),
    "term": (TERM, 2.0, {}, {}),
    "term, many rounds": (TERM, 4.0, {"rounds": 6, "local_steps": 1}, {}),
    "term, costly statistic": (TERM, 3.0, {"sampling_rate": 0.03}, {"noise_multiplier": 4.0}),
    "term, a share of ε": (TERM, 1.0, {"rounds": 5}, {"budget_share": 0.3, "every": 2}),
    "six statistics": (EVERYTHING, 2.0, {"rounds": 3}, {"budget_share": 0.1}),
}


def ledger_of(case: str) -> tuple[pd.DataFrame, float]:
    strategy, epsilon, training, statistics = CASES[case]
    privacy = {"epsilons": [epsilon], "accountant": "rdp"}
    (run,) = planned(strategy, training=training, privacy=privacy, statistics=statistics).runs
    ledger = simulate(run)["ledger"]
    kinds = {"dp-sgd": 3 * run.rounds} | {s.name: 3 * s.releases(run.rounds) for s in run.statistics}
    assert ledger.groupby("release").size().to_dict() == kinds
    assert set(ledger["accountant"]) == {"rdp"}
    assert set(ledger["delta"]) == {1e-5}
    return ledger, epsilon


@pytest.mark.parametrize("case", CASES)
def test_every_spent_epsilon_follows_from_the_ledger_table(case):
    ledger, epsilon = ledger_of(case)
    ours = spent_in(ledger)
    assert ours == pytest.approx(recomputed(ledger, integrated), rel=1e-6)
    last = max(r for _, r in ours)
    for (_, round), spent in ours.items():
        assert spent <= epsilon
        assert round < last or spent > 0.99 * epsilon  # the budget is used up


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_at_whole_orders_it_equals_dp_accounting(case, whole_orders):
    ledger, _ = ledger_of(case)
    assert spent_in(ledger) == pytest.approx(recomputed(ledger, google(rdp(WHOLE))), rel=1e-6)


def test_the_share_of_the_statistics_is_what_they_spend_alone():
    ledger, epsilon = ledger_of("term, a share of ε")
    alone = ledger[ledger["release"] != "dp-sgd"]
    for spent in recomputed(alone, integrated, last_only=True).values():
        assert spent == pytest.approx(0.3 * epsilon, rel=1e-3)


@pytest.mark.parametrize("case", ["fedavg", "term, costly statistic"])
def test_at_all_orders_it_is_at_most_dp_accountings_and_near_it(case):
    ledger, _ = ledger_of(case)
    ours = spent_in(ledger)
    for key, theirs in recomputed(ledger, google(rdp(accounting.ORDERS)), last_only=True).items():
        assert theirs * (1 - 1e-3) < ours[key] <= theirs * (1 + 1e-9)


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(0.6, 0.02, 4), (1.0, 0.1, 10), (5.0, 1.0, 3), (40.0, 0.5, 2)]
)
def test_a_given_noise_multiplier_without_calibration(noise, rate, steps, whole_orders):
    run = single_run(FEDAVG, 2.0).model_copy(update={"accountant": "rdp"})
    stated = {"noise_multiplier": noise, "sampling_rate": rate, "steps": steps}
    clients = tuple(c.model_copy(update={**stated, "batch_size": rate * c.size}) for c in run.clients)
    ledger = simulate(run.model_copy(update={"clients": clients}))["ledger"]
    assert spent_in(ledger) == pytest.approx(recomputed(ledger, google(rdp(WHOLE))), rel=1e-6)


DISTRIBUTIONS = google(lambda: PLDAccountant(neighboring_relation=ADD_OR_REMOVE))
"""dp-accounting's tight bound of a ledger's rows."""


@pytest.mark.slow
@pytest.mark.parametrize(("accountant", "close"), [("prv", 0.02), ("pld", 5e-4)])
def test_the_tight_accountants_are_near_the_exact_epsilon(accountant, close):
    """PRV and PLD against dp-accounting's PLD, all upper bounds, and below RDP's."""
    run = single_run(TERM, 2.0)
    assert run.accountant == "pld"
    tight, renyi = (
        simulate(run.model_copy(update={"accountant": name}))["ledger"] for name in (accountant, "rdp")
    )
    for key, theirs in recomputed(tight, DISTRIBUTIONS, last_only=True).items():
        assert spent_in(tight)[key] == pytest.approx(theirs, abs=close)
        assert spent_in(tight)[key] < spent_in(renyi)[key]


@pytest.mark.parametrize("epsilon", ["inf", "clip-only"])
def test_releases_without_noise_cost_infinity(epsilon):
    ledger = simulate(single_run(TERM, epsilon))["ledger"]
    assert (ledger["noise_multiplier"] == 0).all()
    assert (ledger["epsilon_spent"] == math.inf).all()
    assert set(ledger["accountant"]) == {"none"}
    assert ledger["delta"].isna().all()
