"""Clients with generated records, for scaling. Needs torch, numpy and pydantic, but not Flower or a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from fedtoll.clients import model
from fedtoll.clients.engines.base import Task
from fedtoll.scenarios.budgets import Mechanism
from fedtoll.scenarios.run import ClientPlan, Run, StrategyPlan
from fedtoll.scenarios.scenario import Data, Model, Partition, Split

FEATURES = 100
BATCH = 64


def run(
    clients: int,
    rows: int,
    hidden: Sequence[int] = (64, 32),
    *,
    mechanism: Mechanism = "dp-sgd",
    precision: Literal["float32", "float64"] = "float32",
) -> Run:
    """Return a run of equal clients: one epoch per round, expected batch 64, clip 1, σ = 1."""
    rate = min(1.0, BATCH / rows)
    plan = {
        "group": "all",
        "size": rows,
        "sampling_rate": rate,
        "batch_size": rate * rows,
        "steps": max(1, round(1 / rate)),
        "noise_multiplier": 1.0 if mechanism == "dp-sgd" else 0.0,
    }
    return Run(
        data=Data(source="adult", groups=("race",)),  # never loaded, because the tasks contain the records
        checksum="",
        split=Split(),
        partition=Partition(),
        model=Model(kind="mlp", hidden=tuple(hidden)),
        classes=2,
        groups=("all",),
        rounds=1,
        learning_rate=0.1,
        clip=1.0,
        engine="cohort",
        device="cpu",
        precision=precision,
        mechanism=mechanism,
        epsilon=np.inf,
        delta=None,
        accountant=None,
        strategy=StrategyPlan(name="fedavg", path="", parameters={}),
        statistics=(),
        clients=tuple(ClientPlan(id=i, **plan) for i in range(clients)),
        seed=0,
        noise_seed=0,
    )


def reseeded(run: Run, seed: int) -> Run:
    """Return the run with another seed, so that it shares no draw with others."""
    return run.model_copy(update={"seed": seed, "noise_seed": seed})


def tasks(of: Run) -> list[Task]:
    """Return the task of every client: normal features, and labels that depend on the first feature."""
    dtype = model.DTYPES[of.precision]
    start = model.initial(of.model, FEATURES, of.classes, of.precision, of.seed)
    generator = torch.Generator().manual_seed(1)
    made = []
    for client in of.clients:
        features = torch.randn(client.size, FEATURES, generator=generator, dtype=dtype)
        labels = (features[:, 0] > 0).long()
        made.append(Task(client, 1, start, features, labels))
    return made
