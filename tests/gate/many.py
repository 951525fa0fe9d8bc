"""A second system: 64 clients of public groups, in everything that matters unlike the first.

=================  ==============================  =========================================
                   first system                    second system
=================  ==============================  =========================================
partition          by column, one client a site    by group, several clients each, 2 copies
clients            7, with records of all groups   64, whose group is public
sampling           q of all clients                B of all clients, so q and T differ
steps of a round   1 to 4, 16 for the sampler      10, 13 and 20
rounds             3 to 11                         40
folds              2, even seeds                   3, any seed
accountant         PLD and RDP                     PRV
lost replies       end the run                     are skipped
table              complete                        texts and groups may be missing
C, η, B, δ, ε, z   .3, .7, 4, 1e-5, 8, 30          1.5, 1.3, 2.5, 1e-6, 3, 45
=================  ==============================  =========================================

Everything that must be known in advance is counted here from the file and the scenario.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.split import folds
from fedtoll.server.plan import plan
from tests.gate import replay, tables
from tests.gate.system import EVERYTHING, FEDAVG, PLANNED, System

CLIP, STEP, Z = 1.5, 1.3, 45.0
"""C, the learning rate η, and the noise multiplier of the statistics."""

EPSILON, DELTA, LOSS_CLIP = 3.0, 1e-6, 2.5

SENSITIVITY: dict[str, Callable[[int], float]] = {**replay.SENSITIVITY, "mean_loss": lambda n: LOSS_CLIP / n}
"""The L2 sensitivity of every statistic for a public size n."""

MISSING = "(missing)"
CLIENTS = {"north": 52, "south": 8, MISSING: 4}
"""The number of clients of each group."""

COUNTS = {"north": 392, "south": 79, MISSING: 61}
"""The number of records of each group."""

FOLDS, COPIES, BATCH = 3, 2, 1
ROUNDS, EVERY = 40, 3
"""The rounds of a run; statistics are released in rounds 1, 4, ..., 40."""

GROUP = tuple(name for name, count in CLIENTS.items() for _ in range(count))
"""The group of every client."""

SIZES = tuple(COUNTS[g] * (FOLDS - 1) * COPIES // (FOLDS * CLIENTS[g]) for g in GROUP)
"""The public sizes: 10, 13 and 20."""

STEPS = SIZES
"""T of one epoch with batches of one record."""

RATES = tuple(BATCH / n for n in SIZES)
ROWS = sum(COUNTS.values())
KINDS = ("a", "b", "c")


def path(extreme: int = -1) -> Path:
    """Return the file; with a fold, one record of each group that trains without it is extreme."""
    file = Path(tables.folder()) / f"many-{extreme}.csv"
    if not file.exists():
        frame(extreme).to_csv(file, index=False)
    return file


@functools.cache
def frame(extreme: int = -1) -> pd.DataFrame:
    """Return the records; an empty cell is a missing text."""
    rng = np.random.default_rng(11)
    region = rng.permutation(np.repeat(list(COUNTS), list(COUNTS.values()))).astype(object)
    table = pd.DataFrame({
        "region": np.where(region == MISSING, "", region),
        "code": [f"c{i}" for i in range(ROWS)],
        "x1": rng.uniform(-1, 1, ROWS).round(3),
        "x2": rng.uniform(-1, 1, ROWS).round(3),
        "kind": rng.choice([*KINDS, ""], ROWS),
        "y": np.array(["neg", "pos"])[rng.integers(0, 2, ROWS)],
    })  # fmt: skip
    if extreme >= 0:
        table.loc[outliers(extreme), ["x1", "x2"]] = tables.EXTREME
    return table


@functools.cache
def groups() -> NDArray[np.int64]:
    """Return the group of every record."""
    return frame()["region"].map({"north": 0, "south": 1, "": 2}).to_numpy().astype(np.int64)


@functools.cache
def trains(fold: int) -> NDArray[np.bool_]:
    """Return whether each record trains if this fold is tested; seed s tests fold s mod 3."""
    positive = (frame()["y"] == "pos").to_numpy()
    return np.asarray(folds(groups() * 2 + positive, FOLDS) != fold)


def outliers(fold: int) -> list[int]:
    """Return the first record of each group that trains."""
    return [int(np.flatnonzero(trains(fold) & (groups() == g))[0]) for g in range(len(COUNTS))]


@functools.lru_cache(maxsize=16)
def runs(
    system: System,
    *,
    asks: bool = True,
    extreme: bool = False,
    hidden: int = 8,
    codes: bool = False,
    step: float = STEP,
    rounds: int = ROUNDS,
    epochs: float = 1.0,
    accountant: str = "",
) -> tuple[Run, Run]:
    """Plan a run with DP-SGD and one that only clips. With ``codes``, the model is linear in the codes.

    Calibrating with PRV takes seconds. So the noise is that of RDP, which is more, unless an accountant is
    named; the run then has PRV like any other.
    """
    stated = {
        "name": "many",
        "title": "Many clients",
        "seeds": [system.seed],
        "data": {
            "file": str(path(system.seed % FOLDS if extreme else -1)),
            "groups": ["region"],
            "exclude": ["x1", "x2", "kind"] if codes else ["code"],
            "own": {
                "label": "y",
                "positive": "pos",
                "negative": ["neg"],
                "missing": "category",
                "columns": {
                    "code": {"values": [f"c{i}" for i in range(ROWS)]},
                    "x1": {"centre": 0.0, "scale": 1.0},
                    "x2": {"centre": 0.0, "scale": 1.0},
                    "kind": {"values": list(KINDS)},
                },
                "attributes": {"region": {"values": list(COUNTS)}},
            },
        },
        "split": {"folds": FOLDS},
        "partition": {"kind": "group", "clients": CLIENTS, "copies": COPIES},
        "model": {"kind": "logistic"} if codes else {"kind": "mlp", "hidden": [hidden]},
        "training": {
            "rounds": rounds,
            "batch_size": BATCH,
            "local_epochs": epochs,
            "learning_rate": step,
            "clip": CLIP,
            "engine": system.engine,
            "device": "cpu",
            "precision": system.precision,
            "on_failure": "skip",
        },
        "privacy": {"epsilons": [EPSILON, "clip-only"], "delta": DELTA, "accountant": accountant or "rdp"},
        "statistics": {"noise_multiplier": Z, "every": EVERY},
        "strategies": [{**EVERYTHING, "clip": LOSS_CLIP} if asks else FEDAVG],
    }
    private, clipped = plan(validate(stated, "many.toml"), "many.toml").runs
    return private if accountant else private.model_copy(update={"accountant": "prv"}), clipped


PLANNED.append(runs)

SOME = (0, 1, 5, 6, 12, 31, 49, 50, 51, 52, 59, 60, 63)
"""Some clients: of all groups, in both blocks of the cohort engine, and some 50 apart."""


def observed(system: System) -> tuple[int, ...]:
    """Return the clients that are observed: all, or some with Opacus, which trains them one by one."""
    return tuple(range(len(GROUP))) if system.engine == "cohort" or system.full else SOME
