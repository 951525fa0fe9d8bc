"""Where is the price gap real at best constants, and does any strategy change it? Fixed before it ran.

``python -m benchmarks.prices STAGE FOLDER [CELL ...]``, then ``python -m benchmarks.prices collect FOLDER``

**Cells.** Every library scenario and its blind twin. Five of them also with a small network, with clients
that mix the groups (``iid``), and with a quarter of a small group's training records (``keep``). Four
strengths of concept shift in synthetic records. :func:`cells` lists them.

**search.** FedAvg alone, ε = ∞, 1, .5 and .1, seeds 0 to 9. Constants: seven learning rates, the scenario's
recipe times 1/8 to 8, chosen at each ε on the public tenth with seeds 1000 and 1001. The recipe is run, too.

**confirm.** The cells in which the search finds a gap, with seeds 100 to 119, and choices made anew with
seeds 1100 and 1101.

**A gap is found** if the conservative 95% interval of the price gap in log-loss (all pairs of groups,
Bonferroni) lies above 0, and *real* if both stages find it at the same ε. It *matters* if it is also at least
.01 nats in both.

**strategies.** In every cell with a real gap that matters, at ε = ∞ and the largest ε at which it does: the
strategies of :data:`STRATEGIES`, each with the same seven learning rates, seeds 0 to 15 (up to which the
tests are exact). Tests: each against FedAvg, in the price gap, disparity and everybody's utility, with Holm
over the whole family of a cell. A strategy that the cell's scenario refuses is left out.

**repairs.** The strategies that change the gap or disparity of a cell significantly, and FedAvg, once more
with seeds 100 to 119 and choices made anew with seeds 1100 and 1101. A change that both stages find is
confirmed.

**library.** Added after the stages above had been seen, and fixed before it ran. Every library scenario
and its blind twin as they are (but for :data:`LATER`), whether they have a real gap or not, at ε = ∞, 1
and .5: the strategies of version 0.1.0 (:data:`FOURTEEN`) that the scenario accepts. Learning rates,
seeds and quantities as in ``strategies``, with Holm over the family of a scenario at both ε.

**again.** The strategies that ``library`` finds to change the gap or disparity of a scenario at either ε, and
FedAvg, as in ``repairs``.

Nothing here is chosen by its results: a cell that shows no gap stays in the table. Calling a stage again
resumes it. ``collect`` adds what is finished to ``prices.json``; ``python -m benchmarks.prices_page``
writes that into ``docs/prices.md`` and ``docs/changes.md``. What was found before is read from the
folder, or else from ``prices.json``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).parent
Row = dict[str, Any]
EPSILONS = (1.0, 0.5, 0.1)
FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
VARIED = {
    "adult-race": (13, "Other"),
    "compas-race": (9, "(rest)"),
    "law-race": (12, "(rest)"),
    "nesarc-race": (10, "American Indian/Alaska Native"),
    "tv16-race": (14, "Asian"),
}
"""The scenarios that are varied: their number of clients, and a small group with enough records."""

STRATEGIES = {
    "fedavg": '{name="fedavg"}',
    "uniform": '{name="uniform"}',
    "term": '{name="term", t=5.0}',
    "q-fedavg": '{name="q-fedavg", q=5.0}',
    "afl": '{name="afl", gamma=1.0}',
    "fedminmax": '{name="fedminmax", gamma=1.0}',
    "fairfed": '{name="fairfed"}',
    "fedprox": '{name="fedprox", mu=0.1}',
    "fedavgm": '{name="fedavgm"}',
    "fedadam": '{name="fedadam"}',
    "fedyogi": '{name="fedyogi", server_learning_rate=0.1}',
    "epsilon-weighted": '{name="epsilon-weighted"}',
    "inverse-variance": '{name="inverse-variance"}',
    "noise-fair": '{name="noise-fair"}',
    "shrinkage": '{name="shrinkage"}',
    "dp-adam-bc": '{name="dp-adam-bc"}',
    "superquantile": '{name="superquantile"}',
    "fpfl": '{name="fpfl"}',
}
FOURTEEN = tuple(STRATEGIES)[:14]
"""The strategies of version 0.1.0."""
AGAIN = {"search": "confirm", "strategies": "repairs", "library": "again"}
"""Each stage that finds something, and the stage that confirms it."""
SEEDS = {"search": "0:10", "strategies": "0:16", "library": "0:16"} | dict.fromkeys(AGAIN.values(), "100:120")
TUNING = dict.fromkeys(AGAIN, "[1000, 1001]") | dict.fromkeys(AGAIN.values(), "[1100, 1101]")
TABLES = {
    "gaps": ("search", "confirm"),
    "strategies": ("strategies", "repairs"),
    "library": ("library", "again"),
}
"""The tables of ``prices.json``, and the stages whose rows each has."""
LATER = "law-race-network"
"""The scenario that was made from what this search found."""
COMPARED = (1.0, 0.5)
"""The ε of ``library`` and ``again``."""
LEAST = 0.01
"""Nats: a smaller price gap does not matter."""


def cells() -> dict[str, tuple[str, list[str]]]:
    """Return every cell: the scenario that it starts from, and its overrides."""
    from fedtoll.scenarios.read import library

    found: dict[str, tuple[str, list[str]]] = {name: (name, []) for name in library() if name != LATER}
    for name, (clients, smallest) in VARIED.items():
        found[f"{name} + network"] = (name, ["model={kind='mlp', hidden=[16]}"])
        found[f"{name} + mixed clients"] = (name, [f"partition={{kind='iid', clients={clients}}}"])
        found[f"{name} + fewer"] = (name, [f"partition.keep={{{smallest!r}=0.25}}"])
    for shift in (0.0, 0.1, 0.66, 1.0):
        override = f"data.synthetic.groups.Shifted.concept_shift={shift}"
        found[f"synthetic-shift at {shift:g}"] = ("synthetic-shift", [override])
    return found


def place(stage: str, cell: str, folder: Path) -> Path:
    """Return the results folder of a cell."""
    return folder / stage / cell.replace(" ", "-").replace("+", "and")


def finished(stage: str, cell: str, folder: Path) -> bool:
    """Say whether a cell has been run to its end."""
    return _mark(stage, cell, folder).exists()


def _mark(stage: str, cell: str, folder: Path) -> Path:
    out = place(stage, cell, folder)
    return out.parent / f"{out.name}.finished"


def run(stage: str, cell: str, folder: Path) -> None:
    """Run one cell of a stage, if the stages before say so; calling it again resumes."""
    import fedtoll
    from fedtoll.scenarios.read import read

    scenario, overrides = cells()[cell]
    epsilons = epsilons_of(stage, cell, folder)
    chosen = {"strategies": list(STRATEGIES), "library": list(FOURTEEN)}.get(stage, ["fedavg"])
    first = {"repairs": "strategies", "again": "library"}.get(stage)
    if first:
        chosen += changed(first, cell, folder)
    if not epsilons or (first and chosen == ["fedavg"]):
        return
    if stage not in TABLES["gaps"]:
        quantities = '["toll gap", "disparity", "utility"]'
        stated = f'compare={{baseline="fedavg", epsilons={json.dumps(epsilons)}, quantities={quantities}}}'
        overrides = [*overrides, stated]
    rate = read(scenario).training.learning_rate
    rates = [rate * factor for factor in FACTORS]
    overrides = [
        *overrides,
        f"tune={{method='grid', learning_rates={rates}, seeds={TUNING[stage]}}}",
        f"privacy.epsilons={json.dumps(['inf', *epsilons])}",
    ]
    if stage in ("strategies", "library"):
        chosen = [name for name in chosen if accepted(scenario, overrides, name)]
    listed = f"strategies=[{', '.join(STRATEGIES[name] for name in chosen)}]"
    fedtoll.run(scenario, out=place(stage, cell, folder), overrides=[*overrides, listed], seeds=SEEDS[stage])
    _mark(stage, cell, folder).touch()


def epsilons_of(stage: str, cell: str, folder: Path) -> list[float]:
    """Return the finite ε of a stage in a cell; none if the stage does not run there."""
    if stage == "search":
        return list(EPSILONS)
    if stage in ("library", "again"):
        return list(COMPARED) if not cells()[cell][1] else []
    search, confirm = (gaps(name, cell, folder) for name in ("search", "confirm"))
    verdicts = {e: verdict(search, confirm, e) for e in EPSILONS}
    if stage == "confirm":
        return list(EPSILONS) if set(verdicts.values()) != {"none"} else []
    real = [e for e in EPSILONS if verdicts[e] == "real"]
    return [max(real)] if real else []


def accepted(scenario: str, overrides: list[str], name: str) -> bool:
    """Say whether a scenario accepts a strategy."""
    from fedtoll.scenarios.errors import ScenarioError
    from fedtoll.scenarios.read import read
    from fedtoll.server.plan import plan

    alone = [*(o for o in overrides if not o.startswith("compare=")), f"strategies=[{STRATEGIES[name]}]"]
    try:
        plan(read(scenario, alone, seeds="0:1"), scenario)
    except ScenarioError:
        return False
    return True


def stored() -> dict[str, list[Row]]:
    """Return the rows of ``prices.json`` by table."""
    tables: dict[str, Any] = json.loads((HERE / "prices.json").read_text(encoding="utf-8"))
    return {name: tables[name] for name in TABLES}


def rows_of(table: str, stage: str, cell: str, folder: Path) -> list[Row]:
    """Return the rows of a cell: those of its results folder if it is finished, else those stored before."""
    if finished(stage, cell, folder):
        return measured_gaps(stage, cell, folder) if table == "gaps" else comparisons(stage, cell, folder)
    return [row for row in stored()[table] if (row["stage"], row["cell"]) == (stage, cell)]


def comparisons(stage: str, cell: str, folder: Path) -> list[Row]:
    """Return the tests of all strategies against FedAvg in a finished cell."""
    import fedtoll

    compared = fedtoll.load(place(stage, cell, folder)).comparisons()
    return _plain(compared.assign(cell=cell, stage=stage))


def gaps(stage: str, cell: str, folder: Path) -> list[Row]:
    """Return FedAvg's price and recipe gap at each ε of a cell; empty if it has not been run."""
    return rows_of("gaps", stage, cell, folder)


def measured_gaps(stage: str, cell: str, folder: Path) -> list[Row]:
    """Return FedAvg's price and recipe gap at each ε of a finished cell, and which choices lie on an edge."""
    import fedtoll
    from fedtoll.scenarios.measures import EVERYBODY

    results = fedtoll.load(place(stage, cell, folder))
    assert results.recipe is not None
    edges = on_edge(results.resolved["tuning"])
    rows = []
    for label, part in (("price", results), ("recipe", results.recipe)):
        tolls = part.toll()
        everybody = tolls[tolls["group"] == EVERYBODY].set_index("epsilon")
        for row in part.toll_gap().drop(columns="seeds").to_dict("records"):
            if row["mechanism"] == "dp-sgd":
                of_all = everybody.loc[row["epsilon"]]
                row["everybody_price"], row["collapsed"] = of_all["toll"], of_all["collapsed"]
                row["edge"] = label == "price" and bool({"inf", row["epsilon"]} & edges)
                rows.append({"what": label, **row, "cell": cell, "stage": stage})
    return _plain(pd.DataFrame(rows))


def _plain(frame: pd.DataFrame) -> list[Row]:
    """Return the rows of a table as JSON has them: ``None`` for what is not finite."""
    found: list[Row] = json.loads(frame.to_json(orient="records"))
    return found


def on_edge(tuning: list[dict[str, Any]]) -> set[float | str]:
    """Return every ε at which the smallest or the largest learning rate was chosen."""
    found: set[float | str] = set()
    for epsilon in {row["epsilon"] for row in tuning}:
        tried = [row for row in tuning if row["epsilon"] == epsilon]
        rates: dict[float, bool] = {row["constants"]["learning_rate"]: row["chosen"] for row in tried}
        if rates[min(rates)] or rates[max(rates)]:
            found.add(epsilon)
    return found


def at(rows: list[Row], what: str, epsilon: float) -> Row | None:
    """Return the price or the recipe gap of a cell at an ε."""
    return next((r for r in rows if r["what"] == what and r["epsilon"] == epsilon), None)


def verdict(search: list[Row], confirm: list[Row], epsilon: float) -> str:
    """Return what both stages say of a cell's price gap.

    ``none``: the search finds none. ``found once``: it has not been run again yet. ``not confirmed``,
    ``small`` and ``real`` are as the page says.
    """
    first, second = (at(rows, "price", epsilon) for rows in (search, confirm))
    if not first or not (first["gap_low"] or 0) > 0:
        return "none"
    if not second:
        return "found once"
    if not (second["gap_low"] or 0) > 0:
        return "not confirmed"
    return "real" if min(first["gap"], second["gap"]) >= LEAST else "small"


def changed(stage: str, cell: str, folder: Path) -> list[str]:
    """Return the strategies that change the price gap or disparity of a cell significantly."""
    rows = rows_of(stage, stage, cell, folder)
    labels = [r["strategy"] for r in rows if r["significant"] and r["quantity"] in ("toll gap", "disparity")]
    return [name for name in STRATEGIES if any(label.partition("(")[0] == name for label in labels)]


def collect(folder: Path) -> dict[str, Any]:
    """Return the rows of all cells that have been run, in this folder or before, as plain values."""
    from fedtoll.scenarios.run import NUMERICS

    found: dict[str, Any] = {"numerics": NUMERICS}
    for table, stages in TABLES.items():
        found[table] = [
            row for stage in stages for cell in cells() for row in rows_of(table, stage, cell, folder)
        ]
    return found


def written(found: dict[str, Any]) -> str:
    """Return the collected rows as JSON, one line for each."""
    parts = [f'"numerics": {found["numerics"]}']
    for table in TABLES:
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in found[table])
        parts.append(f'"{table}": [\n{lines}\n]')
    return "{" + ",\n".join(parts) + "}\n"


def main() -> None:
    """Run a stage over all cells, or write the collected figures."""
    from fedtoll.scenarios.errors import FedtollError

    stage, folder, *chosen = sys.argv[1:]
    if stage not in (known := [*SEEDS, "collect"]):
        sys.exit(f"{stage}: not a stage; known: {', '.join(known)}")
    names = chosen or list(cells())
    if stage == "collect":
        (HERE / "prices.json").write_text(written(collect(Path(folder))), encoding="utf-8")
        return
    for cell in names:
        begin = time.monotonic()
        try:
            run(stage, cell, Path(folder))
        except (FedtollError, OSError) as error:  # e.g. records that cannot be fetched here
            print(f"{stage} {cell}: not run: {error}", flush=True)
        else:
            print(f"{stage} {cell}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
