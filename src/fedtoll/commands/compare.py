"""``fedtoll compare DIR DIR``: the differences between two results folders, on one screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedtoll.console import console, echo
from fedtoll.options import Json
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.visible import visible

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType
    from rich.table import Table

SETTINGS = 12
"""Number of differing settings shown on the screen; ``--json`` prints all."""

ACROSS = 2
"""Number of strategies that fit into one table of 80 columns."""

_Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Results folder.")]


def compare(
    first: _Folder,
    second: _Folder,
    measure: Annotated[
        str, typer.Option(help="Measure of the toll; see `fedtoll list measures`.")
    ] = "log_loss",
    as_json: Json = False,
) -> None:
    """Compare the tolls of two results folders.

    Lists the settings that differ, too.
    """
    from fedtoll.scenarios.measures import MEASURES
    from fedtoll.server.results import load, readable
    from fedtoll.toll import ambiguous_labels, difference, settings

    if measure not in MEASURES:
        raise ScenarioError(f"--measure {measure!r}: unknown measure{nearest(measure, MEASURES)}")
    a, b = load(first), load(second)
    with readable(f"{first}, {second}"):
        differing, frame = settings(a.resolved, b.resolved), difference(a, b, measure)
        ambiguous = ambiguous_labels(a.resolved, b.resolved)
    if as_json:
        content = {
            "first": str(first),
            "second": str(second),
            "measure": measure,
            "settings": [{"key": k, "first": x, "second": y} for k, x, y in differing],
            "ambiguous_labels": [{"label": k, "first": x, "second": y} for k, x, y in ambiguous],
            "differences": json.loads(frame.to_json(orient="records", double_precision=15)),
        }
        echo(json.dumps(content, ensure_ascii=False, indent=1))
        return
    tuned = bool(a.resolved.get("tuning")), bool(b.resolved.get("tuning"))
    with readable(f"{first}, {second}"):
        names = _names(first, second)
        missing = [
            f"{len(side.missing)} of {len(side.resolved['runs'])} runs of {name}"
            for side, name in zip((a, b), names, strict=True)
            if side.missing
        ]
        console().print(_screen(*names, measure, differing, ambiguous, frame, tuned, missing))


def _names(first: Path, second: Path) -> tuple[str, str]:
    """Return short names of the folders: the last parts of their paths, or the ends if these are equal."""
    if first.name and second.name and first.name != second.name:
        return first.name, second.name
    a, b = str(first), str(second)
    return a if len(a) <= 30 else f"…{a[-29:]}", b if len(b) <= 30 else f"…{b[-29:]}"


def _screen(
    first: str,
    second: str,
    measure: str,
    differing: list[tuple[str, Any, Any]],
    ambiguous: list[tuple[str, str, str]],
    frame: pd.DataFrame,
    tuned: tuple[bool, bool],
    missing: list[str],
) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from fedtoll.formatting import budget
    from fedtoll.scenarios.measures import MEASURES

    parts: list[RenderableType] = [_settings(first, second, differing), Text()]
    for label, ours, theirs in ambiguous:
        names = f" ({ours} and {theirs})" if ours != theirs else ""
        line = f"{label} is not the same strategy in both folders{names}: not compared."
        parts += [Text(_one_line(line, 200)), Text()]
    private = frame[frame["mechanism"] == "dp-sgd"] if len(frame) else frame
    if private.empty:
        return Group(
            *parts, Text("The folders share no strategy at a finite ε, so there is no toll to compare.")
        )
    epsilon = private["epsilon"].min()
    tight = private[private["epsilon"] == epsilon]
    strategies = list(dict.fromkeys(tight["strategy"]))
    what = "price at best constants" if all(tuned) else "toll"
    title = f"ε = {budget('dp-sgd', epsilon)}: {what} in {MEASURES[measure].title}, {second} minus {first}"
    parts.append(Text(title))
    for start in range(0, len(strategies), ACROSS):
        shown = strategies[start : start + ACROSS]
        parts += [_table(tight[tight["strategy"].isin(shown)]), Text()]
    notes = _notes(private, tight)
    if missing:
        notes.insert(0, f"Missing, and in no number here: {' and '.join(missing)}.")
    if not any(tuned):
        notes.append("Both are tolls of recipes: no strategy was tuned.")
    elif not all(tuned):
        best, other = (first, second) if tuned[0] else (second, first)
        notes.insert(
            0, f"Unlike quantities: {best} has prices at best constants, {other} tolls of its recipe."
        )
    return Group(*parts, *(Text(line) for line in notes))


def _notes(private: pd.DataFrame, tight: pd.DataFrame) -> list[str]:
    """Return notes: how the differences were computed, and what is not shown."""
    from fedtoll.formatting import general, listed

    unpaired_because = tight["unpaired"].iloc[0]
    brackets = tight[["difference", "low", "high"]].notna().all(axis="columns").any()
    if unpaired_because:
        a, b = _range(tight["seeds_a"]), _range(tight["seeds_b"])
        lines = [f"Unpaired, {a} and {b} seeds: {unpaired_because}."]
        lines[0] += " In brackets: Welch's 95% intervals." if brackets else ""
    else:
        seeds = int(tight["seeds"].max())
        lines = [
            f"Paired within {_range(tight['seeds'])} seed{'s' * (seeds != 1)}: "
            "same records, groups, split and partition."
        ]
        if seeds == 1:
            lines[0] += " One seed: no interval."
        elif brackets:
            lines[0] += " In brackets: 95% intervals."
    lines.append("Above 0: the second costs more.")
    if tight["too_few"].any():
        lines.append("* too few records, or of a class, for a claim")
    others = sorted(set(private["epsilon"]) - set(tight["epsilon"]), reverse=True)
    if others:
        lines.append(f"Also at ε = {listed(general(e) for e in others)}: --json has every row.")
    return lines


def _range(seeds: pd.Series[int]) -> str:
    """Return the numbers of seeds of all rows that have a difference, as one number or as a range."""
    from fedtoll.formatting import span

    shown = seeds[seeds > 0]
    return span(shown.min(), shown.max(), "count") if len(shown) else "0"


def _settings(first: str, second: str, differing: list[tuple[str, Any, Any]]) -> RenderableType:
    """Return a table of the settings that differ."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if not differing:
        return Text("The same settings, records and versions.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(Text("differs in"), overflow="fold", min_width=24)
    for folder in (first, second):
        table.add_column(Text(folder), overflow="ellipsis", no_wrap=True)
    for row in differing[:SETTINGS]:
        key, *values = row
        table.add_row(Text(key, overflow="fold"), *(Text(_one_line(cell)) for cell in values))
    if len(differing) > SETTINGS:
        table.add_row(Text(f"and {len(differing) - SETTINGS} more: --json"))
    return table


def _one_line(value: Any, most: int = 60) -> str:
    """Format a value on one line of at most ``most`` characters."""
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(visible(text).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _table(rows: pd.DataFrame) -> Table:
    """Return the differences at one ε: one row per group, one column per strategy."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from fedtoll.formatting import UNDEFINED, count, estimate
    from fedtoll.scenarios.measures import EVERYBODY

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(Text("group"), overflow="fold", max_width=24)
    table.add_column(Text("n"), justify="right", no_wrap=True)
    strategies = list(dict.fromkeys(rows["strategy"]))
    for strategy in strategies:
        table.add_column(Text(strategy), justify="right", overflow="fold")
    for group in dict.fromkeys(rows["group"]):
        by_strategy = rows[rows["group"] == group].set_index("strategy")
        n = by_strategy[["n_a", "n_b"]].min().min()
        cells = [
            "everybody" if group == EVERYBODY else str(group),
            count(n) + ("*" if by_strategy["too_few"].any() else ""),
        ]
        for strategy in strategies:
            if strategy not in by_strategy.index or by_strategy.loc[strategy, "seeds_b"] == 0:
                cells.append(UNDEFINED)
                continue
            row = by_strategy.loc[strategy]
            cells.append(estimate(row["difference"], row["low"], row["high"]))
        table.add_row(Text(cells[0], overflow="fold"), *(Text(cell, no_wrap=True) for cell in cells[1:]))
    return table
