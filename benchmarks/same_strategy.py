"""An A/A check on real runs, which counts how often a strategy differs significantly from itself.

Each results folder holds one strategy at one finite ε, with the same seeds and records but another
``privacy.noise_seed``. For every two folders, the strategy of one is compared with that of the other as the
product compares two strategies: 200 times, ten seeds are drawn, two of each fold, and all quantities that a
scenario may declare are tested. The check fails if more than 5% of the re-pairings have a significant
difference (after Holm, with an interval that excludes 0).

Re-pairings share seeds: with 70 seeds, 200 of them are worth about seven independent ones for each two
folders. More folders give more evidence than more re-pairings.

Run: ``python -m benchmarks.same_strategy DIR DIR...`` with results folders of 70 seeds, e.g. of
``fedtoll run FILE --set privacy.noise_seed=1 --seeds 0:70 --out DIR``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.coverage import draws

REPAIRINGS = 200
SEEDS = 10
MOST = 0.05


@dataclass
class Pair:
    """The results of two copies of a strategy, in the form that comparisons read."""

    groups: pd.DataFrame
    resolved: dict[str, Any]
    folder: Path = Path()
    clients: pd.DataFrame = field(default_factory=pd.DataFrame)
    rounds: pd.DataFrame = field(default_factory=pd.DataFrame)
    ledger: pd.DataFrame = field(default_factory=pd.DataFrame)
    predictions: pd.DataFrame = field(default_factory=pd.DataFrame)


def final_rows(groups: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the last round of every run."""
    run = ["strategy", "mechanism", "epsilon", "seed"]
    return groups[groups["round"] == groups.groupby(run)["round"].transform("max")]


def compared(a: Any, b: Any, seeds: list[int]) -> pd.DataFrame:
    """Return the comparisons of two folders' strategies on some seeds."""
    from fedtoll.scenarios.compare import Compare
    from fedtoll.toll import comparisons

    copies = [
        rows[rows["seed"].isin(seeds)].assign(strategy=label)
        for label, rows in (("fedavg", a.groups), ("copy", b.groups))
    ]
    quantities = Compare.model_fields["quantities"].annotation.__args__[0].__args__
    scenario = a.resolved["scenario"] | {
        "strategies": [{"name": "fedavg", "label": "fedavg"}, {"name": "copy", "label": "copy"}],
        "compare": {"quantities": list(quantities)},
    }
    return comparisons(Pair(pd.concat(copies), {"scenario": scenario}))


def check(a: Any, b: Any, repairings: int = REPAIRINGS) -> pd.DataFrame:
    """Return one row per quantity: the shares of re-pairings with p ≤ .05 and with a significant difference.

    The row ``any`` is about the whole family.
    """
    seeds = np.array(sorted(set(a.groups["seed"]) & set(b.groups["seed"])))[:70]
    frames = []
    for chosen in draws(SEEDS, repairings):
        frame = compared(a, b, seeds[chosen].tolist())
        frames.append(frame.assign(small=frame["p"] <= 0.05)[["quantity", "small", "significant"]])
    found = pd.concat(frames, keys=range(repairings), names=["repairing"])
    by_quantity = found.groupby("quantity", sort=False)[["small", "significant"]].mean()
    by_quantity.loc["any"] = found.groupby("repairing")[["small", "significant"]].any().mean()
    return by_quantity


def main() -> int:
    """Print the shares for every two folders; return 1 if they exceed 5% overall."""
    from fedtoll.server.results import load

    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_strategy", description=main.__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    folders = parser.parse_args().folders
    results = []
    for folder in folders:
        loaded = load(folder)
        results.append(Pair(final_rows(loaded.groups), loaded.resolved))
    found = {}
    for (x, a), (y, b) in combinations(zip(folders, results, strict=True), 2):
        found[f"{x.name}, {y.name}"] = check(a, b)
    table = pd.concat(found)
    print(table.round(3).to_string())
    overall = table.groupby(level=1, sort=False).mean()
    print(f"\nover all pairs of folders\n{overall.round(3).to_string()}")
    return int(overall.loc["any", "significant"] > MOST)


if __name__ == "__main__":
    sys.exit(main())
