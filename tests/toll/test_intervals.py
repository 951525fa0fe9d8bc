"""Intervals and tests on arrays, compared with scipy and with explicit enumeration of all flips."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from fedtoll.toll import sign_flip, wilson
from fedtoll.toll.intervals import hall_ends, holm, seed_interval, signs, t_interval
from fedtoll.toll.two_gaps import gap_difference, gap_swap
from tests.toll.tables import NAN


def test_sign_flip_is_exact():
    assert sign_flip([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 64)
    x = np.array([0.3, -0.1, 0.4, 0.2, 0.5, -0.2, 0.6])
    means = [(x * signs).mean() for signs in product((-1, 1), repeat=7)]
    tail = np.mean(np.array(means) >= x.mean() - 1e-12)
    assert sign_flip(x) == pytest.approx(2 * tail)
    assert sign_flip([*x, NAN]) == sign_flip(x)


def test_five_seeds_cannot_be_tested():
    assert np.isnan(sign_flip([0.1, 0.2, 0.3, 0.4, 0.5]))


def test_a_strategy_with_itself_is_rarely_significant():
    rng = np.random.default_rng(1)
    rejected = [sign_flip(rng.normal(size=8)) <= 0.05 for _ in range(200)]
    assert np.mean(rejected) <= 0.09  # .05 and three standard errors


def test_sign_flip_is_scipys():
    x = np.random.default_rng(3).normal(0.4, 1, 9)
    test = stats.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=100_000)
    assert sign_flip(x) == pytest.approx(test.pvalue)


def test_beyond_sixteen_seeds_flips_are_drawn_the_same_every_time():
    assert signs(16).shape == (2**15, 16)
    assert signs(17).shape == (100_001, 17)
    x = np.random.default_rng(0).normal(0.5, 1, 20)
    assert sign_flip(x) == sign_flip(x.copy())
    exact = stats.ttest_1samp(x, 0).pvalue
    assert sign_flip(x) == pytest.approx(exact, abs=0.02)
    assert sign_flip(x + 100) == pytest.approx(1 / 100_001)


def test_ties_count_as_far():
    assert sign_flip([0.1] * 6 + [0.0] * 4) == pytest.approx(2 / 64)
    assert sign_flip([0.0] * 8) == 1


def test_the_gap_is_taken_anew_for_every_swap():
    rng = np.random.default_rng(4)
    a, b = rng.normal([0.1, 0.2, 0.4], 0.1, (7, 3)), rng.normal([0.1, 0.2, 0.2], 0.1, (7, 3))

    def gap(x_SG: np.ndarray) -> float:
        return float(np.ptp(x_SG.mean(axis=0)))

    swapped = []
    for swap in product((False, True), repeat=7):
        mask = np.array(swap)[:, None]
        swapped.append(gap(np.where(mask, b, a)) - gap(np.where(mask, a, b)))
    far = np.abs(swapped) >= abs(gap(a) - gap(b)) - 1e-12
    assert gap_swap(a, b) == pytest.approx(far.mean())


def test_a_mean_of_gaps_would_reject_where_the_gap_of_means_does_not():
    # a: noisy groups that agree in the mean; b: quiet ones that agree. Per-seed gaps differ in every seed.
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 0.3, (10, 4))
    a = np.concatenate([noise, -noise[:5], -noise[5:]])[:20] + 0.2
    b = rng.normal(0.2, 0.001, (20, 4))
    per_seed = np.ptp(a, axis=1) - np.ptp(b, axis=1)
    assert sign_flip(per_seed) < 0.001
    assert gap_swap(a, b) > 0.05


def test_too_few_seeds_for_a_swap():
    assert np.isnan(gap_swap(np.zeros((5, 2)), np.ones((5, 2))))


def test_holm_is_worked_out_by_hand():
    # Sorted .01 ×4, .02 ×3 = .06, .03 ×2 = .06, .5 ×1.
    assert holm([0.5, 0.02, 0.01, 0.03]) == pytest.approx([0.5, 0.06, 0.04, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_untested_comparisons_stay_in_the_family():
    assert holm([0.01, NAN, NAN])[0] == pytest.approx(0.03)
    assert np.isnan(holm([0.01, NAN, NAN])[1:]).all()


@pytest.mark.parametrize("seeds", [2, 5, 10])
def test_the_t_interval_is_scipys_and_drops_what_is_undefined(seeds):
    x = np.random.default_rng(seeds).normal(size=seeds)
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert t_interval([*x, NAN]) == pytest.approx((x.mean(), expected.low, expected.high))


@pytest.mark.parametrize("interval", [t_interval, seed_interval])
def test_one_seed_or_no_spread_has_no_interval(interval):
    for x in ([0.1], [0.1] * 4, [0.1] * 9, [0.3 - 0.2, 0.1, 0.1], [0.3 - 0.2] * 3 + [0.1] * 4):
        mean, low, high = interval(x)
        assert mean == pytest.approx(0.1)
        assert np.isnan([low, high]).all()
    assert np.isnan(interval([])).all()


SKEWED = np.random.default_rng(8).exponential(size=10)


@pytest.mark.parametrize("x", [SKEWED, -SKEWED, SKEWED**3, np.array([0.0] * 9 + [1.0])])
def test_the_ends_are_where_halls_transformation_of_t_is_the_quantile(x):
    n = len(x)
    b = stats.skew(x) / np.sqrt(n)
    mean, low, high = seed_interval(x)
    assert low < mean < high
    for end, sign in ((low, 1), (high, -1)):
        t = (x.mean() - end) / (x.std(ddof=1) / np.sqrt(n))
        g = t + b * t**2 / 3 + b**2 * t**3 / 27 + b / 6  # Hall 1992
        assert g == pytest.approx(sign * stats.t.ppf(0.975, n - 1))


def test_without_skewness_or_with_few_seeds_it_is_the_t_interval():
    for x in (np.arange(10.0), np.array([0.0, 0.0, 0.1, 5.0]), np.array([1.0, 2.0])):
        assert seed_interval(x) == pytest.approx(t_interval(x))
        assert seed_interval([*x, NAN]) == pytest.approx(t_interval(x))
    assert hall_ends(1.0, 0.5, 2.0) == pytest.approx((0.0, 2.0))


def test_it_turns_and_moves_with_the_values_and_ignores_their_order():
    mean, low, high = seed_interval(SKEWED)
    assert seed_interval(-SKEWED) == pytest.approx((-mean, -high, -low))
    assert seed_interval(3 + 2 * SKEWED) == pytest.approx((3 + 2 * mean, 3 + 2 * low, 3 + 2 * high))
    assert seed_interval(SKEWED[::-1]) == pytest.approx((mean, low, high))
    both = np.column_stack([SKEWED, -SKEWED])
    assert np.array(seed_interval(both))[:, 0] == pytest.approx((mean, low, high))


def test_skewed_values_are_covered_more_often_than_by_t():
    x = np.random.default_rng(9).exponential(size=(10, 20_000))
    covered = {}
    for interval in (t_interval, seed_interval):
        _, low, high = interval(x)
        covered[interval] = np.mean((low <= 1) & (high >= 1))
    assert covered[t_interval] < 0.905
    assert covered[seed_interval] > 0.93


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (19, 20), (500, 1000), (7, 7)])
def test_wilson_is_scipys(k, n):
    expected = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert tuple(map(float, wilson(k, n))) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("n", "least"), [(10, 0.90), (20, 0.92)])
def test_wilson_covers_where_others_do_not(n, least):
    k = np.arange(n + 1)
    low, high = wilson(k, n)
    assert stats.binom.pmf(k, n, 0.95)[(low <= 0.95) & (high >= 0.95)].sum() > least


def test_a_rate_of_nothing_has_no_interval():
    assert np.isnan(wilson(0, 0)).all()


def test_with_clear_extremes_the_interval_is_the_t_interval():
    rng = np.random.default_rng(6)
    a, b = rng.normal([0.1, 0.2, 0.9], 0.03, (10, 3)), rng.normal([0.1, 0.8, 0.2], 0.03, (10, 3))
    difference = (a[:, 2] - a[:, 0]) - (b[:, 1] - b[:, 0])
    expected = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert gap_difference(a, b) == pytest.approx((difference.mean(), expected.low, expected.high))


def test_where_groups_tie_it_is_wider_and_holds_the_difference():
    rng = np.random.default_rng(7)
    a, b = rng.normal(0.2, 0.1, (10, 4)), rng.normal([0.1, 0.2, 0.2, 0.9], 0.03, (10, 4))
    difference, low, high = gap_difference(a, b)
    assert difference == pytest.approx(np.ptp(a.mean(axis=0)) - np.ptp(b.mean(axis=0)))
    assert low < difference < high
    turned = gap_difference(b, a)
    assert turned[0] == pytest.approx(-difference)


def test_one_seed_or_no_spread_has_no_interval_of_gaps():
    x = np.array([[0.1, 0.2, 0.4]])
    assert np.isnan(gap_difference(x, x + 0.1)[1:]).all()
    same = np.repeat(x, 6, axis=0)
    assert np.isnan(gap_difference(same, same)[1:]).all()
    assert gap_difference(same, 2 * same)[0] == pytest.approx(-0.3)


def test_groups_that_two_strategies_serve_alike_do_not_take_the_interval_away():
    """A strategy changes one group of five only: the pairs of the other four have a difference of 0."""
    rng = np.random.default_rng(3)
    b = np.column_stack([rng.normal(0.02, 0.01, (10, 4)), rng.normal(0.02, 0.01, 10)])
    for factor in (1.0, 1.0 + 1e-16, 3.0):  # with 3, sums of squares leave about 1e-9 of rounding
        a = factor * b.copy()
        a[:, 4] = rng.normal(0.02, 0.05, 10)
        difference, low, high = gap_difference(a, factor * b)
        assert low <= 0 <= high
        assert low <= difference <= high
        assert low < high


def test_two_strategies_that_are_the_same_have_no_interval():
    x = np.random.default_rng(4).normal([0.1, 0.2, 0.4], 0.03, (8, 3))
    for y in (x.copy(), (x + 0.7) - 0.7):  # the second is the same but for rounding
        difference, *ends = gap_difference(x, y)
        assert difference == pytest.approx(0, abs=1e-15)
        assert np.isnan(ends).all()


def test_a_difference_that_is_the_same_in_every_seed_has_no_interval():
    x = np.random.default_rng(5).normal([0.1, 0.2, 0.9], 0.03, (8, 3))
    for shift in (0.1, 0.123456789):
        difference, *ends = gap_difference(x + np.array([0, 0, shift]), x)
        assert difference == pytest.approx(shift)
        assert np.isnan(ends).all()


def test_turning_the_strategies_round_turns_the_interval_round():
    rng = np.random.default_rng(10)
    for _ in range(20):
        a, b = rng.normal([0.1, 0.2, 0.2, 0.3], 0.1, (10, 4)), rng.normal([0.3, 0.2, 0.1, 0.3], 0.2, (10, 4))
        difference, low, high = gap_difference(a, b)
        assert gap_difference(b, a) == pytest.approx((-difference, -high, -low))


def test_unequal_noise_alone_fails_the_swap_test_and_not_the_interval():
    """Equal expected gaps of 0; one strategy has five times the noise: only its exchangeability fails."""
    rng, rejected, excluded = np.random.default_rng(11), [], []
    for _ in range(200):
        shared = rng.normal(0, 0.09, (10, 5))
        a = 0.2 + 5 * (shared + rng.normal(0, 0.04, (10, 5)))
        b = 0.2 + shared + rng.normal(0, 0.04, (10, 5))
        rejected.append(gap_swap(a, b) <= 0.05)
        _, low, high = gap_difference(a, b)
        excluded.append(low > 0 or high < 0)
    assert np.mean(rejected) > 0.2
    assert np.mean(excluded) <= 0.05
