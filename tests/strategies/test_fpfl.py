"""FPFL, compared with the method of differential multipliers on a problem with known groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.statistics import GroupLoss
from fedtoll.strategies import registry
from fedtoll.strategies.fpfl import FPFL
from tests.strategies.reports import answering

N, GROUPS = np.array([60, 20, 20]), ["a", "a", "b"]
CENTRES = np.array([[0.0, 0.0], [0.2, 0.0], [1.0, 1.0]])


def declared(losses):
    cells = np.zeros((3, 2, 2))
    for k, (n, f) in enumerate(zip(N, losses, strict=True)):
        cells[k, "ab".index(GROUPS[k])] = n * f, n
    return answering("group_loss", N, cells, GROUPS)


def mdmm(gamma, damping, eta, steps):
    """Descend in w and ascend in λ on quadratics, with gradients of the Lagrangian by finite differences."""
    share, w, lam, path = np.array([0.8, 0.2]), np.zeros(2), np.zeros(2), []

    def group_losses(w):
        f = 0.25 * ((w - CENTRES) ** 2).sum(axis=1)
        return np.array([(60 * f[0] + 20 * f[1]) / 80, f[2]])

    def constraints(w):
        r = group_losses(w)
        return r - share @ r

    for _ in range(steps):
        pull = lam + damping * constraints(w)

        def lagrangian(v, pull=pull):
            return share @ group_losses(v) + pull @ constraints(v)

        h = 1e-5
        slope = np.array([(lagrangian(w + h * e) - lagrangian(w - h * e)) / (2 * h) for e in np.eye(2)])
        lam = lam + gamma * constraints(w)
        w = w - eta * slope
        path.append(w)
    return path, lam


def test_it_is_the_method_of_differential_multipliers():
    gamma, damping, eta = 0.3, 0.5, 0.2
    strategy = FPFL(gamma=gamma, damping=damping)
    assert strategy.requests == (GroupLoss(1.0),)
    state, w = strategy.init(declared([0, 0, 0])), np.zeros(2)
    path, lam = mdmm(gamma, damping, eta, 25)
    for expected in path:
        weights, state = strategy.weigh(declared(0.25 * ((w - CENTRES) ** 2).sum(axis=1)), state)
        w = w - eta * weights @ (0.5 * (w - CENTRES))
        np.testing.assert_allclose(w, expected, atol=1e-7)
    np.testing.assert_allclose(state["multipliers"], lam, atol=1e-7)
    assert strategy.instructions(2, state) == {}


def test_group_losses_become_equal():
    strategy = FPFL(gamma=0.5, damping=1.0)
    state, w = strategy.init(declared([0, 0, 0])), np.zeros(2)

    def gap(w):
        f = 0.25 * ((w - CENTRES) ** 2).sum(axis=1)
        return abs((60 * f[0] + 20 * f[1]) / 80 - f[2])

    for _ in range(600):
        weights, state = strategy.weigh(declared(0.25 * ((w - CENTRES) ** 2).sum(axis=1)), state)
        w = w - 0.3 * weights @ (0.5 * (w - CENTRES))
    fedavg = N @ CENTRES / N.sum()
    assert gap(w) < 0.002 < 0.2 < gap(fedavg)


def test_without_steps_it_is_fedavg():
    strategy = FPFL(gamma=0.0, damping=0.0)
    reports = declared([0.1, 0.7, 0.9])
    np.testing.assert_allclose(strategy.weigh(reports, strategy.init(reports))[0], N / 100)
    rng, state = np.random.default_rng(0), strategy.init(mixed(np.zeros((2, 3))))
    for t in range(3):
        given = answering("group_loss", M_KG.sum(axis=1), rng.normal(9, 30, size=(2, 3, 2)), sd=30.0)
        _, state = strategy.weigh(given, state)
        np.testing.assert_allclose(strategy.instructions(t + 2, state)["group_weights"], [1, 1, 1])


M_KG = np.array([[40, 10, 50], [60, 30, 0]])


def mixed(losses_KG, there=(0, 1)):
    reports = answering("group_loss", M_KG.sum(axis=1), np.stack([M_KG * losses_KG, M_KG], axis=-1))
    return [reports[k] for k in there]


def test_mixed_clients_receive_the_weights_of_the_last_release():
    rng, strategy = np.random.default_rng(1), FPFL(gamma=0.2, damping=0.3)
    state, lam = strategy.init(mixed(np.zeros((2, 3)))), np.zeros(3)
    assert strategy.instructions(1, state) == {}
    share = M_KG.sum(axis=0) / M_KG.sum()
    for t in range(2, 7):
        losses = rng.uniform(0.2, 0.6, size=(2, 3))
        weights, state = strategy.weigh(mixed(losses), state)
        np.testing.assert_allclose(weights, M_KG.sum(axis=1) / M_KG.sum())
        r = (M_KG * losses).sum(axis=0) / M_KG.sum(axis=0)
        gap = r - share @ r
        pull = lam + 0.3 * gap
        lam = lam + 0.2 * gap
        expected = 1 + pull / share - pull.sum()
        assert (expected >= 0).all()  # no projection here
        sent: Any = strategy.instructions(t, state)["group_weights"]
        np.testing.assert_allclose(sent, expected, atol=1e-9)
        assert share @ sent == pytest.approx(1)


def test_groups_that_are_missing_keep_their_multipliers():
    strategy = FPFL(gamma=0.2, damping=0.3)
    losses = np.array([[0.2, 0.5, 0.9], [0.4, 0.3, 0.0]])
    _, state = strategy.weigh(mixed(losses), {})
    _, after = strategy.weigh(mixed(losses, (1,)), state)  # only client 0 holds the third group
    assert after["multipliers"][2] == pytest.approx(state["multipliers"][2] + 0.2 * 0.0, abs=1e-12)
    np.testing.assert_allclose(after["share"], state["share"])
    reports = declared([0.1, 0.2, 0.9])
    _, state = strategy.weigh(reports, strategy.init(reports))
    weights, after = strategy.weigh(reports[:2], state)
    assert after["multipliers"][1] == state["multipliers"][1]
    np.testing.assert_allclose(weights, [0.75, 0.25])


@pytest.mark.parametrize("name", ["gamma", "damping"])
def test_negative_steps_are_refused(name):
    with pytest.raises(ScenarioError, match=rf"{name} = -1\.0: must be 0 or greater"):
        registry.build(registry.resolve("fpfl")[0], {name: -1.0})
