"""Privacy loss distributions: each step of the computation only raises δ, and by little."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.fft import irfft, rfft
from scipy.stats import norm

from fedtoll.privacy import loss_distribution

RELEASES = [(1.0, 0.02), (0.3, 0.001), (0.5, 0.5), (3.0, 0.9), (20.0, 0.02), (0.8, 1.0)]


def exact_delta(epsilon: float, noise: float, rate: float, adding: bool) -> float:
    """Return δ(ε) of one release from its definition: P(S) − e^ε Q(S) for the best event S."""
    beyond = (
        math.log1p(math.expm1(-epsilon if adding else epsilon) / rate)
        if _reached(epsilon, rate, adding)
        else None
    )
    if beyond is None:  # every output has a smaller loss, or a larger one
        return 0.0 if adding else -math.expm1(epsilon)
    x = noise**2 * beyond + 0.5
    tail = norm.cdf if adding else norm.sf
    base, moved = tail(x / noise), tail((x - 1) / noise)
    mixed = (1 - rate) * base + rate * moved
    p, q = (base, mixed) if adding else (mixed, base)
    return float(p - math.exp(epsilon) * q)


def _reached(epsilon: float, rate: float, adding: bool) -> bool:
    return math.expm1(-epsilon if adding else epsilon) > -rate


@pytest.mark.parametrize(("noise", "rate"), RELEASES)
def test_one_release_is_exact_on_the_grid_and_above_elsewhere(noise, rate):
    removing, adding = loss_distribution.distributions([(noise, rate, 1)], 1e-6)
    for distribution, way in ((removing, False), (adding, True)):
        last = distribution.epsilon(1e-6)
        points = distribution.spacing * np.arange(math.ceil(last / distribution.spacing) + 1)
        for epsilon in points[:: max(1, len(points) // 50)]:
            exact = exact_delta(epsilon, noise, rate, way)
            assert distribution.delta(epsilon) == pytest.approx(exact, rel=1e-5, abs=1e-11)
        for epsilon in np.random.default_rng(0).uniform(0.0, last, 100):
            exact = exact_delta(epsilon, noise, rate, way)
            before = points[np.searchsorted(points, epsilon) - 1]
            most = exact_delta(float(before), noise, rate, way)
            assert exact * (1 - 1e-9) <= distribution.delta(epsilon) <= most * (1 + 1e-5) + 1e-11


@pytest.mark.parametrize(("noise", "rate"), RELEASES)
def test_the_grid_keeps_both_distributions(noise, rate):
    """The probabilities under P sum to 1, and so do those under Q, e^−L times those under P."""
    spacing = loss_distribution._spacing([(noise, rate, 1)], 1e-12)
    for way in (False, True):
        grid = loss_distribution._release(noise, rate, spacing, 1e-15, way)
        loss = spacing * (grid.low + np.arange(len(grid.mass_N)))
        assert (grid.mass_N >= 0).all()
        assert grid.mass_N.sum() + grid.infinite == pytest.approx(1.0, abs=1e-13)
        assert grid.mass_N @ np.exp(-loss) == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize(
    ("noise", "rate", "count"),
    [(1.0, 0.02, 100), (1.0, 0.02, 10_000), (5.0, 0.1, 100_000), (0.6, 0.01, 1000)],
)
def test_the_allowance_covers_the_rounding_errors_of_the_transform(noise, rate, count):
    """Against the same composition with 64 bits of precision and powers by squaring."""
    whole = loss_distribution.distributions([(noise, rate, count)], 1e-5)[0]
    grid = loss_distribution._release(noise, rate, whole.spacing, 1e-11 / count, False)
    size = len(whole.mass_N)
    base = rfft(grid.mass_N.astype(np.longdouble), size)
    power, left = np.ones_like(base), count
    while left:
        power = power * base if left % 2 else power
        base, left = base * base, left // 2
    precise = np.roll(irfft(power, size), count * grid.low - round(whole.lowest / whole.spacing))
    error = float(np.abs(whole.mass_N - precise).sum())
    allowed = whole.infinite - 1e-11 + math.expm1(count * math.log1p(-grid.infinite))
    assert 0 < error < allowed / 3  # rounding depends on the processor: .24 of it on one, .252 on another


def test_a_window_that_cuts_the_sum_never_lowers_delta(monkeypatch):
    """What lies beyond is wrapped around or counted as infinite."""
    kinds = [(1.0, 0.02, 500)]
    before = [d.epsilon(1e-5) for d in loss_distribution.distributions(kinds, 1e-5)]
    monkeypatch.setattr(loss_distribution, "_CUT", 1e-2)
    after = [d.epsilon(1e-5) for d in loss_distribution.distributions(kinds, 1e-5)]
    for wide, narrow in zip(before, after, strict=True):
        assert wide < narrow < wide * 1.01


def test_a_finer_grid_lowers_epsilon_by_little():
    kinds = [(1.0, 0.02, 1000), (50.0, 1.0, 30)]
    coarse, default, fine = (
        max(d.epsilon(1e-5) for d in loss_distribution.distributions(kinds, 1e-5, refine))
        for refine in (0.1, 1.0, 10.0)
    )
    assert fine < default < coarse
    assert default < fine * (1 + 2 * loss_distribution.TOLERANCE)


def test_a_grid_that_would_be_too_long_is_coarser(monkeypatch):
    kinds = [(1.0, 0.02, 1000)]
    default = loss_distribution.epsilon(kinds, 1e-5)
    monkeypatch.setattr(loss_distribution, "FINEST", 2**10)
    short = loss_distribution.distributions(kinds, 1e-5)
    assert all(len(d.mass_N) < 1.2 * 2**10 for d in short)
    assert default < max(d.epsilon(1e-5) for d in short) < 1.05 * default


def test_delta_and_epsilon_are_inverse_and_agree_on_arrays():
    for distribution in loss_distribution.distributions([(1.0, 0.02, 1000)], 1e-7):
        for delta in (1e-3, 1e-5, 1e-7):
            assert distribution.delta(distribution.epsilon(delta)) == pytest.approx(delta, rel=1e-6)
        assert distribution.epsilon(0.9) == 0.0
        assert distribution.epsilon(1e-16) == math.inf
        points = np.linspace(0.0, 8.0, 33)
        expected = [distribution.delta(float(e)) for e in points]
        assert list(distribution.deltas(points)) == pytest.approx(expected, rel=1e-9, abs=1e-15)
