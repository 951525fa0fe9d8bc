"""The pages docs/prices.md and docs/changes.md, from prices.json: ``python -m benchmarks.prices_page``."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable
from itertools import product
from operator import itemgetter
from pathlib import Path

from benchmarks.prices import (
    AGAIN,
    EPSILONS,
    FACTORS,
    FOURTEEN,
    LATER,
    LEAST,
    SEEDS,
    STRATEGIES,
    Row,
    at,
    cells,
    verdict,
)
from benchmarks.prices_text import CHANGES, PRICES

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
MANY = 0.5
ALIKE = "epsilon-weighted"
"""A strategy that is ``uniform`` where all clients have the same ε, as in all cells; it is not counted."""


def page(found: Row) -> str:
    """Return the page. All its figures are those of ``found``, what ``prices collect`` has written."""
    strategies, library = (_counted(found[table]) for table in ("strategies", "library"))
    search = _by_cell(r for r in found["gaps"] if r["stage"] == "search")
    confirm = _by_cell(r for r in found["gaps"] if r["stage"] == "confirm")
    verdicts = {
        cell: {e: verdict(search[cell], confirm.get(cell, []), e) for e in EPSILONS} for cell in search
    }
    return PRICES.format(
        summary=_summary(search, confirm, verdicts, [*strategies, *library]),
        factors=len(FACTORS),
        least=LEAST,
        search=_said(SEEDS["search"]),
        confirm=_said(SEEDS["confirm"]),
        strategies=len(STRATEGIES.keys() - {"fedavg", ALIKE}),
        settings=_settings(STRATEGIES),
        cells=len(search),
        numerics=found["numerics"],
        later=LATER,
        missing=_missing(search),
        gaps=_table(_gap_rows(search, verdicts)),
        confirmed=_table(_confirmed_rows(search, confirm, verdicts)),
        changes=_changes(strategies, "strategies"),
        fourteen=len(FOURTEEN),
        library=_library(library, search),
        uncompared=_uncompared(verdicts, strategies),
    )


def changes_page(found: Row) -> str:
    """Return the page of all significant changes in library scenarios, with intervals."""
    changes = _changes(_counted(found["library"]), "library")
    return CHANGES.format(changes=changes, settings=_settings(FOURTEEN))


def _counted(compared: list[Row]) -> list[Row]:
    return [row for row in compared if row["strategy"] != ALIKE]


def _settings(names: Iterable[str]) -> str:
    """Return the parameters of strategies that are stated, as `name` (key=value)."""
    stated = (re.fullmatch(r'\{name="(.+?)", (.+)\}', STRATEGIES[name]) for name in names)
    return ", ".join(f"`{found[1]}` ({found[2]})" for found in stated if found)


def _summary(
    search: dict[str, list[Row]],
    confirm: dict[str, list[Row]],
    verdicts: dict[str, dict[float, str]],
    compared: list[Row],
) -> str:
    lines = []
    for e in EPSILONS:
        real, once = ([c for c, v in verdicts.items() if v[e] == word] for word in ("real", "found once"))
        lost = [c for c in real if (at(confirm[c], "price", e) or {})["collapsed"] >= MANY]
        recipe, price = (
            statistics.median(row["gap"] for rows in search.values() if (row := at(rows, what, e)))
            for what in ("recipe", "price")
        )
        lines.append(
            f"- **ε = {e:g}**: {len(real)} of {len(verdicts)} cells have a price gap that is real and matters"
            + (f" ({len(lost)} of them with a collapsed model)" if lost else "")
            + (f", and {len(once)} more have one that was found once" if once else "")
            + f". In the median cell the recipe gap is {recipe:.3f} nats and the price gap {price:.3f}."
        )
    for stage, which in (
        ("strategies", "cells with a real gap, at its largest ε"),
        ("library", "library scenarios, real gap or not, at ε = 1 and 0.5"),
    ):
        both, tried = _confirmed(compared, stage), {cell for cell, _ in _tried(compared, stage)}
        count = {k: sum(key[3:] == k for key in both) for k in product(("toll gap", "disparity"), (-1, 1))}
        lines.append(
            f"- **Strategies in {len(tried)} {which}**, found and confirmed:"
            f" {count['toll gap', -1]} narrow the price gap and {count['toll gap', 1]} widen it;"
            f" {count['disparity', -1]} narrow the disparity and {count['disparity', 1]} widen it."
        )
    return "\n".join(lines)


def _gap_rows(search: dict[str, list[Row]], verdicts: dict[str, dict[float, str]]) -> Iterable[list[str]]:
    yield ["cell", *(f"{what}, ε = {e:g}" for e in EPSILONS for what in ("recipe", "price"))]
    for cell, rows in search.items():
        line = [cell]
        for e in EPSILONS:
            price = at(rows, "price", e)
            mark = "" if verdicts[cell][e] == "none" else "*"
            mark += "†" if price and price["edge"] else ""
            mark += "‡" if price and price["collapsed"] >= MANY else ""
            line += [_gap(at(rows, "recipe", e)), _gap(price) + mark]
        yield line


def _confirmed_rows(
    search: dict[str, list[Row]], confirm: dict[str, list[Row]], verdicts: dict[str, dict[float, str]]
) -> Iterable[list[str]]:
    yield ["cell", "ε", "pays most", "everybody", "collapsed", "search", "confirm", "verdict"]
    for cell, by_epsilon in verdicts.items():
        for e in EPSILONS:
            if by_epsilon[e] == "none":
                continue
            second = at(confirm.get(cell, []), "price", e) or {}
            yield [
                cell,
                f"{e:g}",
                str(second.get("worst_group", "")),
                _number(second.get("everybody_price")),
                f"{second['collapsed']:.0%}" if second else "",
                _interval(at(search[cell], "price", e), "gap"),
                _interval(second, "gap"),
                by_epsilon[e],
            ]


def _changes(compared: list[Row], stage: str) -> str:
    """Return one table: what changed a gap or disparity significantly, and whether that was confirmed."""
    key = itemgetter("cell", "epsilon", "strategy", "quantity")
    again = {key(r): r for r in compared if r["stage"] == AGAIN[stage]}
    head = ["ε", "strategy", "quantity", "difference", "again", "confirmed", "everybody"]
    rows = [["scenario" if stage == "library" else "cell", *head]]
    for cell, epsilon in _tried(compared, stage):
        tested = [r for r in compared if (r["stage"], r["cell"], r["epsilon"]) == (stage, cell, epsilon)]
        everybody = {r["strategy"]: r for r in tested if r["quantity"] == "utility"}
        gaps = [(r, again.get(key(r), {})) for r in tested if r["quantity"] != "utility"]
        hits = [(r, second) for r, second in gaps if r["significant"] or second.get("significant")]
        for r, second in hits:
            rows.append(
                [
                    *(cell, f"{r['epsilon']:g}", r["strategy"]),
                    "price gap" if r["quantity"] == "toll gap" else r["quantity"],
                    *(_interval(r, "difference"), _interval(second, "difference")),
                    _said_of(r, second),
                    _interval(everybody[r["strategy"]], "difference"),
                ]
            )
        if not hits:
            rows.append([cell, f"{epsilon:g}", "none", "", "", "", "", ""])
    return _table(rows)


def _said_of(first: Row, second: Row) -> str:
    """Say which stages find a change; at least one of them does."""
    if not second:
        return "not run again yet"
    if not first["significant"]:
        return "second stage only"
    return "yes" if second["significant"] and second["difference"] * first["difference"] > 0 else "no"


def _library(compared: list[Row], searched: Iterable[str]) -> str:
    """Return one table: the confirmed changes of every library scenario that was compared."""
    both = _confirmed(compared, "library")
    rows = [
        ["scenario", "ε", "narrow the gap", "widen the gap", "narrow the disparity", "widen the disparity"]
    ]
    for cell, epsilon in _tried(compared, "library"):
        line = [cell, f"{epsilon:g}"]
        for k in product(("toll gap", "disparity"), (-1, 1)):
            names = (s.partition("(")[0] for c, e, s, *key in both if (c, e, *key) == (cell, epsilon, *k))
            line.append(", ".join(sorted(names, key=FOURTEEN.index)))
        rows.append(line)
    return _table(rows) + _left_of_library(compared, searched)


def _left_of_library(compared: list[Row], searched: Iterable[str]) -> str:
    """Name the scenarios that have not been compared, and those whose changes have not been tried again."""
    tried = {cell for cell, _ in _tried(compared, "library")}
    hits = {r["cell"] for r in compared if r["significant"] and r["quantity"] != "utility"}
    confirmed = {cell for cell, _ in _tried(compared, AGAIN["library"])}
    plain = [name for name, (_, changed) in cells().items() if not changed and name in searched]
    parts = (
        ("Not run yet", [name for name in plain if name not in tried]),
        ("Not run again yet, so nothing of them is confirmed", [c for c in plain if c in hits - confirmed]),
    )
    return "".join(f"\n\n{said}: {', '.join(names)}." for said, names in parts if names)


def _tried(compared: list[Row], stage: str) -> list[tuple[str, float]]:
    """Return every cell and ε in which a stage has compared strategies."""
    return list(dict.fromkeys((r["cell"], r["epsilon"]) for r in compared if r["stage"] == stage))


def _uncompared(verdicts: dict[str, dict[float, str]], compared: list[Row]) -> str:
    """Name the cells with a real gap in which strategies have not been compared yet."""
    tried = {r["cell"] for r in compared}
    left = [
        f"{cell} (ε = {max(real):g})"
        for cell, by_epsilon in verdicts.items()
        if (real := [e for e in EPSILONS if by_epsilon[e] == "real"]) and cell not in tried
    ]
    return f"\n\nNot run yet, though their gap is real: {', '.join(left)}." if left else ""


Change = tuple[str, float, str, str, int]
"""The cell, ε, strategy, quantity and sign of a significant change of a gap or disparity."""


def _confirmed(compared: list[Row], stage: str) -> set[Change]:
    """Return every change that a stage and its confirmation find."""
    found: list[set[Change]] = [
        {
            (r["cell"], r["epsilon"], r["strategy"], r["quantity"], 1 if r["difference"] > 0 else -1)
            for r in compared
            if r["stage"] == which and r["significant"] and r["quantity"] != "utility"
        }
        for which in (stage, AGAIN[stage])
    ]
    return found[0] & found[1]


def _missing(search: dict[str, list[Row]]) -> str:
    names = [cell for cell in cells() if cell not in search]
    return f" Not run, because their records could not be fetched: {', '.join(names)}." if names else ""


def _by_cell(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["cell"], []).append(row)
    return {cell: found[cell] for cell in cells() if cell in found}


def _said(seeds: str) -> str:
    first, after = map(int, seeds.split(":"))
    return f"{first} to {after - 1}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _gap(row: Row | None) -> str:
    return _number(row["gap"]) if row else ""


def _interval(row: Row | None, name: str) -> str:
    if not row:
        return ""
    low, high = ("gap_low", "gap_high") if name == "gap" else ("low", "high")
    if row[low] is None:  # the same in every seed
        return _number(row[name])
    return f"{row[name]:.3f} ({row[low]:.3f} to {row[high]:.3f})".replace("-", "−")


def _table(rows: Iterable[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Write both pages."""
    found = json.loads((HERE / "prices.json").read_text(encoding="utf-8"))
    (DOCS / "prices.md").write_text(page(found), encoding="utf-8")
    (DOCS / "changes.md").write_text(changes_page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
