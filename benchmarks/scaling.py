"""Scaling of the cohort engine: time and memory by clients, rows and width of the model.

Each point is measured in a fresh process, to get its own peak memory:
``python -m benchmarks.scaling '{"clients": 2000, "rows": 256}'``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from benchmarks import measure

CLIENTS = (10, 100, 1_000, 2_000, 10_000)
ROWS = (250, 1_000, 4_000, 16_000)
WIDTHS = ((16, 8), (64, 32), (256, 128), (1024, 512))
CLIENT_ROWS = 256
"""Records of each client where their number grows: four steps a round."""


def measure_all(quick: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Return the points of all four series, with their seconds per round and their peak memory."""
    last = 2 if quick else None
    rounds = 1 if quick else 5
    return {
        "clients": [point(clients=k, rows=CLIENT_ROWS, rounds=rounds) for k in CLIENTS[:last]],
        "rows": [point(clients=20, rows=n, rounds=rounds) for n in ROWS[:last]],
        "width": [point(clients=20, rows=2_000, hidden=w, rounds=rounds) for w in WIDTHS[:last]],
        "app": [point(clients=k, app=True) for k in CLIENTS[:last]],
    }


def point(**settings: Any) -> dict[str, Any]:
    """Measure one point in a fresh process."""
    answer: dict[str, Any] = json.loads(measure.child("benchmarks.scaling", json.dumps(settings)))
    return {**settings, **answer}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Return b of the least-squares fit seconds = a · size^b, on logarithms.

    Examples
    --------
    >>> round(exponent([10, 100, 1000], [2, 20, 200]), 6)
    1.0
    """
    x, y = [math.log(v) for v in sizes], [math.log(v) for v in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )


def _engine(clients: int, rows: int, hidden: Sequence[int] = (64, 32), rounds: int = 5) -> dict[str, Any]:
    """Train rounds of synthetic clients with the engine only."""
    import torch

    from benchmarks import synthetic
    from fedtoll.clients.engines.cohort import CohortEngine

    torch.set_num_threads(1)
    run = synthetic.run(clients, rows, hidden)
    tasks = synthetic.tasks(run)
    engine = CohortEngine()
    before = measure.peak_megabytes()
    with measure.one_core():
        runs = [synthetic.reseeded(run, seed) for seed in range(1 + rounds)]
        first, *took = [measure.seconds(partial(engine.train, each, tasks)) for each in runs]
    return {
        "seconds": measure.spread(took),
        "first": first,
        "peak_mb": measure.peak_megabytes(),
        "before_mb": before,
        "row_visits": clients * rows,
        "parameters": sum(a.size for a in tasks[0].parameters),
    }


def _app(clients: int) -> dict[str, Any]:
    """Time a round of Adult over many clients, including messages, checks, ledger and evaluation.

    It is half the difference between three rounds and one, so the start of the run is not included.
    """
    import torch

    from fedtoll.scenarios.read import read
    from fedtoll.server.plan import plan
    from fedtoll.server.trainer import simulate

    torch.set_num_threads(1)
    shares = {"Black": 0.1, "Asian-Pac-Islander": 0.03, "Amer-Indian-Eskimo": 0.01, "Other": 0.01}
    dealt = {group: max(1, int(share * clients)) for group, share in shares.items()}
    dealt["White"] = clients - sum(dealt.values())
    overrides = [
        f"partition.clients={{{', '.join(f'{group} = {k}' for group, k in dealt.items())}}}",
        'model={kind = "mlp", hidden = [64, 32]}',
        "training={rounds = 2, batch_size = 16, local_epochs = 1.0, learning_rate = 0.5, clip = 1.0}",
        "privacy.epsilons=[8]",
        'strategies=[{name = "fedavg"}]',
    ]
    took = []
    with measure.one_core():
        for rounds in (1, 3):
            (run,) = plan(read("adult-race", [*overrides, f"training.rounds={rounds}"], "0:1"), "app").runs
            took.append(measure.seconds(partial(simulate, run)))
    return {"seconds": measure.spread([(took[1] - took[0]) / 2]), "peak_mb": measure.peak_megabytes()}


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    print(json.dumps(_app(wanted["clients"]) if wanted.pop("app", False) else _engine(**wanted)))
