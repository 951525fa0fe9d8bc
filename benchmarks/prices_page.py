"""The pages docs/prices.md and docs/changes.md, from prices.json: ``python -m benchmarks.prices_page``."""

from __future__ import annotations

import json
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

HERE = Path(__file__).parent
PAGE, CHANGES = (HERE.parent / f"docs/{name}.md" for name in ("prices", "changes"))
MANY = 0.5


def page(found: Row) -> str:
    """Return the page. All its figures are those of ``found``, what ``prices collect`` has written."""
    search = _by_cell(r for r in found["gaps"] if r["stage"] == "search")
    confirm = _by_cell(r for r in found["gaps"] if r["stage"] == "confirm")
    verdicts = {
        cell: {e: verdict(search[cell], confirm.get(cell, []), e) for e in EPSILONS} for cell in search
    }
    return HEAD.format(
        summary=_summary(search, confirm, verdicts, [*found["strategies"], *found["library"]]),
        factors=len(FACTORS),
        least=LEAST,
        search=_said(SEEDS["search"]),
        confirm=_said(SEEDS["confirm"]),
        strategies=len(STRATEGIES),
        cells=len(search),
        later=LATER,
        missing=_missing(search),
        gaps=_table(_gap_rows(search, verdicts)),
        confirmed=_table(_confirmed_rows(search, confirm, verdicts)),
        changes=_changes(found["strategies"], "strategies"),
        fourteen=len(FOURTEEN),
        library=_library(found["library"], search),
        uncompared=_uncompared(verdicts, found["strategies"]),
    )


def changes_page(found: Row) -> str:
    """Return the page of all significant changes in library scenarios, with intervals."""
    return CHANGES_HEAD.format(changes=_changes(found["library"], "library"))


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
        for r in (hits := [r for r in tested if r["significant"] and r["quantity"] != "utility"]):
            second = again.get(key(r), {})
            same = bool(second.get("significant")) and second["difference"] * r["difference"] > 0
            rows.append(
                [
                    *(cell, f"{r['epsilon']:g}", r["strategy"]),
                    "price gap" if r["quantity"] == "toll gap" else r["quantity"],
                    *(_interval(r, "difference"), _interval(second, "difference")),
                    "yes" if same else "no" if second else "not run again yet",
                    _interval(everybody[r["strategy"]], "difference"),
                ]
            )
        if not hits:
            rows.append([cell, f"{epsilon:g}", "none", "", "", "", "", ""])
    return _table(rows)


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


HEAD = """# Prices in the library

Where does privacy cost one group more than another, once every constant is chosen for each ε? And does a
[strategy](strategies.md) narrow that gap? This page answers for the built-in scenarios, and for changes of
six of them: {cells} cells. (The scenario `{later}` was made from its cell *law-race + network*.)

{summary}

The [price](definitions.md#price-at-best-constants) of a group is what it loses at the best constants; the
price gap is that of the group that pays most minus that of the group that pays least, in nats of log-loss.
The *recipe gap* is the same at the scenario's own constants for every ε: what a study without tuning would
report.

## How it was searched

The search was fixed in `benchmarks/prices.py` before it was run; nothing on this page was left out because
of its result.

- **search**: FedAvg alone at ε = ∞, 1, 0.5 and 0.1, seeds {search}; {factors} learning rates, from an
  eighth of the recipe's to eight times as much, chosen at each ε on the public validation part with two
  other seeds.
- **confirm**: where the search finds a gap, seeds {confirm} with choices made anew.
- A gap is *found* if its conservative 95% interval (all pairs of groups, Bonferroni) lies above 0. It is
  *real* if both stages find it at the same ε. One below {least} nats in either is called *small*. One whose
  second stage has not been run yet was *found once*.
- **strategies**: where a real gap is not small, {strategies} strategies at the largest such ε, with the
  same learning rates and 16 seeds, against FedAvg with Holm over all strategies and quantities of a cell.
  (23 strategies and 20 seeds were planned; the cut came after the search and before any strategy ran.)
  What changes the gap or disparity is run once more with seeds {confirm}.

The intervals of one cell are simultaneous over its groups, not over cells and ε: of some 130 gaps, a few
would be found once where there is none. That is why they are confirmed.

## All {cells} cells

Gaps under FedAvg in the search, in nats. A star marks a gap that the search finds. A dagger says that the
choice at this ε, or at ∞, is the smallest or the largest of the rates: with more of them, or more rounds, the
price might be another. A double dagger says that the model of everybody is
[collapsed](definitions.md#collapsed) in half of the seeds or more: it predicts one class at 0.5, or is not
shown to rank better than chance. Then the price is that of losing what the model knew.{missing}

{gaps}

## Gaps that were found

With intervals. "pays most", "everybody" (everybody's price) and "collapsed" (the model of everybody, in which
share of the seeds) are those of the second stage.

{confirmed}

## What strategies change

Only significant changes are listed; all strategies were tried that the scenario accepts. Each chose its own
learning rate, like FedAvg. A negative difference in the price gap or disparity is fairer; a negative one in
everybody's utility is worse. The price gap is about what privacy adds, the disparity about how much the
groups differ at this ε, for whatever reason.

{changes}{uncompared}

## Strategies in the scenarios as they are

Does a strategy change the gap or disparity in library scenarios, whether their price gap is real or not?
This part was added after the others had been seen, and fixed before it ran: those of the {fourteen}
strategies of version 0.1.0 that the scenario accepts, at both ε = 1 and 0.5, tuned and tested as above,
with Holm over all strategies and quantities of a scenario at both ε. The table names what was found and
confirmed. Changes may be small: see [all of them with intervals](changes.md). `{later}` is left out: its
cell is above.

Where all clients have the same ε, `epsilon-weighted` is `uniform`, so its changes are counted twice.

A price compares a strategy with itself at ε = ∞. So a strategy can widen the price gap because it is fairer
without privacy: in `synthetic-shift`, the private models of `noise-fair` are FedAvg's but for rounding, and
only its models at ε = ∞ differ. Read the gap with the disparity and everybody's utility.

{library}

The figures are in `benchmarks/prices.json`. To measure a cell again: `python -m benchmarks.prices search
FOLDER law-race`.
"""


CHANGES_HEAD = """# Strategies in library scenarios, with intervals

Every strategy of version 0.1.0 that changed the price gap or disparity of a library scenario significantly
against FedAvg, tuned against tuned, at ε = 1 or 0.5. [Prices in the library](prices.md) says how this was
found, sums it up, and names the scenarios that have not been run yet.

A difference is in nats of log-loss; a negative one is fairer. "again" is the same on other seeds, with
choices made anew, and "confirmed" says whether both are significant in the same direction. "everybody" is the
difference in everybody's utility in the first stage; a negative one is worse. "none": no strategy changed
either quantity significantly.

{changes}
"""


def main() -> None:
    """Write both pages."""
    found = json.loads((HERE / "prices.json").read_text(encoding="utf-8"))
    PAGE.write_text(page(found), encoding="utf-8")
    CHANGES.write_text(changes_page(found), encoding="utf-8")


if __name__ == "__main__":
    main()
