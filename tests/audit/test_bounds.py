"""Lower bounds of ε: checked on known mechanisms at the stated confidence."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.stats import beta, binom, binomtest

from fedtoll.audit.bounds import (
    ceiling,
    gaussian,
    one_run_epsilon,
    one_run_p_value,
    rate_at_least,
    replaced_ceiling,
    sampled,
    sampled_epsilon,
    separation,
)
from fedtoll.privacy.gaussian import gaussian_delta, gaussian_epsilon
from fedtoll.toll.shares import upper


@pytest.mark.slow
@pytest.mark.parametrize(("mu", "delta"), [(0.01, 1e-3), (0.3, 1e-9), (1.0, 1e-5), (2.0, 1e-5), (3.0, 1e-3)])
def test_the_exact_epsilon_of_a_gaussian_release(mu, delta):
    account = PLDAccountant()
    account.compose(GaussianDpEvent(1 / mu))
    assert gaussian_epsilon(mu, delta) == pytest.approx(account.get_epsilon(delta), abs=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "mu"), [(0.02, 1.5), (0.2, 0.6), (0.5, 2.0), (0.9, 1.0)])
def test_the_exact_epsilon_of_a_sampled_release(rate, mu):
    account = PLDAccountant()
    account.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(1 / mu)))
    assert sampled_epsilon(rate, mu, 1e-5) == pytest.approx(account.get_epsilon(1e-5), abs=2e-4)


def test_a_sampled_release_that_reveals_nothing():
    assert sampled_epsilon(0.02, 0.0, 1e-5) == sampled_epsilon(1e-6, 1.0, 1e-5) == 0.0


def test_the_corners():
    assert gaussian_epsilon(1e-9, 1e-5) == 0.0
    assert gaussian_epsilon(50.0, 1e-5) > 1000
    assert gaussian_delta(1e4, 3.0) == 0.0
    assert upper(10, 10, 0.025) == 1.0
    assert upper(3, 50, 0.025) == pytest.approx(binomtest(3, 50).proportion_ci(0.95, "exact").high)
    assert upper(np.array([0, 3]), 50, 0.1)[1] == pytest.approx(beta.ppf(0.9, 4, 47))


def chance(bounds, truth):
    """Return the p-value of this many bounds above the truth, if each is wrong with probability .05."""
    return float(binom.sf((bounds > truth).sum() - 1, len(bounds), 0.05))


@pytest.mark.slow
@pytest.mark.parametrize(("mu", "tight"), [(0.5, 0.55), (2.0, 0.85)])
def test_a_separation_holds_at_its_confidence(mu, tight):
    rng = np.random.default_rng(0)
    bounds = np.array(
        [separation(rng.normal(0, 1, 2000), rng.normal(mu, 1, 2000)).parameter for _ in range(500)]
    )
    assert chance(bounds, mu) > 0.01
    assert tight * mu < bounds.mean() < mu


def test_inseparable_and_perfectly_separable_samples():
    rng = np.random.default_rng(1)
    assert separation(rng.normal(size=5000), rng.normal(size=5000)).parameter < 0.05
    clear = separation(np.zeros(5000), np.ones(5000))
    assert (clear.false_positives, clear.false_negatives, clear.observations) == (0, 0, 2500)
    assert clear.parameter == pytest.approx(2 * 2.974, abs=0.01)  # the most that 2,500 observations can show
    assert separation(np.ones(100), np.zeros(100)).parameter == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "tight"), [(0.02, 0.0), (0.3, 0.4)])
def test_the_sampling_rate_is_bounded_at_its_confidence(rate, tight):
    rng = np.random.default_rng(3)
    claim = sampled(rate, 2.0, 1e-5)

    def found_at(q):
        with_record = rng.normal(0, 1, 2000) + 2.0 * (rng.random(2000) < q)
        return separation(rng.normal(0, 1, 2000), with_record, at_least=claim.at_least)

    bounds = np.array([found_at(rate).parameter for _ in range(500)])
    assert chance(bounds, rate) > 0.01
    assert bounds.mean() > tight * rate
    for q in (0.8, 1.0):
        found = found_at(q)
        assert 0.8 * q < found.parameter < 1.01 * q
        assert claim.p_value(found.false_positives, found.false_negatives, 1000) < 1e-6


def test_errors_that_show_no_sampling():
    assert rate_at_least(1000, 0, 1000, 0.05, 1.0) == 0.0
    assert rate_at_least(500, 500, 1000, 0.05, 1.0) < 0.0


@pytest.mark.slow
def test_p_values_of_a_true_claim_are_rarely_small():
    rng = np.random.default_rng(4)
    claims = {gaussian(1.0, 1e-5): lambda: rng.normal(1, 1, 400)}
    claims[sampled(0.3, 2.0, 1e-5)] = lambda: rng.normal(0, 1, 400) + 2.0 * (rng.random(400) < 0.3)
    for claim, with_record in claims.items():
        p = []
        for _ in range(500):
            found = separation(rng.normal(0, 1, 400), with_record(), at_least=claim.at_least)
            p.append(claim.p_value(found.false_positives, found.false_negatives, found.observations))
            assert (p[-1] < 0.05) == (found.parameter > claim.parameter)
        for level in (0.05, 0.2, 0.5):
            assert binom.sf(np.sum(np.array(p) < level) - 1, len(p), level) > 0.001
    assert gaussian(1.0, 1e-5).p_value(0, 0, 1000) < 1e-12
    assert gaussian(1.0, 1e-5).p_value(500, 500, 1000) == 1.0


def test_one_run_rejects_a_claim_where_its_bound_exceeds_it():
    for correct in (40, 44):
        bound = one_run_epsilon(correct, 44, 91, 1e-5)
        assert one_run_p_value(correct, 44, 91, bound + 1e-3, 1e-5) > 0.05
        assert one_run_p_value(correct, 44, 91, bound - 1e-3, 1e-5) < 0.05
    assert one_run_p_value(44, 44, 91, 1.0, 0.0) == pytest.approx((1 + math.exp(-1)) ** -44)
    assert 1e-6 < one_run_p_value(44, 44, 91, 1.0, 1e-5) < 2e-4
    assert one_run_p_value(22, 44, 91, 0.0, 1e-5) > 0.5


@pytest.mark.slow
def test_one_run_holds_at_its_confidence():
    """Randomised response is the tightest case: each guess is correct with probability e^ε/(1 + e^ε)."""
    rng = np.random.default_rng(2)
    bound = cache(lambda v: one_run_epsilon(v, 200, 200, 0.0))
    for epsilon in (0.5, 2.0):
        right = rng.binomial(200, 1 / (1 + math.exp(-epsilon)), 1000)
        bounds = np.array([bound(int(v)) for v in right])
        assert chance(bounds, epsilon) > 0.01
        assert bounds.mean() > 0.5 * epsilon


def test_a_delta_costs_a_little():
    without, with_some = (one_run_epsilon(80, 100, 200, d) for d in (0.0, 1e-5))
    assert 0 < with_some < without < math.log(80 / 20)
    assert one_run_epsilon(80, 100, 200, 0.1) == 0.0


def test_the_ceiling():
    assert ceiling(0.0, 0.0) == 0.0
    assert ceiling(1000.0, 1e-5) == 1.0
    # At δ = 0 randomised response reaches it: TPR − FPR = (e^ε − 1)/(e^ε + 1).
    assert ceiling(2.0, 0.0) == pytest.approx(math.tanh(1.0))
    assert ceiling(1.0, 0.2) > ceiling(1.0, 0.0)


def test_an_attack_on_a_half_of_fixed_size_can_exceed_the_ceiling_of_adding():
    """One of two records is in; the release is +1 or -1 accordingly, with Laplace noise of scale 1/ε."""
    epsilon = 1.0
    tpr = 1 - 0.5 * math.exp(-epsilon)  # the attacker guesses the first record when the release is above 0
    advantage = tpr - (1 - tpr)
    assert ceiling(epsilon, 0.0) < advantage < replaced_ceiling(epsilon, 0.0)
    assert replaced_ceiling(1.0, 1e-5) > replaced_ceiling(1.0, 0.0) == ceiling(2.0, 0.0)
    assert replaced_ceiling(1000.0, 1e-5) == replaced_ceiling(math.inf, 1e-5) == 1.0
