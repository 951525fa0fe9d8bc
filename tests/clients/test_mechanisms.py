"""Private statistics: clip, sensitivity, noise, and the exact values of the references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedtoll.clients.mechanisms import EvaluatedRecords, evaluate, release
from fedtoll.scenarios.run import StatisticPlan
from fedtoll.scenarios.statistics import STATISTICS


class Echo(nn.Module):
    """A model whose one logit is its one feature."""

    def forward(self, x):
        return x


def evaluated(logits, labels, codes=None, size=10) -> EvaluatedRecords:
    """Return records of two classes and three groups with these logits, labels and groups."""
    features = torch.tensor(logits, dtype=torch.float64).reshape(-1, 1)
    labels_N = torch.tensor(labels, dtype=torch.int64)
    groups_N = torch.tensor(codes or [0] * len(labels), dtype=torch.int64)
    return evaluate(Echo(), features, labels_N, groups_N, size=size, groups=3, classes=2)


def answer(logits, labels, z, clip=1.0, size=10, **key):
    return release_of("mean_loss", evaluated(logits, labels, size=size), z, clip, **key)


def release_of(name, records, z, clip=1.0, group=None, **key):
    key = {"seed": 0, "client": 0, "round": 1, "index": 0, **key}
    parameters = {"clip": clip} if name.endswith("loss") else {}
    plan = StatisticPlan(name=name, parameters=parameters, noise_multiplier=z)
    return release(plan, records, group=group, **key)


def test_the_references_are_exact_and_not_clipped():
    estimate = answer([0.0, 5.0], [1, 0], z=0.0, size=2)
    assert estimate.value == pytest.approx((np.log(2) + np.log1p(np.exp(5))) / 2)
    assert estimate.sd == 0


@pytest.mark.usefixtures("unrounded")
def test_neighbours_differ_by_at_most_clip_over_public_size():
    with_, without = answer([0.0, 50.0], [1, 0], z=1.0), answer([0.0], [1], z=1.0)
    assert with_.value - without.value == pytest.approx(1.0 / 10)


def test_a_loss_that_is_not_finite_counts_as_the_clip():
    assert answer([np.nan], [1], z=1.0).value == pytest.approx(answer([50.0], [0], z=1.0).value)


def test_no_records_still_release_noise():
    assert answer([], [], z=1.0).value != 0


@pytest.mark.slow
def test_the_noise_has_the_reported_sd_and_is_fresh():
    values = np.array([answer([0.0], [1], z=3.0, round=r).value for r in range(4000)])
    sd = answer([0.0], [1], z=3.0).sd
    assert sd == pytest.approx(3.0 / 10)
    assert values.std() == pytest.approx(sd, rel=0.05)
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.07
    keys = [{}, {"seed": 1}, {"client": 1}, {"round": 2}, {"index": 1}]
    assert len({answer([0.0], [1], z=3.0, **k).value for k in keys}) == 5


# The other statistics.

LOGITS, LABELS, GROUPS = [0.0, 2.0, -1.0, 3.0, 0.5], [1, 0, 0, 1, 0], [0, 2, 2, 0, 2]
LOSSES = [np.log1p(np.exp(-x if y else x)) for x, y in zip(LOGITS, LABELS, strict=True)]


def by_hand(name, clip):
    """Compute a statistic of the five records, record by record."""
    shape = STATISTICS[name](**({"clip": clip} if name.endswith("loss") else {})).shape(3, 2)
    value = np.zeros(shape)
    for x, y, g, loss in zip(LOGITS, LABELS, GROUPS, LOSSES, strict=True):
        predicted = int(x >= 0)
        pair = [min(loss, clip) / clip, 1]
        if name == "mean_loss":
            value += min(loss, clip) / 10
        elif name == "error_rate":
            value += (predicted != y) / 10
        elif name == "group_loss":
            value[g] += pair
        elif name == "label_group_loss":
            value[g, y] += pair
        elif name == "group_score":
            value[g] += [1 / (1 + np.exp(x)), 1 / (1 + np.exp(-x))]
        else:
            value[g, y, predicted] += 1
    return value


@pytest.mark.parametrize("name", STATISTICS)
def test_each_statistic_is_what_its_declaration_says(name):
    records = evaluated(LOGITS, LABELS, GROUPS)
    exact = release_of(name, records, z=0.0, clip=50.0)
    np.testing.assert_allclose(exact.value, by_hand(name, 50.0), rtol=1e-12)
    assert exact.sd == 0
    tiny = release_of(name, records, z=1e-9, clip=0.5)  # clipped, with negligible noise
    np.testing.assert_allclose(tiny.value, by_hand(name, 0.5), atol=1e-7)


@pytest.mark.usefixtures("unrounded")
@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("outlier", [0.0, 1e6, -1e6, np.nan, np.inf])
def test_one_record_changes_a_statistic_by_at_most_its_sensitivity(name, outlier):
    """With the same noise; some record reaches the bound."""
    declaration = STATISTICS[name](**({"clip": 0.5} if name.endswith("loss") else {}))
    without = release_of(name, evaluated(LOGITS, LABELS, GROUPS), z=2.0, clip=0.5)
    moved = []
    for label in (0, 1):
        for group in (0, 1, 2):
            records = evaluated([*LOGITS, outlier], [*LABELS, label], [*GROUPS, group])
            with_ = release_of(name, records, z=2.0, clip=0.5)
            moved.append(np.linalg.norm(np.atleast_1d(with_.value - without.value)))
    assert max(moved) <= declaration.sensitivity(10) * (1 + 1e-9)
    if not np.isnan(outlier) and (name != "group_score" or outlier):
        assert max(moved) == pytest.approx(declaration.sensitivity(10))
    if name == "group_score" and np.isnan(outlier):
        assert max(moved) == 0  # its probabilities are none


@pytest.mark.slow
@pytest.mark.parametrize("name", ["group_loss", "label_group_loss", "group_confusion", "group_score"])
def test_every_cell_has_its_own_noise_and_a_declared_group_releases_its_cells_alone(name):
    records = evaluated([0.3, 0.4], [0, 1], [2, 2])
    declaration = STATISTICS[name](**({"clip": 1.0} if name.endswith("loss") else {}))
    draws = np.array([release_of(name, records, z=3.0, round=r).value for r in range(1, 2001)])
    assert draws.shape[1:] == declaration.shape(3, 2)
    cells = draws.reshape(len(draws), -1)
    np.testing.assert_allclose(cells.std(axis=0), 3.0 * declaration.sensitivity(10), rtol=0.08)
    correlation = np.corrcoef(cells.T) - np.eye(cells.shape[1])
    assert np.abs(correlation).max() < 0.09
    own = release_of(name, records, z=0.0, group=2)
    np.testing.assert_array_equal(own.value, release_of(name, records, z=0.0).value[2])


def test_a_probability_of_half_is_a_positive_prediction():
    assert evaluated([0.0], [0]).predicted_N.tolist() == [1]
