"""Accounting: golden values, edge cases, calibration and its cache."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest

from fedtoll.privacy import loss_distribution
from fedtoll.privacy.accounting import ACCOUNTANTS, Event, calibrate, epsilon, record_epsilon
from fedtoll.privacy.breakdown import breakdown
from fedtoll.scenarios.errors import ScenarioError

DELTA = 1e-5
GOLDEN = [  # q, σ, T, RDP, PRV, PLD
    (0.02, 1.0, 1000, 4.324, 3.909, 3.899),
    (0.1, 1.0, 1000, 27.16, 25.22, 25.205),
    (1.0, 1.0, 100, 96.12, 91.83, 91.82),
]


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize("rate", [-0.1, 1.5, math.nan])
def test_a_rate_that_is_no_probability_is_an_error(rate, accountant):
    """Such a release was left out of the composition."""
    with pytest.raises(ValueError, match="sampling rate"):
        epsilon([Event(0.1, rate, 10), Event(100.0)], DELTA, accountant)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDTOLL_DATA", str(tmp_path))
    return tmp_path / "budget"


@pytest.mark.slow
@pytest.mark.parametrize(("q", "sigma", "steps", "rdp", "prv", "pld"), GOLDEN)
def test_golden_values(q, sigma, steps, rdp, prv, pld):
    assert epsilon([Event(sigma, q, steps)], DELTA, "rdp") == pytest.approx(rdp, rel=1e-3)
    assert epsilon([Event(sigma, q, steps)], DELTA, "prv") == pytest.approx(prv, rel=1e-3)
    assert epsilon([Event(sigma, q, steps)], DELTA, "pld") == pytest.approx(pld, rel=3e-4)
    assert epsilon([Event(sigma, q, steps)], DELTA) == epsilon([Event(sigma, q, steps)], DELTA, "pld")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rounds", "exact"),  # by dp-accounting
    [(1, 2.8545), (10, 7.0466), (50, 16.5618), (100, 25.2046)],
)
def test_rounds_compose_as_one_ledger_and_never_reset(rounds, exact):
    events = [Event(1.0, 0.1, 10)] * rounds
    assert epsilon(events, DELTA, "prv") == pytest.approx(exact, abs=0.02)
    assert epsilon(events, DELTA, "pld") == pytest.approx(exact, rel=2e-4)
    for accountant in ACCOUNTANTS:
        whole = epsilon([Event(1.0, 0.1, 10 * rounds)], DELTA, accountant)
        assert epsilon(events, DELTA, accountant) == whole
    assert epsilon(events, DELTA, "rdp") > exact


def test_statistics_add_to_the_training():
    training = Event(1.5, 0.1, 500)
    for accountant, alone, totals in (
        ("rdp", 9.09, (9.30, 9.92, 12.24)),
        ("pld", 8.372, (8.571, 9.158, 11.358)),  # dp-accounting's
    ):
        assert epsilon([training], DELTA, accountant) == pytest.approx(alone, abs=0.01)
        for z, total in zip((20, 10, 5), totals, strict=True):
            spent = epsilon([training, Event(z, 1.0, 50)], DELTA, accountant)
            assert spent == pytest.approx(total, abs=0.01)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_edge_cases(accountant):
    assert epsilon([], DELTA, accountant) == 0.0
    assert epsilon([Event(1.0, 0.1, 0)], DELTA, accountant) == 0.0
    assert epsilon([Event(0.0, 0.0, 5)], DELTA, accountant) == 0.0
    assert epsilon([Event(0.0, 0.1, 1), Event(1.0)], DELTA, accountant) == math.inf
    assert 0 <= epsilon([Event(1000.0, 1e-4)], DELTA, accountant) < 0.01


def test_where_distributions_give_no_bound_it_is_that_of_rdp():
    for event, delta in ((Event(0.03, 0.5, 10), DELTA), (Event(1.0, 0.02, 1000), 1e-14)):
        assert loss_distribution.epsilon([dataclasses.astuple(event)], delta) == math.inf
        assert epsilon([event], delta, "pld") == epsilon([event], delta, "rdp") < math.inf


@pytest.mark.parametrize("event", [Event(1.0, 1e-4, 2 * 10**7), Event(40.0, 0.1, 2 * 10**7)], ids=str)
def test_with_very_many_releases_it_is_at_most_that_of_rdp(event):
    assert 0 < epsilon([event], DELTA, "pld") <= epsilon([event], DELTA, "rdp")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gdp", "approximation"),
        ("clt", "approximation"),
        ("ma", "approximation"),
        ("RDP", "must be"),
        ("", "must be"),
    ],
)
@pytest.mark.parametrize("events", [[], [Event(1.0)], [Event(0.1, 1.0, 100)]], ids=["none", "one", "ε > 100"])
def test_an_unknown_or_approximate_accountant_is_refused_in_one_line(name, words, events):
    with pytest.raises(
        ScenarioError, match=f"^accountant {name!r}: .*{words}.*'pld', 'rdp' or 'prv'$"
    ) as caught:
        epsilon(events, DELTA, name)
    assert "\n" not in str(caught.value)
    with pytest.raises(ScenarioError, match="accountant"):
        calibrate(1.0, sampling_rate=0.1, count=10, delta=DELTA, accountant=name)


@pytest.mark.slow
def test_prv_is_never_above_rdp_and_is_rdp_above_100():
    for event in (Event(1.0, 0.02, 1000), Event(300.0, 1.0, 1), Event(0.5, 1.0, 2000), Event(0.3, 1e-4, 1)):
        assert epsilon([event], DELTA, "prv") <= epsilon([event], DELTA, "rdp")
        assert epsilon([event], DELTA, "pld") <= epsilon([event], DELTA, "rdp")
    many = [Event(0.5, 1.0, 2000)]
    assert epsilon(many, DELTA, "prv") == epsilon(many, DELTA, "rdp") > epsilon(many, DELTA, "pld") > 100


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("accountant", ["pld", "prv"])
def test_the_tight_accountants_need_less_noise_than_rdp(target, accountant, cache):
    statistics = [Event(100.0, 1.0, 30)]
    settings: dict[str, Any] = {"sampling_rate": 0.02, "count": 300, "delta": DELTA, "others": statistics}
    tight, loose = (calibrate(target, accountant=a, **settings) for a in (accountant, "rdp"))
    assert tight < loose
    spent = epsilon([Event(tight, 0.02, 300), *statistics], DELTA, accountant)
    assert 0.999 * target < spent <= target


@pytest.mark.slow
def test_parts_alone_and_added():
    events = {"dp-sgd": Event(1.5, 0.1, 500), "mean_loss": Event(20.0, 1.0, 50)}
    for accountant in ACCOUNTANTS:
        training, statistic = breakdown(events, DELTA, accountant)
        whole = epsilon(list(events.values()), DELTA, accountant)
        assert training.alone == epsilon([events["dp-sgd"]], DELTA, accountant)
        assert statistic.adds == pytest.approx(whole - training.alone)
        assert whole < training.alone + statistic.alone  # parts do not add up
        assert training.adds + statistic.adds < whole
    (only,) = breakdown({"dp-sgd": Event(1.0, 0.1, 10)}, DELTA)
    assert only.adds == only.alone
    exact, noised = breakdown({"dp-sgd": Event(0.0), "mean_loss": Event(20.0)}, DELTA)
    assert exact.alone == math.inf
    assert math.isnan(exact.adds)
    assert 0 < noised.alone < 1


@pytest.mark.parametrize("target", [0.01, 0.05, 0.5, 2.0, 8.0, 100.0])
@pytest.mark.parametrize("statistics", [(), (Event(3000.0, 1.0, 30),)])
@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_calibration_spends_the_target_and_never_more(cache, target, statistics, accountant):
    how: dict[str, Any] = {"sampling_rate": 0.02, "count": 300, "delta": DELTA, "accountant": accountant}
    sigma = calibrate(target, others=statistics, **how)
    spent = epsilon([Event(sigma, 0.02, 300), *statistics], DELTA, accountant)
    assert spent <= target
    assert spent == pytest.approx(target, rel=5e-4) or sigma == 0.2
    assert sigma == float(f"{sigma:.5g}")


@pytest.mark.slow
def test_calibration_under_prv(cache):
    sigma = calibrate(2.0, sampling_rate=0.02, count=300, delta=DELTA, accountant="prv")
    spent = epsilon([Event(sigma, 0.02, 300)], DELTA, "prv")
    assert 1.99 <= spent <= 2.0
    assert sigma < calibrate(2.0, sampling_rate=0.02, count=300, delta=DELTA, accountant="rdp")


def test_calibration_under_pld_finds_the_smallest_noise_of_five_digits(cache):
    for target, rate, count in ((0.3, 0.01, 50), (2.0, 0.02, 300), (30.0, 0.5, 200), (1.0, 1.0, 10)):
        sigma = calibrate(target, sampling_rate=rate, count=count, delta=DELTA)
        step = 10.0 ** (math.floor(math.log10(sigma)) - 4)
        assert epsilon([Event(sigma, rate, count)], DELTA) <= target
        assert epsilon([Event(sigma - 2 * step, rate, count)], DELTA) > target


def test_statistics_that_exceed_the_budget_alone_are_refused(cache):
    with pytest.raises(ScenarioError, match=r"ε = 0.1 cannot be reached .* the statistics alone spend 0\.\d"):
        calibrate(0.1, sampling_rate=0.02, count=300, delta=DELTA, others=[Event(100.0, 1.0, 30)])


def test_the_cache_is_used_and_checked(cache):
    first = calibrate(2.0, sampling_rate=0.02, count=300, delta=DELTA)
    (file,) = cache.iterdir()
    for content in ("", "{}", '{"noise_multiplier": "x"}', '{"noise_multiplier": 0.3}', "[1]"):
        file.write_text(content)
        assert calibrate(2.0, sampling_rate=0.02, count=300, delta=DELTA) == first
    file.write_text(json.dumps({"noise_multiplier": first + 1}))  # safe: it spends less
    assert calibrate(2.0, sampling_rate=0.02, count=300, delta=DELTA) == first + 1


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDTOLL_DATA", str(tmp_path / "file"))
    assert calibrate(8.0, sampling_rate=1.0, count=1, delta=DELTA) > 0


def test_a_large_delta_at_which_a_little_noise_already_costs_nothing(cache):
    sigma = calibrate(0.01, sampling_rate=0.1, count=100, delta=0.01)
    assert epsilon([Event(sigma, 0.1, 100)], 0.01) <= 0.01


@pytest.mark.slow
def test_the_epsilon_of_a_record_that_several_clients_hold_bounds_every_combination():
    """The largest ε of one client's releases repeated ``copies`` times does not: it is sometimes less."""
    rng = np.random.default_rng(0)
    understated = 0
    for _ in range(60):
        clients = [
            [Event(float(rng.choice([0.7, 1.0, 3.0, 8.0])), float(rng.choice([0.001, 0.02, 1.0])), int(n))]
            for n in 10 ** rng.uniform(0, 3, 5)
        ]
        for copies in (2, 3):
            bound = record_epsilon(clients, copies, 1e-5)
            combined = [epsilon([*chain(*some)], 1e-5, "rdp") for some in combinations(clients, copies)]
            assert bound >= max(combined) * (1 - 1e-12)
            understated += max(combined) > max(epsilon(c * copies, 1e-5, "rdp") for c in clients)
    assert understated > 0
    alike = [[Event(1.0, 0.02, 1000)]] * 4
    assert record_epsilon(alike, 3, 1e-5) == epsilon(alike[0] * 3, 1e-5)
    for accountant in ACCOUNTANTS:
        assert record_epsilon(alike, 3, 1e-5, accountant) == epsilon(alike[0] * 3, 1e-5, accountant)
    crossing = [[Event(1.0, 1.0, 1)], [Event(0.9, 0.001, 3000)]]
    assert math.isinf(record_epsilon([*crossing, [Event(0.0)]], 2, 1e-5))
