"""μ and ρ of a ledger: bounds of its whole curve, against dp-accounting and against Rényi divergences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as pld

from fedtoll.privacy import accounting
from fedtoll.privacy.accounting import Event, epsilon
from fedtoll.privacy.gaussian import gaussian_delta, gaussian_deltas, gaussian_epsilon
from fedtoll.privacy.gaussian_dp import LEAST_DELTA, GaussianDp, gaussian_dp, rho

LEDGERS = {
    "many steps": [Event(9.4, 0.328, 500)],
    "few large jumps": [Event(0.61, 0.02, 300)],
    "statistics": [Event(1.05, 0.02, 300), Event(20.0, 1.0, 30)],
    "two rates": [Event(3.0, 0.1, 100), Event(1.0, 0.005, 1000)],
}


def curve(events: list[Event], points: np.ndarray, pessimistic: bool) -> np.ndarray:
    """Return dp-accounting's δ at each ε, rounded up or down, of the worse direction."""
    whole = pld.identity(value_discretization_interval=1e-3, pessimistic_estimate=pessimistic)
    for e in events:
        one = pld.from_gaussian_mechanism(
            e.noise_multiplier,
            sampling_prob=e.sampling_rate,
            value_discretization_interval=1e-3,
            pessimistic_estimate=pessimistic,
            use_connect_dots=pessimistic,
        )
        whole = whole.compose(one.self_compose(e.count))
    return np.asarray(whole.get_delta_for_epsilon(points))


@pytest.mark.slow
@pytest.mark.parametrize("least", [LEAST_DELTA, 1e-5])
@pytest.mark.parametrize("name", LEDGERS)
def test_the_curve_of_mu_lies_above_that_of_the_ledger_but_not_far(name, least):
    found = gaussian_dp(LEDGERS[name], least)
    assert found is not None
    assert found.least_delta == least
    points = np.linspace(0.0, epsilon(LEDGERS[name], least), 301)
    true = curve(LEDGERS[name], points, pessimistic=True)
    inside = true > 2 * least
    # The oracle rounds up, too: on its grid of 1e-3 by less than a percent here.
    assert (true[inside] <= gaussian_deltas(points, found.mu)[inside] * 1.01).all()
    assert (
        curve(LEDGERS[name], points, pessimistic=False) <= gaussian_deltas(points, found.mu) + least
    ).all()
    assert (true > np.maximum(gaussian_deltas(points, 0.99 * found.mu), 1.02 * least)).any()
    apart = (gaussian_deltas(points, found.mu) - true) / (1 + np.exp(points))
    assert found.regret == pytest.approx(apart.max(), rel=0.05, abs=2e-4)


def test_it_holds_at_every_delta_of_the_range():
    for events in LEDGERS.values():
        found = gaussian_dp(events)
        assert found is not None
        for delta in (1e-2, 1e-5, 1e-7, 1e-9):
            assert epsilon(events, delta) <= gaussian_epsilon(found.mu, delta) * (1 + 1e-3)


def test_published_values():
    """The example of the package gdpnum of Gomez et al.; their range of δ is not stated."""
    found = gaussian_dp([Event(9.4, 0.328, 2000)])
    assert found is not None
    assert found.mu == pytest.approx(1.5685622, rel=2e-3)
    assert found.regret == pytest.approx(1.02e-3, rel=0.3)


def test_without_sampling_it_is_exact():
    events = [Event(2.0, 1.0, 3), Event(5.0, 1.0, 7)]
    mu = math.sqrt(3 / 4 + 7 / 25)
    assert gaussian_dp(events) == GaussianDp(mu, 0.0, 0.0)
    assert rho(events) == pytest.approx(mu**2 / 2)
    assert epsilon(events, 1e-5) == gaussian_epsilon(mu, 1e-5)


def test_corners():
    assert gaussian_dp([]) == GaussianDp(0.0, 0.0, 0.0)
    assert rho([]) == 0.0
    assert gaussian_dp([Event(0.0, 0.1, 1)]) == GaussianDp(math.inf, 0.0, 0.0)
    assert rho([Event(0.0, 0.1, 1)]) == math.inf
    assert gaussian_dp([Event(0.3, 0.5, 1000)]) is None  # ε is in the thousands
    assert gaussian_dp([Event(0.03, 0.5, 1)]) is None  # no distribution
    sampled = gaussian_dp([Event(1.0, 0.99, 10)])
    assert sampled is not None
    assert sampled.mu <= math.sqrt(10)


def test_rho_bounds_the_renyi_divergence_at_every_order_and_no_smaller_one_does():
    orders = np.array(accounting.ORDERS)
    for events in ([Event(2.0, 1.0, 16)], [Event(1.0, 0.3, 5), Event(3.0, 0.01, 40)]):
        ratio = accounting.rdp_curve(events) / orders
        assert (ratio <= rho(events) * (1 + 1e-9)).all()
        assert ratio[-1] > 0.95 * rho(events)


def test_deltas_of_an_array():
    points = np.array([0.0, 0.5, 3.0, 40.0])
    for mu in (0.1, 1.0, 6.0):
        assert list(gaussian_deltas(points, mu)) == pytest.approx([gaussian_delta(e, mu) for e in points])
