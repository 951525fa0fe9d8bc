"""Random small scenarios over all that a scenario can say, and their runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedtoll.scenarios.run import Run
from fedtoll.server.plan import plan
from fedtoll.server.store import Store
from fedtoll.sweep import executor
from tests.server.federation import FEDAVG, TERM, YOGI, scenario

LOCAL = [
    FEDAVG,
    TERM,
    YOGI,
    *({"name": n} for n in ("uniform", "fairfed", "q-fedavg", "fedminmax", "shrinkage", "fedadam", "fpfl")),
]
PUBLIC = [FEDAVG, {"name": "uniform"}, {"name": "fedavgm"}, {"name": "fedadam"}]
"""Strategies that need the sum of all updates alone."""

SUMS = [*PUBLIC[:2], *({"name": n} for n in ("fedminmax", "fpfl", "fedfb"))]
"""Strategies that run on sums, and those that need totals of groups too."""

MODELS: list[dict[str, Any]] = [
    {"kind": "logistic"},
    {"kind": "mlp", "hidden": [5]},
    {"kind": "mlp", "hidden": [6, 4]},
]
ONE_STEP = {"sampling_rate": 0.02, "local_steps": 1}
CLIENT = {"unit": "client", "trust": "central", "delta": 1e-6}
WORLDS: list[dict[str, Any]] = [
    {},
    {"training": {"average": True, "server_schedule": "cosine", "on_failure": "skip"}},
    {"training": {"batch_size": 40, "local_epochs": 0.02}, "statistics": {"every": 2, "smoothing": 0.5}},
    {"participation": {"kind": "fraction", "fraction": 0.5, "seed": 3}},
    {"participation": {"kind": "availability", "availability": {"Female": 0.5}}},
    {"privacy": {"epsilon_factor": {"Female": 0.5}}, "statistics": {"budget_share": 0.2}},
    {"privacy": {"trust": "secure-aggregation", "colluding": 1}, "training": ONE_STEP},
    {"privacy": {"trust": "central"}, "training": ONE_STEP},
    {"privacy": CLIENT, "participation": {"kind": "poisson", "rate": 0.5}, "strategies": SUMS},
    {
        "privacy": {**CLIENT, "adaptive_clip": 0.5, "trust": "secure-aggregation"},
        "statistics": {"every": 2, "record_cap": 50.0},
        "strategies": SUMS,
    },
    {"client": {"mechanism": "dpsgd-f"}},
    {"client": {"mechanism": "adaptive-clip", "momentum": 0.5}},
    {"personal": {"kind": "mr-mtl", "strength": 0.2}, "strategies": PUBLIC[:2]},
    {"calibration": {"prior": 0.5}},
    {"partition": {"kind": "iid", "clients": 4, "skew": 1.0}},
    {"partition": {"kind": "dirichlet", "clients": 3, "alpha": 1.0}},
]
"""Sections of a scenario. Its strategies are :data:`LOCAL`, or :data:`PUBLIC` where the server sees sums."""


def runs_of(number: int) -> list[Run]:
    """Return up to four runs of the scenario of a number; every sixteen have all worlds once."""
    rng = np.random.default_rng(number)
    world = dict(WORLDS[number % len(WORLDS)])
    sums = world.get("privacy", {}).get("trust", "local") != "local"
    known = world.pop("strategies", PUBLIC if sums else LOCAL)
    picked = [known[i] for i in rng.choice(len(known), size=2, replace=False)]
    training: dict[str, Any] = {
        "rounds": int(rng.integers(2, 5)),
        "learning_rate": float(rng.choice([0.5, 2.0])),
        "clip": float(rng.choice([0.5, 2.0])),
        "precision": str(rng.choice(["float32", "float32", "float64"])),
        **(
            {"sampling_rate": 0.01, "local_steps": 2} if "batch_size" not in world.get("training", {}) else {}
        ),
        **world.pop("training", {}),
    }
    if "batch_size" in training:
        training |= {"sampling_rate": None, "local_steps": None}
    epsilons = [["inf", 2], [8, 1], ["inf", 0.5]][int(rng.integers(3))]
    changes = {
        "seeds": [int(rng.integers(3))],
        "model": MODELS[int(rng.integers(len(MODELS)))],
        "training": training,
        "partition": {"clients": {"Male": int(rng.integers(2, 4)), "Female": int(rng.integers(1, 3))}},
        **world,
        "privacy": {"epsilons": epsilons, **world.get("privacy", {})},
    }
    return list(plan(scenario(*picked, **changes), f"scenario {number}").runs)


def store_all(texts: Path, out: Path) -> None:
    """Train the runs of a file, one JSON text per line, with two workers; for a process that is killed."""
    runs = [Run.from_json(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    assert executor.execute(runs, Store(out), workers=2) == []


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    store_all(Path(sys.argv[1]), Path(sys.argv[2]))
