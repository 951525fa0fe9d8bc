"""More strategies from the literature, compared with their objectives, with scipy and with loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import LinearConstraint, minimize

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.statistics import Estimate, MeanLoss
from fedtoll.strategies import registry
from fedtoll.strategies.aaggff import CDFS, AAggFF
from fedtoll.strategies.base import Report, sizes
from fedtoll.strategies.fedavg import FedAvg
from fedtoll.strategies.fedmgda import FedMGDA
from fedtoll.strategies.gifair import GIFAIR
from fedtoll.strategies.propfair import PropFair
from fedtoll.strategies.simplex import minimise, project, project_box
from fedtoll.strategies.superquantile import Superquantile
from tests.strategies.reports import cohort


def slsqp(objective, start, bounds) -> Any:
    """Minimise on the simplex with scipy."""
    whole = LinearConstraint(np.ones(len(start)), 1.0, 1.0)
    found = minimize(
        objective,
        start,
        method="SLSQP",
        bounds=bounds,
        constraints=[whole],
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    assert found.success
    return found


def silos(n, losses, groups=None):
    return [
        Report(k, size, groups[k] if groups else "g", (), {"mean_loss": Estimate(f, 0.0)})
        for k, (size, f) in enumerate(zip(n, losses, strict=True))
    ]


# Quadratic programs on the simplex.


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8), st.floats(0, 1))
def test_the_projection_onto_a_box_is_the_nearest_point(point, radius):
    y, even = np.array(point), np.full(len(point), 1 / len(point))
    low, high = np.maximum(even - radius, 0), np.minimum(even + radius, 1)
    p = project_box(y, low, high)
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert (p >= low - 1e-12).all()
    assert (p <= high + 1e-12).all()
    shift = p - y  # the same for all that are inside, larger at the lower and smaller at the upper bound
    free = (p > low + 1e-9) & (p < high - 1e-9)
    if free.any():
        nu = shift[free].mean()
        np.testing.assert_allclose(shift[free], nu, atol=1e-9)
        assert (shift[p <= low + 1e-9] >= nu - 1e-8).all()
        assert (shift[p >= high - 1e-9] <= nu + 1e-8).all()
    if radius == 1:
        np.testing.assert_allclose(p, project(y), atol=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_quadratic_programs_are_solved_as_by_scipy(seed):
    rng = np.random.default_rng(seed)
    k = 3 + seed
    a = rng.normal(size=(k, k - 1 + seed % 3))
    quadratic, linear, even = a @ a.T, rng.normal(size=k) * (seed % 2), np.full(k, 1 / k)
    low, high = np.maximum(even - 0.2, 0), even + 0.2
    found = minimise(quadratic, linear, low, high, even)

    def objective(p):
        return 0.5 * p @ quadratic @ p + linear @ p

    theirs = slsqp(objective, even, list(zip(low, high, strict=True)))
    assert objective(found) <= theirs.fun + 1e-9
    assert found.sum() == pytest.approx(1)
    assert ((found >= low - 1e-9) & (found <= high + 1e-9)).all()


# Δ-FL.


def of_every_record(n, losses, level):
    """Return the weights of the authors' code: the quantile of a list with one loss for every record."""
    v = np.sort(np.repeat(losses, n))
    threshold = v[0] if level == 0 else v[math.ceil(len(v) * level - 1e-12) - 1]
    kept = np.array(n) * (np.array(losses) >= threshold)
    return kept / kept.sum()


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(-3, 9)), min_size=1, max_size=7),
    st.integers(0, 99).map(lambda percent: percent / 100),
)
@example([(1, i) for i in range(25)], 0.28)
def test_superquantile_keeps_the_tail_that_the_authors_code_keeps(drawn, level):
    n, losses = [x for x, _ in drawn], [x / 10 for _, x in drawn]
    weights, _ = Superquantile(level=level).weigh(silos(n, losses), {})
    np.testing.assert_allclose(weights, of_every_record(n, losses, level))


def test_the_mean_loss_of_the_tail_is_the_superquantile():
    n, losses, level = [50, 30, 20], np.array([0.2, 0.5, 0.9]), 0.8
    weights, _ = Superquantile(level=level).weigh(silos(n, losses), {})
    eta = np.linspace(0, 1, 100_001)
    tail = np.maximum(losses[:, None] - eta, 0).T @ (np.array(n) / 100)
    at_most = (eta + tail / (1 - level)).min()  # Rockafellar and Uryasev's formula
    assert weights @ losses <= at_most + 1e-6  # a client that straddles the quantile is kept whole
    assert Superquantile(level=0.81).weigh(silos(n, losses), {})[0] @ losses == pytest.approx(0.9)


# PropFair.


def test_propfairs_weights_are_the_gradient_of_its_objective():
    n, losses, baseline = [50, 30, 20], np.array([0.2, 0.5, 1.9]), 2.0
    p0 = np.array(n) / 100

    def objective(f):  # the logarithm, and its tangent below the floor
        u = baseline - f
        return p0 @ np.where(u >= 0.3, -np.log(np.maximum(u, 1e-9)), -math.log(0.3) - (u - 0.3) / 0.3)

    h = 1e-6
    slope = np.array([(objective(losses + h * e) - objective(losses - h * e)) / (2 * h) for e in np.eye(3)])
    weights, _ = PropFair(baseline=baseline, floor=0.3).weigh(silos(n, losses), {})
    np.testing.assert_allclose(weights, slope / slope.sum(), rtol=1e-6)


def test_noise_beyond_the_baseline_is_bounded_by_the_floor():
    weights, _ = PropFair(baseline=2.0, floor=0.2).weigh(silos([50, 50], [0.0, 99.0]), {})
    np.testing.assert_allclose(weights, np.array([1 / 2, 1 / 0.2]) / (1 / 2 + 1 / 0.2))


# GIFAIR.


@pytest.mark.parametrize("groups", [["a", "a", "b", "c", "b"], ["", "", "", "", ""], ["a", "a", "", "b", ""]])
def test_gifairs_weights_are_the_gradient_of_its_objective(groups):
    n, losses = [50, 30, 5, 10, 25], np.array([0.2, 0.5, 0.9, 0.3, 0.7])
    p0 = np.array(n) / sum(n)
    names = [g or f"client {k}" for k, g in enumerate(groups)]
    sets = [[k for k, name in enumerate(names) if name == s] for s in sorted(set(names))]
    limit = min(p0[k] * len(s) for s in sets for k in s) / (len(sets) - 1)

    def objective(f):
        means = [np.mean([f[k] for k in s]) for s in sets]
        spread = sum(abs(means[i] - means[j]) for i in range(len(sets)) for j in range(i))
        return p0 @ f + 0.8 * limit * spread

    h = 1e-6
    slope = np.array([(objective(losses + h * e) - objective(losses - h * e)) / (2 * h) for e in np.eye(5)])
    weights, _ = GIFAIR(strength=0.8).weigh(silos(n, losses, groups), {})
    np.testing.assert_allclose(weights, slope, rtol=1e-6)
    assert slope.sum() == pytest.approx(1)


def test_gifair_of_single_clients_is_public_codes():
    n, losses = [50, 30, 20], [0.5, 0.2, 0.9]
    p0 = np.array(n) / 100
    ranks = np.zeros(3)
    ranks[np.argsort(losses)] = np.linspace(-2, 2, 3)  # the code's list of weights by rank
    expected = p0 + 0.1 * min(p0 / 2) * ranks
    weights, _ = GIFAIR(strength=0.1).weigh(silos(n, losses, ["", "", ""]), {})
    np.testing.assert_allclose(weights, expected)


@given(st.lists(st.tuples(st.integers(1, 10**5), st.floats(-9, 9), st.sampled_from("abc")), min_size=1))
def test_gifairs_weights_stay_on_the_simplex_at_full_strength(drawn):
    n, losses, groups = (list(x) for x in zip(*drawn, strict=True))
    weights, _ = GIFAIR(strength=1.0).weigh(silos(n, losses, groups), {})
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1)


# FedMGDA+.


def moved(strategy, reports, params):
    weights, state = strategy.weigh(reports, {})
    return strategy.combine(params, reports, weights, state), weights


def test_without_radius_and_normalising_fedmgda_is_fedavg():
    reports, params = cohort([60, 30, 10]), (np.ones((2, 3)), np.ones(2))
    (ours, _, coefficients), _ = moved(
        FedMGDA(radius=0.0, server_learning_rate=1.0, normalise=False), reports, params
    )
    (theirs, _, _), _ = moved(FedAvg(), reports, params)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b)
    np.testing.assert_allclose(coefficients, [0.6, 0.3, 0.1])


@pytest.mark.parametrize("radius", [0.05, 0.2, 1.0])
def test_fedmgda_solves_its_program_as_scipy_does(radius):
    reports, params = cohort([60, 30, 10, 40], shapes=[(2, 3), (2,)]), (np.ones((2, 3)), np.ones(2))
    flat = np.stack([np.concatenate([u.ravel() for u in r.update]) for r in reports])
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    start = sizes(reports)
    bounds = [(max(0, x - radius), min(1, x + radius)) for x in start]
    theirs = slsqp(lambda x: ((x @ unit) ** 2).sum(), start, bounds)
    (ours, _, _), weights = moved(FedMGDA(radius=radius, server_learning_rate=0.5), reports, params)
    np.testing.assert_allclose(weights, theirs.x, atol=1e-5)
    step = np.concatenate([(new - old).ravel() for new, old in zip(ours, params, strict=True)])
    np.testing.assert_allclose(step, 0.5 * weights @ unit, atol=1e-12)
    if radius == 1.0:  # no client loses: Pareto descent
        assert (unit @ step >= 0.5 * ((weights @ unit) ** 2).sum() - 1e-9).all()


def test_where_noise_dominates_fedmgda_is_uniform():
    rng = np.random.default_rng(0)
    reports = [
        Report(k, n, "g", (s * rng.normal(size=20_000),)) for k, (n, s) in enumerate([(90, 1), (10, 9)])
    ]
    _, weights = moved(FedMGDA(radius=1.0), reports, (np.zeros(20_000),))
    np.testing.assert_allclose(weights, [0.5, 0.5], atol=0.02)


def test_a_client_that_did_not_move_moves_nothing():
    still = [Report(0, 50, "g", (np.zeros(2),)), Report(1, 50, "g", (np.array([3.0, 4.0]),))]
    (model, _, coefficients), weights = moved(FedMGDA(0.1, server_learning_rate=1.0), still, (np.zeros(2),))
    np.testing.assert_allclose(weights, [0.6, 0.4])  # the shortest combination is all of the still one
    np.testing.assert_allclose(model[0], 0.4 * np.array([0.6, 0.8]))
    np.testing.assert_allclose(coefficients, [0, 0.4 / 5])


# AAggFF.


@pytest.mark.parametrize("cdf", sorted(CDFS))
def test_the_distributions_are_scipys(cdf):
    theirs = {
        "weibull": stats.weibull_min(2),
        "exponential": stats.expon(),
        "frechet": stats.invweibull(1),
        "normal": stats.norm(1),
        "gumbel": stats.gumbel_r(1),
        "logistic": stats.logistic(1),
    }[cdf]
    x = np.linspace(0.01, 6, 50)
    np.testing.assert_allclose(CDFS[cdf](x), theirs.cdf(x), atol=1e-12)


def test_aaggff_is_the_authors_rule_solved_by_scipy():
    rng = np.random.default_rng(2)
    n, k = [50, 30, 15, 5], 4
    strategy = AAggFF(cdf="exponential")
    state, p = strategy.init(silos(n, [0.5] * k)), np.full(k, 1 / k)
    total, hessian = np.zeros(k), 4 * np.eye(k)
    for _ in range(12):
        losses = rng.uniform(0.1, 0.4, size=k) + np.array([0, 0, 0, 0.9])
        r = (1 - np.exp(-losses / losses.mean())) / k
        g = -r / (1 + p @ r)
        total, hessian = total + g, hessian + np.outer(g, g)

        def objective(x, t=total, h=hessian):
            return t @ x + 2 * x @ x + 0.5 * k / 4 * x @ h @ x

        p = slsqp(objective, np.full(k, 1 / k), [(0.0, 1.0)] * k).x
        weights, state = strategy.weigh(silos(n, losses), state)
        np.testing.assert_allclose(weights, p, atol=1e-6)
    assert weights[3] > 0.3


def test_aaggff_of_even_losses_is_uniform_and_takes_negative_ones():
    strategy = AAggFF()
    for losses in ([0.5, 0.5, 0.5], [-1.0, -3.0, -0.1]):
        reports = silos([80, 15, 5], losses)
        np.testing.assert_allclose(strategy.weigh(reports, strategy.init(reports))[0], [1 / 3] * 3, atol=1e-9)


# All of them.


@pytest.mark.parametrize(
    ("strategy", "losses"),
    [
        (Superquantile(level=0.0), [0.1, 0.5, 2.0]),
        (Superquantile(), [0.5, 0.5, 0.5]),
        (PropFair(baseline=1e9), [0.1, 0.5, 2.0]),
        (PropFair(), [0.5, 0.5, 0.5]),
        (GIFAIR(strength=0.0), [0.1, 0.5, 2.0]),
        (GIFAIR(strength=1.0), [0.5, 0.5, 0.5]),
    ],
    ids=str,
)
def test_without_their_parameter_or_with_even_losses_they_are_fedavg(strategy, losses):
    reports = silos([60, 30, 10], losses, ["a", "b", "c"])
    np.testing.assert_allclose(strategy.weigh(reports, strategy.init(reports))[0], [0.6, 0.3, 0.1], atol=1e-8)
    assert strategy.requests == (MeanLoss(1.0),)


@pytest.mark.parametrize(
    "strategy",
    [Superquantile(level=0.8), PropFair(), GIFAIR(strength=1.0), AAggFF()],
    ids=lambda s: type(s).__name__,
)
def test_who_pays_more_gets_more_of_the_weight(strategy):
    reports = silos([60, 30, 10], [0.2, 0.3, 0.9], ["a", "b", "c"])
    share, _ = strategy.weigh(reports, strategy.init(reports))
    even = silos([60, 30, 10], [0.5, 0.5, 0.5], ["a", "b", "c"])
    assert share[2] > strategy.weigh(even, strategy.init(even))[0][2] * 1.01


MISTAKES = [
    ("superquantile", {"level": 1.0}, "level = 1.0: must be 0 or greater and less than 1"),
    ("superquantile", {"clip": 0.0}, "clip = 0.0: must be greater than 0"),
    ("propfair", {"baseline": 0.0}, "baseline = 0.0: must be greater than 0"),
    ("propfair", {"floor": -1.0}, "floor = -1.0: must be greater than 0"),
    ("gifair", {"strength": 1.5}, "strength = 1.5: must be between 0 and 1"),
    ("fedmgda", {"radius": -0.1}, "radius = -0.1: must be between 0 and 1"),
    ("fedmgda", {"server_learning_rate": 0.0}, "server_learning_rate = 0.0: must be greater than 0"),
    ("aaggff", {"cdf": "gauss"}, "cdf = 'gauss'"),
    ("aaggff", {"floor": 0.0}, "floor = 0.0: must be greater than 0"),
]


@pytest.mark.parametrize(("name", "parameters", "message"), MISTAKES)
def test_a_mistake_is_one_line(name, parameters, message):
    with pytest.raises(ScenarioError) as caught:
        registry.build(registry.resolve(name)[0], parameters)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
