"""Large work: many clients, many records, many runs in step, and a tuned sweep; each in a fresh process.

``python -m benchmarks.large '{"kind": "clients", "clients": 20000}'`` measures one point.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import measure

CLIENTS = (10_000, 20_000, 100_000)
RECORDS = (250_000, 500_000, 1_000_000)
NUMBERS, TEXTS = 25, 5
"""Columns of a large table: numbers, and texts of four values."""

ROUNDS = 6
"""Rounds whose mean is the time of a round: the difference of two runs, so that the start does not count."""

STEP_RUNS, STEP_CLIENTS = 15, 2_000
"""Runs in step, and clients of each."""

TUNED = (
    "tune={learning_rates=[0.0625, 0.125, 0.25, 0.5, 1, 2, 4, 8]}",
    'privacy.epsilons=["inf", 8, 4, 1, 0.5]',
)
"""Changes to ``adult-race``: eight candidates and five ε. It has three strategies and ten seeds."""


def measure_all(quick: bool = False) -> dict[str, Any]:
    """Return every point with its seconds and peak memory."""
    clients, records = (CLIENTS[:1], RECORDS[:1]) if quick else (CLIENTS, RECORDS)
    found: dict[str, Any] = {
        "start": [start() for _ in range(1 if quick else 5)],
        "clients": [point(kind="clients", clients=k) for k in clients],
        "records": [point(kind="records", records=n) for n in records],
        "in_step": point(kind="in_step", runs=2 if quick else STEP_RUNS, clients=STEP_CLIENTS),
    }
    if not quick:
        found["tuned"] = point(kind="tuned")
    return found


def start() -> float:
    """Return the seconds of a fresh process that imports what ``fedtoll run`` needs for its plan."""
    return measure.seconds(partial(measure.child, "benchmarks.large", json.dumps({"kind": "start"})))


def point(**settings: Any) -> dict[str, Any]:
    """Measure one point in a fresh process."""
    said = measure.child("benchmarks.large", json.dumps(settings))
    return {**settings, **json.loads(said.splitlines()[-1])}


def _start() -> dict[str, Any]:
    import fedtoll.cli
    import fedtoll.commands.run
    import fedtoll.sweep.run

    return {"imported": [fedtoll.cli.__name__, fedtoll.commands.run.__name__, fedtoll.sweep.run.__name__]}


def _clients(clients: int) -> dict[str, Any]:
    """Plan a run of many clients under local trust, a hundredth of whom train in a round, and train it."""
    return _planned_and_trained(
        "census-devices",
        f"partition.clients={clients}",
        'strategies=[{name="fedavg"}]',
        'privacy={epsilons=[2], delta=1e-7, trust="local", accountant="pld"}',
        'participation={kind="fraction", fraction=0.01}',
        "training.clip=1",
    )


def _records(records: int) -> dict[str, Any]:
    """Plan a run over a table of many records in a Parquet file, one client for each group, and train it."""
    with tempfile.TemporaryDirectory(prefix="bench-large-") as folder:
        file = Path(folder) / "large.parquet"
        _write(file, records)
        scenario = Path(folder) / "large.toml"
        scenario.write_text(_SCENARIO, encoding="utf-8")
        return _planned_and_trained(str(scenario))


def _planned_and_trained(name: str, *overrides: str) -> dict[str, Any]:
    from fedtoll.scenarios.read import read
    from fedtoll.server.plan import plan
    from fedtoll.server.trainer import Trainer

    begun = time.perf_counter()
    took = []
    for rounds in (1, 1 + ROUNDS):
        planned = plan(read(name, [*overrides, f"training.rounds={rounds}"], "0:1"), name)
        if rounds == 1:
            planning, peak = time.perf_counter() - begun, measure.peak_megabytes()
        trainer = Trainer(planned.federation)
        took.append(measure.seconds(partial(trainer.train, planned.runs[-1])))
    return {
        "plan": planning,
        "plan_mb": peak,
        "round": (took[1] - took[0]) / ROUNDS,
        "peak_mb": measure.peak_megabytes(),
    }


def _write(file: Path, records: int) -> None:
    """Write a table of normal numbers and texts, five groups, and a label that follows two numbers."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    group = rng.choice(5, records, p=[0.6, 0.2, 0.1, 0.07, 0.03])
    columns: dict[str, Any] = {
        f"x{i}": rng.standard_normal(records).astype("float32") for i in range(NUMBERS)
    }
    for i in range(TEXTS):
        columns[f"c{i}"] = pd.Categorical.from_codes(rng.integers(0, 4, records), list("abcd"))
    columns["group"] = pd.Categorical.from_codes(group, [f"g{i}" for i in range(5)])
    score = columns["x0"] + 0.5 * columns["x1"] + 0.3 * group
    columns["label"] = np.where(rng.random(records) < 1 / (1 + np.exp(-score)), "yes", "no")
    pd.DataFrame(columns).to_parquet(file)


_SCENARIO = "\n".join(
    [
        'name = "large"',
        'title = "A large table"',
        'seeds = "0:1"',
        "[data]",
        'file = "large.parquet"',
        'groups = ["group"]',
        "[data.own]",
        'label = "label"',
        'positive = "yes"',
        'negative = ["no"]',
        "[data.own.columns]",
        *(f"x{i} = {{ low = -4, high = 4 }}" for i in range(NUMBERS)),
        *(f'c{i} = {{ values = ["a", "b", "c", "d"] }}' for i in range(TEXTS)),
        "[data.own.attributes]",
        'group = { values = ["g0", "g1", "g2", "g3", "g4"] }',
        "[training]",
        "rounds = 1",
        "batch_size = 1000",
        "local_epochs = 1.0",
        "learning_rate = 0.5",
        "clip = 1.0",
        "[privacy]",
        "epsilons = [1]",
        "delta = 1e-7",
        "[[strategies]]",
        'name = "fedavg"',
    ]
)


def _in_step(runs: int, clients: int) -> dict[str, Any]:
    """Train one round of many runs of many clients in step, and of one run alone."""
    from fedtoll.scenarios.read import read
    from fedtoll.server.plan import plan
    from fedtoll.server.trainer import Trainer

    overrides = [
        f'partition={{kind="iid", clients={clients}}}',
        'strategies=[{name="fedavg"}, {name="uniform"}, {name="term", t=5.0}]',
        'privacy.epsilons=["inf", 8, 4, 1, 0.5]',
        "training={rounds=1, batch_size=16, local_epochs=1.0, learning_rate=0.5, clip=1.0}",
    ]
    planned = plan(read("adult-race", overrides, "0:1"), "in step")
    trainer = Trainer(planned.federation)
    chosen = planned.runs[:runs]
    alone = measure.seconds(partial(trainer.train, chosen[0]))
    before = measure.peak_megabytes()
    together = measure.seconds(partial(trainer.train_together, chosen))
    return {"alone": alone, "together": together, "alone_mb": before, "peak_mb": measure.peak_megabytes()}


def _tuned() -> dict[str, Any]:
    """Run the tuned sweep with ``fedtoll run``, on all cores, from nothing to its report."""
    import subprocess

    with tempfile.TemporaryDirectory(prefix="bench-tuned-") as folder:
        changes = [word for change in TUNED for word in ("--set", change)]
        command = [sys.executable, "-m", "fedtoll.cli", "run", "adult-race", *changes, "--out", folder]
        took = measure.seconds(partial(subprocess.run, command, check=True, capture_output=True))
        trained = len(list((Path(folder) / "runs").iterdir()))
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": took, "runs": trained, "processor": children.ru_utime + children.ru_stime}


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "start": _start,
    "clients": _clients,
    "records": _records,
    "in_step": _in_step,
    "tuned": _tuned,
}


if __name__ == "__main__":
    import os

    os.environ["OMP_NUM_THREADS"] = "1"
    wanted = json.loads(sys.argv[1])
    kind = wanted.pop("kind")
    if kind not in ("start", "tuned"):
        import torch

        torch.set_num_threads(1)
    print(json.dumps(KINDS[kind](**wanted)))
