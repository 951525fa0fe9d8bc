"""FedFB, compared with the authors' rule written as loops over groups and labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import read
from fedtoll.scenarios.statistics import LabelGroupLoss
from fedtoll.server.plan import plan
from fedtoll.strategies import registry
from fedtoll.strategies.fedfb import HEAVIEST, FedFB
from tests.strategies.reports import answering

COUNTS_KGY = np.array([[[40, 20], [10, 5], [8, 2]], [[0, 60], [30, 25], [1, 9]]])
N = COUNTS_KGY.sum(axis=(1, 2))


def reports(losses_KGY, clip=1.0, counts=COUNTS_KGY, sd=0.0):
    cells = np.stack([counts * losses_KGY / clip, counts], axis=-1)
    return answering("label_group_loss", counts.sum(axis=(1, 2)), cells, sd=sd)


def oracle(rounds, alpha):
    """Return the weights of records by group and label after each round, by the authors' code."""
    m = {(y, z): COUNTS_KGY[:, z, y].sum() for y in (0, 1) for z in range(3)}
    size = {z: m[0, z] + m[1, z] for z in range(3)}
    lam = {(y, z): size[z] / N.sum() for y in (0, 1) for z in range(3)}
    for t, losses in enumerate(rounds, 1):
        total = {(y, z): (COUNTS_KGY[:, z, y] * losses[:, z, y]).sum() for y in (0, 1) for z in range(3)}
        f = {
            z: -total[0, 0] / size[0]
            + total[1, 0] / size[0]
            + total[0, z] / size[z]
            - total[1, z] / size[z]
            + m[0, 0] / size[0]
            - m[0, z] / size[z]
            for z in (1, 2)
        }
        for z in range(3):
            change = -sum(f.values()) if z == 0 else f[z]
            lam[0, z] += alpha / t**0.5 * change
            lam[0, z] = max(0, min(lam[0, z], 2 * size[z] / N.sum()))
            lam[1, z] = 2 * size[z] / N.sum() - lam[0, z]
    return [lam[y, z] / (size[z] / N.sum()) for z in range(3) for y in (0, 1)]


@pytest.mark.parametrize("alpha", [0.02, 0.3])
def test_it_is_the_authors_rule(alpha):
    rng = np.random.default_rng(0)
    rounds = [rng.uniform(0, 1.5, size=(2, 3, 2)) for _ in range(6)]
    strategy = FedFB(alpha=alpha, clip=2.0)
    assert strategy.requests == (LabelGroupLoss(2.0),)
    state = strategy.init(reports(rounds[0]))
    assert strategy.instructions(1, state) == {}
    for t, losses in enumerate(rounds, 1):
        weights, state = strategy.weigh(reports(losses, clip=2.0), state)
        np.testing.assert_allclose(weights, N / N.sum())
        sent: Any = strategy.instructions(t + 1, state)["group_weights"]
        np.testing.assert_allclose(sent, oracle(rounds[:t], alpha), atol=1e-12)
        assert all(0 <= w <= HEAVIEST for w in sent)


def test_a_group_predicted_positive_too_often_gets_heavier_negatives():
    always_positive = np.zeros((2, 3, 2))
    always_positive[:, 1, 0] = 1.0  # every negative of the second group is an error: all of it is positive
    strategy = FedFB(alpha=0.05)
    _, state = strategy.weigh(reports(always_positive), {})
    weights = np.reshape(strategy.instructions(2, state)["group_weights"], (3, 2))
    assert weights[1, 0] > 1 > weights[1, 1]
    np.testing.assert_allclose(weights.sum(axis=1), 2.0)


def test_without_a_step_it_is_fedavg_whatever_the_noise():
    rng = np.random.default_rng(1)
    state: dict[str, Any] = {}
    for t in range(4):
        given = answering("label_group_loss", N, rng.normal(5, 40, size=(2, 3, 2, 2)), sd=40.0)
        weights, state = FedFB(alpha=0.0).weigh(given, state)
        np.testing.assert_allclose(weights, N / N.sum())
        np.testing.assert_allclose(FedFB(alpha=0.0).instructions(t + 2, state)["group_weights"], np.ones(6))


def test_losses_are_over_the_records_of_those_who_are_there():
    rng, strategy = np.random.default_rng(2), FedFB(alpha=0.02)
    losses = rng.uniform(size=(2, 3, 2))
    _, state = strategy.weigh(reports(losses), {})
    _, after = strategy.weigh(reports(losses)[1:], state)
    present = COUNTS_KGY[1]
    rate = (present[:, 0] * losses[1, :, 0] + present[:, 1] * (1 - losses[1, :, 1])) / present.sum(axis=1)
    change = 0.02 / math.sqrt(2) * (rate - rate[0])
    change[0] = -change[1:].sum()
    np.testing.assert_allclose(after["tilt"] - state["tilt"], change, atol=1e-12)
    np.testing.assert_allclose(after["share"], state["share"])  # the absent one's records still count


def test_a_group_is_not_taken_to_be_smaller_than_its_noise():
    losses = np.full((2, 3, 2), 0.5)
    _, state = FedFB(alpha=0.01).weigh(reports(losses, sd=30.0), {})
    floor = math.sqrt(4 * 30.0**2)  # two clients, two labels
    known = np.maximum(COUNTS_KGY.sum(axis=(0, 2)), floor)
    np.testing.assert_allclose(state["share"], known / known.sum())


def test_more_than_two_classes_are_refused_before_anything_is_trained():
    for spec in ('{name="fedfb"}', '{name="shrinkage", target="fedfb"}'):
        with pytest.raises(ScenarioError, match="needs two classes, and the records have 10") as caught:
            plan(read("digits-rare", [f"strategies=[{spec}]"], "0:1"), "digits")
        assert "\n" not in str(caught.value)


def test_a_negative_step_is_refused():
    with pytest.raises(ScenarioError, match=r"alpha = -1\.0: must be 0 or greater"):
        registry.build(registry.resolve("fedfb")[0], {"alpha": -1.0})
