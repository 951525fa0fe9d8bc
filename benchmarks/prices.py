"""Where is the price gap real at best constants, and does any strategy change it? Fixed before it ran.

``python -m benchmarks.prices search|confirm|strategies|tables FOLDER [CELL ...]``

**Cells.** Every library scenario and its blind twin. Five of them also with a small network, with clients
that mix the groups (``iid``), and with a quarter of a small group's training records (``keep``). Four
strengths of concept shift in synthetic records. :func:`cells` lists them.

**search.** FedAvg alone, ε = ∞, 1, .5 and .1, seeds 0 to 19. Constants: seven learning rates, the scenario's
recipe times 1/8 to 8, chosen at each ε on the public tenth with seeds 1000 and 1001. The recipe is run, too.

**confirm.** The same with seeds 100 to 119, and choices made anew with seeds 1100 and 1101.

**A gap is real** if the conservative 95% interval of the price gap in log-loss (all pairs of groups,
Bonferroni) lies above 0 in both stages. It matters if it is also at least .01 nats in both.

**strategies.** All fourteen with the parameters in :data:`STRATEGIES`, each with the same seven learning
rates, at ε = ∞, 1 and .5, seeds 0 to 19. Tests: each against FedAvg at each ε, in the price gap, disparity
and everybody's utility, with Holm over the whole family of a cell.

Nothing here is chosen by its results: a cell that shows no gap stays in the table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
VARIED = {
    "adult-race": (13, "Other"),
    "compas-race": (9, "(rest)"),
    "law-race": (12, "(rest)"),
    "nesarc-race": (10, "American Indian/Alaska Native"),
    "tv16-race": (14, "Asian"),
}
"""The scenarios that are varied: their number of clients, and a small group with enough records."""

STRATEGIES = (
    '{name="fedavg"}',
    '{name="uniform"}',
    '{name="term", t=5.0}',
    '{name="q-fedavg", q=5.0}',
    '{name="afl", gamma=1.0}',
    '{name="fedminmax", gamma=1.0}',
    '{name="fairfed"}',
    '{name="fedprox", mu=0.1}',
    '{name="fedavgm"}',
    '{name="fedadam"}',
    '{name="fedyogi", server_learning_rate=0.1}',
    '{name="epsilon-weighted"}',
    '{name="inverse-variance"}',
    '{name="noise-fair"}',
)
SEEDS = {"search": "0:20", "confirm": "100:120", "strategies": "0:20"}
TUNING = {"search": "[1000, 1001]", "confirm": "[1100, 1101]", "strategies": "[1000, 1001]"}
LEAST = 0.01
"""Nats: a smaller price gap does not matter."""


def cells() -> dict[str, tuple[str, list[str]]]:
    """Return every cell: the scenario that it starts from, and its overrides."""
    from fedtoll.scenarios.read import library

    found: dict[str, tuple[str, list[str]]] = {name: (name, []) for name in library()}
    for name, (clients, smallest) in VARIED.items():
        found[f"{name} + network"] = (name, ["model={kind='mlp', hidden=[16]}"])
        found[f"{name} + mixed clients"] = (name, [f"partition={{kind='iid', clients={clients}}}"])
        found[f"{name} + fewer"] = (name, [f"partition.keep={{{smallest!r}=0.25}}"])
    for shift in (0.0, 0.1, 0.66, 1.0):
        override = f"data.synthetic.groups.Shifted.concept_shift={shift}"
        found[f"synthetic-shift at {shift:g}"] = ("synthetic-shift", [override])
    return found


def run(stage: str, cell: str, folder: Path) -> None:
    """Run one cell of a stage; calling it again resumes."""
    import fedtoll
    from fedtoll.scenarios.read import read

    scenario, overrides = cells()[cell]
    rate = read(scenario).training.learning_rate
    rates = [rate * factor for factor in FACTORS]
    epsilons = '["inf", 1, 0.5]' if stage == "strategies" else '["inf", 1, 0.5, 0.1]'
    strategies = STRATEGIES if stage == "strategies" else STRATEGIES[:1]
    overrides = [
        *overrides,
        f"tune={{learning_rates={rates}, seeds={TUNING[stage]}}}",
        f"privacy.epsilons={epsilons}",
        f"strategies=[{', '.join(strategies)}]",
    ]
    if stage == "strategies":
        quantities = '["toll gap", "disparity", "utility"]'
        overrides.append(f'compare={{baseline="fedavg", epsilons=[1.0, 0.5], quantities={quantities}}}')
    out = folder / stage / cell.replace(" ", "-").replace("+", "and")
    fedtoll.run(scenario, out=out, overrides=overrides, seeds=SEEDS[stage])


def gaps(stage: str, cell: str, folder: Path) -> pd.DataFrame:
    """Return FedAvg's price and recipe gap at each ε of a finished cell."""
    import fedtoll
    from fedtoll.scenarios.measures import EVERYBODY

    results = fedtoll.load(folder / stage / cell.replace(" ", "-").replace("+", "and"))
    assert results.recipe is not None
    rows = []
    for label, part in (("price", results), ("recipe", results.recipe)):
        tolls = part.toll()
        everybody = tolls[tolls["group"] == EVERYBODY].set_index(["strategy", "mechanism", "epsilon"])["toll"]
        for _, row in part.toll_gap().iterrows():
            if row["mechanism"] == "dp-sgd" and row["strategy"] == "fedavg":
                key = (row["strategy"], row["mechanism"], row["epsilon"])
                rows.append({"what": label, "everybody_price": everybody[key], **row.to_dict()})
    return pd.DataFrame(rows).assign(cell=cell, stage=stage)


def collect(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return all finished cells as plain values."""
    import fedtoll

    found: dict[str, Any] = {"gaps": [], "strategies": []}
    for stage in ("search", "confirm"):
        for cell in names:
            if (folder / stage / cell.replace(" ", "-").replace("+", "and") / "resolved.json").exists():
                found["gaps"] += json.loads(gaps(stage, cell, folder).to_json(orient="records"))
    for cell in names:
        place = folder / "strategies" / cell.replace(" ", "-").replace("+", "and")
        if (place / "resolved.json").exists():
            compared = fedtoll.load(place).comparisons().assign(cell=cell)
            found["strategies"] += json.loads(compared.to_json(orient="records"))
    return found


def main() -> None:
    """Run a stage over all cells, or write the collected figures as JSON."""
    stage, folder, *chosen = sys.argv[1:]
    names = chosen or list(cells())
    if stage == "tables":
        print(json.dumps(collect(Path(folder), names), indent=1, ensure_ascii=False))
        return
    for cell in names:
        run(stage, cell, Path(folder))
        print(stage, cell, flush=True)


if __name__ == "__main__":
    main()
