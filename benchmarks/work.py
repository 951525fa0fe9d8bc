"""The work of all variants: one sweep of runs, its records for the peers, and the tasks of one round.

All variants train the same model on the same records of the same 20 clients: Adult, crossed by race and
sex, with several clients for each of the two large cells and one for every other cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Scenario

if TYPE_CHECKING:
    from fedtoll.clients.engines.base import Task

SWEEP = 150
"""Runs of the sweep: 10 seeds x 5 ε x 3 strategies."""


@dataclass(frozen=True)
class Size:
    """The size of a measurement.

    Parameters
    ----------
    rounds
        Number of rounds of a whole run.
    repetitions
        Number of repetitions of whole runs.
    training
        Number of repetitions of training alone.
    piece
        Number of runs per core in a piece of the sweep.
    whole_sweep
        Whether to train the whole sweep once, too.
    kills
        Number of kills.
    """

    rounds: int = 40
    repetitions: int = 3
    training: int = 15
    piece: int = 15
    whole_sweep: bool = True
    kills: int = 50


FULL = Size()
QUICK = Size(rounds=3, repetitions=1, training=2, piece=2, whole_sweep=False, kills=2)


def scenario(rounds: int = FULL.rounds) -> Scenario:
    """Return the scenario of the sweep; at its middle ε, σ is about 1 for most clients."""
    return validate(
        {
            "name": "benchmark-sweep",
            "title": "The sweep of the benchmarks",
            "seeds": "0:10",
            "data": {"source": "adult", "groups": ["race", "sex"]},
            "partition": {"clients": {"White/Male": 7, "White/Female": 5, "*": 1}},
            "model": {"kind": "mlp", "hidden": [64, 32]},
            "training": {
                "rounds": rounds,
                "batch_size": 64,
                "local_epochs": 1.0,
                "learning_rate": 0.5,
                "clip": 1.0,
                "engine": "cohort",
                "device": "cpu",
            },
            "privacy": {"epsilons": [32, 16, 8, 4, 2]},
            "strategies": [{"name": "fedavg"}, {"name": "uniform"}, {"name": "term", "t": 2.0}],
        },
        "benchmark sweep",
    )


def sweep(rounds: int = FULL.rounds) -> tuple[Run, ...]:
    """Return all runs of the sweep."""
    from fedtoll.server.plan import plan

    return plan(scenario(rounds), "benchmark sweep").runs


def one(rounds: int = FULL.rounds) -> Run:
    """Return the run of the single-run measurements: FedAvg at the middle ε, seed 0."""
    from fedtoll.server.plan import plan

    whole = scenario(rounds)
    narrow: dict[str, Any] = {
        "seeds": (0,),
        "strategies": whole.strategies[:1],
        "privacy": whole.privacy.model_copy(update={"epsilons": whole.privacy.epsilons[2:3]}),
    }
    (run,) = plan(whole.model_copy(update=narrow), "benchmark sweep").runs
    return run


def tasks(run: Run, round: int) -> list[Task]:
    """Return the tasks of an engine in one round: the records of every client and the initial model."""
    import torch

    from fedtoll.clients import model
    from fedtoll.clients.engines.base import Task

    seed_records = Federation.of(run).records(run.seed)
    start = model.initial(
        run.model, seed_records.table.features.shape[1], run.classes, run.precision, run.seed
    )
    return [
        Task(
            plan=client,
            round=round,
            parameters=start,
            features_ND=torch.from_numpy(seed_records.table.features[rows]),
            labels_N=torch.from_numpy(seed_records.table.label[rows]),
        )
        for client, rows in zip(run.clients, seed_records.held, strict=True)
    ]


def export(run: Run, file: Path) -> Path:
    """Write the records for the peers: features, label and client (-1 if held out) of every row."""
    seed_records = Federation.of(run).records(run.seed)
    client = np.full(len(seed_records.table), -1, dtype=np.int64)
    for k, rows in enumerate(seed_records.held):
        client[rows] = k
    np.savez(
        file,
        features=seed_records.table.features,
        labels=seed_records.table.label,
        client=client,
        group=seed_records.groups.codes,
    )
    return file
