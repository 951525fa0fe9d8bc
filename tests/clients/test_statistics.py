"""The mean loss: clip, sensitivity, noise, and the exact form of the references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedtoll.clients.statistics import release
from fedtoll.scenarios.run import StatisticPlan


class Echo(nn.Module):
    """A model whose one logit is its one feature."""

    def forward(self, x):
        return x


def answer(logits, labels, z, clip=1.0, size=10, **key):
    key = {"seed": 0, "client": 0, "round": 1, "index": 0, **key}
    features = torch.tensor(logits, dtype=torch.float64).reshape(-1, 1)
    plan = StatisticPlan(name="mean_loss", parameters={"clip": clip}, noise_multiplier=z)
    return release(plan, Echo(), features, torch.tensor(labels, dtype=torch.int64), size=size, **key)


def test_the_references_are_exact_and_not_clipped():
    estimate = answer([0.0, 5.0], [1, 0], z=0.0, size=2)
    assert estimate.value == pytest.approx((np.log(2) + np.log1p(np.exp(5))) / 2)
    assert estimate.sd == 0


def test_neighbours_differ_by_at_most_clip_over_public_size():
    with_, without = answer([0.0, 50.0], [1, 0], z=1.0), answer([0.0], [1], z=1.0)
    assert with_.value - without.value == pytest.approx(1.0 / 10)


def test_a_loss_that_is_not_finite_counts_as_the_clip():
    assert answer([np.nan], [1], z=1.0).value == pytest.approx(answer([50.0], [0], z=1.0).value)


def test_no_records_still_release_noise():
    assert answer([], [], z=1.0).value != 0


def test_the_noise_has_the_sd_that_it_states_and_is_fresh():
    values = np.array([answer([0.0], [1], z=3.0, round=r).value for r in range(4000)])
    sd = answer([0.0], [1], z=3.0).sd
    assert sd == pytest.approx(3.0 / 10)
    assert values.std() == pytest.approx(sd, rel=0.05)
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.07
    keys = [{}, {"seed": 1}, {"client": 1}, {"round": 2}, {"index": 1}]
    assert len({answer([0.0], [1], z=3.0, **k).value for k in keys}) == 5
