"""Compare the cohort engine on a GPU and on one core: seconds per round, and equality of the parameters.

``PYTHONPATH=src python3 -m benchmarks.gpu`` needs only torch, numpy and pydantic (no Flower, no Opacus, no
pandas, no installation) and writes ``GPU.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import measure, synthetic
from benchmarks.tables import numbers, table
from fedtoll.clients.engines.cohort import CohortEngine

CLIENTS = (20, 100, 1_000, 2_000, 10_000)
WIDTHS = ((64, 32), (256, 128), (1024, 512))
ROWS = 256
REPETITIONS = 5
METHOD = """\
{device} beside one core of {processor}; torch {torch}, commit {commit}.
Synthetic records of 100 features, Poisson batches of 64, one epoch a round, clip 1, σ = 1, fp32;
{repetitions} rounds of each in turn, median and range. Copies to and from the GPU are counted.

After an epoch of 20 clients, clipped without noise, in fp64, the largest difference of any parameter is
{worst:.1e}; the parameters moved by up to {moved:.2g}."""


def main() -> None:
    """Measure, and print and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what stands beside a core")
    parser.add_argument("--quick", action="store_true", help="a smoke run: it decides nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "GPU.md", metavar="FILE")
    wanted = parser.parse_args()
    if wanted.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here")
    torch.set_num_threads(1)
    page = _page(wanted.device, quick=wanted.quick)
    print(page)
    wanted.out.write_text(page, encoding="utf-8")


def compare(device: str, clients: int, rows: int, hidden: Sequence[int], repetitions: int) -> dict[str, Any]:
    """Return the seconds of rounds on both devices by turns, after one warm-up round on each."""
    run = synthetic.run(clients, rows, hidden)
    tasks = synthetic.tasks(run)
    engines = {"core": CohortEngine("cpu"), "device": CohortEngine(device)}
    for engine in engines.values():
        engine.train(run, tasks)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    took: dict[str, list[float]] = {name: [] for name in engines}
    for seed in range(1, repetitions + 1):
        anew = synthetic.reseeded(run, seed)
        for name, engine in engines.items():  # the parameters return as arrays, so the device has finished
            took[name].append(measure.seconds(partial(engine.train, anew, tasks)))
    peak = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else 0.0
    return {
        **took,
        "faster": [a / b for a, b in zip(took["core"], took["device"], strict=True)],
        "device_mb": peak,
        "parameters": sum(a.size for a in tasks[0].parameters),
    }


def difference(device: str, clients: int = 20, rows: int = 1_000) -> tuple[float, float]:
    """Return the largest difference of any parameter after an epoch with clipping and without noise, in fp64.

    There is no noise because each device has its own generator. The second number is the distance that the
    parameters moved.
    """
    run = synthetic.run(clients, rows, mechanism="clip-only", precision="float64")
    tasks = synthetic.tasks(run)
    here, there = (CohortEngine(name).train(run, tasks) for name in ("cpu", device))
    worst = moved = 0.0
    for a, b in zip(here, there, strict=True):
        for x, y, start in zip(a.parameters, b.parameters, tasks[0].parameters, strict=True):
            worst = max(worst, float(np.abs(x - y).max()))
            moved = max(moved, float(np.abs(x - start).max()))
    return worst, moved


def _page(device: str, *, quick: bool) -> str:
    repetitions = 2 if quick else REPETITIONS
    clients, widths = (CLIENTS[:2], WIDTHS[:2]) if quick else (CLIENTS, WIDTHS)
    name = torch.cuda.get_device_name() if device == "cuda" else "the same processor"
    machine = measure.machine()
    worst, moved = difference(device)
    head = ["one core, s a round", "GPU, s a round", "GPU faster by", "GPU memory, MB"]
    by_clients = [[f"{k:,}", *_cells(compare(device, k, ROWS, WIDTHS[0], repetitions))] for k in clients]
    by_width = []
    for hidden in widths:
        found = compare(device, 100, 1_000, hidden, repetitions)
        by_width.append(["-".join(map(str, hidden)), f"{found['parameters']:,}", *_cells(found)])
    return (
        "\n\n".join(
            [
                "# The cohort engine on a GPU",
                *(["**A quick run: it shows only that everything works.**"] if quick else []),
                METHOD.format(
                    device=name,
                    processor=machine["processor"],
                    torch=torch.__version__,
                    commit=machine["commit"],
                    repetitions=repetitions,
                    worst=worst,
                    moved=moved,
                ),
                f"Clients of {ROWS} records, MLP 64-32:",
                table(["clients", *head], by_clients),
                "100 clients of 1,000 records:",
                table(["hidden layers", "parameters", *head], by_width),
            ]
        )
        + "\n"
    )


def _cells(found: dict[str, Any]) -> list[str]:
    return [
        numbers(found["core"]),
        numbers(found["device"]),
        numbers(found["faster"]),
        f"{found['device_mb']:,.0f}",
    ]


if __name__ == "__main__":
    main()
