"""A/A check on real training: with one noise seed each, two copies of a strategy seldom differ."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.server.trainer import Trainer
from fedtoll.toll import sign_flip
from tests.server.federation import FEDAVG, planned

COPIES, SEEDS = 5, 8


@pytest.mark.slow
def test_two_noise_seeds_of_one_strategy_seldom_differ_significantly():
    """If all seeds shared their noise, most pairs would differ. ``benchmarks/same_strategy.py`` has more."""
    losses = np.empty((COPIES, SEEDS))
    trainer: Trainer | None = None
    for k in range(COPIES):
        privacy = {"epsilons": [0.2], "noise_seed": k}
        scenario = planned(FEDAVG, privacy=privacy, seeds=list(range(SEEDS)))
        trainer = trainer or Trainer(scenario.federation)
        for run in scenario.runs:
            groups = trainer.train(run)["groups"]
            final = groups[(groups["round"] == run.rounds) & (groups["group"] == EVERYBODY)]
            losses[k, run.seed] = final["log_loss"].item()
    p = [sign_flip(losses[a] - losses[b]) for a, b in combinations(range(COPIES), 2)]
    assert np.mean(np.array(p) <= 0.05) <= 0.1
