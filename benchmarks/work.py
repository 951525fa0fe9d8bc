"""The common work: one sweep of runs, its records for the peers, and the tasks of one round.

All variants train the same model on the same records of the same 20 clients: Adult, crossed by race and
sex, several clients for the two large cells, one for each other.
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
    """How much is measured.

    Parameters
    ----------
    rounds
        Of every whole run.
    repetitions
        Of whole runs, each of all variants in turn.
    training
        Repetitions of training alone, each of all variants in turn.
    piece
        Runs of the sweep that all cores train in one repetition, for each core.
    whole_sweep
        Whether the sweep is also trained whole, once.
    kills
        How often the command is killed.
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
    """Return the sweep as a scenario; at its middle ε most clients' σ is about 1."""
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
    """Return the run that is timed alone: FedAvg at the middle ε, seed 0."""
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
    """Return what an engine gets in one round: every client's records and the first model."""
    import torch

    from fedtoll.clients import model
    from fedtoll.clients.engines.base import Task

    of = Federation.of(run).records(run.seed)
    start = model.initial(run.model, of.table.features.shape[1], run.classes, run.precision, run.seed)
    return [
        Task(
            plan=client,
            round=round,
            parameters=start,
            features_ND=torch.from_numpy(of.table.features[rows]),
            labels_N=torch.from_numpy(of.table.label[rows]),
        )
        for client, rows in zip(run.clients, of.held, strict=True)
    ]


def export(run: Run, file: Path) -> Path:
    """Write the records as the peers read them: features, labels and client of every row, -1 if held out."""
    of = Federation.of(run).records(run.seed)
    client = np.full(len(of.table), -1, dtype=np.int64)
    for k, rows in enumerate(of.held):
        client[rows] = k
    np.savez(
        file,
        features=of.table.features,
        labels=of.table.label,
        client=client,
        group=of.groups.codes,
    )
    return file
