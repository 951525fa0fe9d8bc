"""The summary in the terminal: one screen of 100 by 40 characters, readable without colour and in a pipe."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedtoll.formatting import UNDEFINED, count, group_label, interval, number, p_value
from fedtoll.report.digest import Digest
from fedtoll.report.headline import headline
from fedtoll.report.skips import skips_line
from fedtoll.report.tables.compared import verdict
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll import ResultsLike

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

ACROSS = 3
"""How many strategies fit side by side in 100 columns; the page has the others."""

MOST_GROUPS, MOST_GROUPS_ALONE = 7, 10
"""With more groups than this, only the page shows those that pay least. One strategy leaves more room."""

MOST_COMPARISONS = 4
MOST_BUDGETS = 6

_SHORT = {
    "demographic parity difference": "parity difference",
    "equalised odds difference": "odds difference",
}
"""Quantities whose names are too long for a line."""

_NAME = 24  # characters of a group's name per line


def terminal_summary(results: ResultsLike | Digest) -> RenderableType:
    """Return the tolls at the tightest ε, the leader's tolls at each ε, the comparisons and the headline.

    Parameters
    ----------
    results
        The results of a scenario, or their digest.

    Examples
    --------
    ``rich.console.Console().print(terminal_summary(results))``
    """
    from rich.console import Group
    from rich.text import Text

    digest = Digest.from_results(results)
    parts: list[RenderableType] = []
    if len(digest.tight):
        most = MOST_GROUPS if len(digest.strategies) > 1 else MOST_GROUPS_ALONE
        groups = digest.order if len(digest.order) <= most else digest.order[: most - 1]
        spread = f" ± half the 95% interval over {digest.seeds} seeds" if digest.seeds > 1 else ", one seed"
        what = ", at best constants: added log-loss" if digest.tuned else ": log-loss added by privacy"
        title = f"Who pays at ε = {digest.epsilon_text}{what} (nats){spread}"  # fits in 100 columns
        parts += [Text(title), _who_pays(digest, groups), Text()]
        budgets = _budgets(digest)
        if len(budgets) > 1:
            title = f"{digest.word.capitalize()} under {digest.leader} at each ε"
            parts += [Text(title), _over_epsilon(digest, groups, budgets), Text()]
        notes = _notes(digest, groups)
        parts += [Text(notes), Text()] if notes else []
        compared = _compared(digest)
        parts += [compared, Text()] if compared is not None else []
    if skipped := skips_line(digest):
        parts += [
            _Stripped(Text(f"{skipped} They had no weight in those rounds; the report lists who and why.")),
            Text(),
        ]
    # Text, not a string: rich would read a group called "[red]" as markup.
    return Group(*parts, _Stripped(Text(headline(digest))))


def _who_pays(digest: Digest, groups: list[str]) -> Table:
    """Return the tolls at the tightest ε: a row per group, the largest first, and a column per strategy."""
    from rich.text import Text

    strategies = _strategies(digest)
    table = _table(digest)
    table.add_column(Text("n"), justify="right", no_wrap=True)
    if not digest.several_classes:
        table.add_column(Text("pos."), justify="right", no_wrap=True)
    for strategy in strategies:
        table.add_column(Text(strategy), justify="right", overflow="fold")
    blank = " " if (digest.tight["collapsed"] > 0).any() else ""  # keeps the digits aligned
    for group in [*groups, EVERYBODY]:
        own = digest.tight[digest.tight["group"] == group].set_index("strategy")
        if own.empty:
            continue
        cells = [_name(group, digest), count(own["n"].iloc[0])]
        few = "*" if own["too_few"].any() else ""
        if digest.several_classes:
            cells[1] += few
        else:
            cells.append(count(own["positives"].iloc[0]) + few)
        for strategy in strategies:
            cells.append(_toll(own.loc[strategy], blank) if strategy in own.index else UNDEFINED)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _verdict(row: Any) -> str:
    """Return a comparison's verdict, shorter than on the page."""
    words = verdict(row).replace("no significant difference", "not significant")
    return words.removesuffix(": interval includes 0")


def _toll(row: Any, blank: str) -> str:
    mark = "!" if row["collapsed"] > 0 else blank
    half = (row["toll_high"] - row["toll_low"]) / 2
    return number(row["toll"]) + ("" if math.isnan(half) else f" ± {number(half)}") + mark


def _over_epsilon(digest: Digest, groups: list[str], budgets: list[float]) -> Table:
    """Return the leader's tolls at each ε."""
    from rich.text import Text

    table = _table(digest)
    own = digest.loss[(digest.loss["strategy"] == digest.leader) & (digest.loss["mechanism"] == "dp-sgd")]
    for epsilon in budgets:
        table.add_column(Text(f"ε = {epsilon:g}"), justify="right", no_wrap=True)
    tolls = own.set_index(["group", "epsilon"])["toll"]
    for group in [*groups, EVERYBODY]:
        known = [number(tolls.get((group, e), float("nan"))) for e in budgets]
        table.add_row(*(Text(cell) for cell in [_name(group, digest), *known]))
    return table


def _compared(digest: Digest) -> RenderableType | None:
    """Return one line per comparison, the tightest ε first; ``None`` without comparisons."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    frame = digest.comparisons.sort_values("epsilon", kind="stable")
    if frame.empty:
        return None
    reasons = set(frame["reason"])
    family = f"{len(frame)} {'' if digest.declared else 'default '}comparisons"
    if len(reasons) == 1 and "" not in reasons:
        return Text(f"{family}, not tested ({reasons.pop()}).")
    table = Table.grid(padding=(0, 2))
    shown = frame.head(MOST_COMPARISONS)
    more = len(frame) - len(shown)
    baselines, budgets = set(shown["baseline"]), set(shown["epsilon"])
    against = f"Against {baselines.pop()}" if len(baselines) == 1 else "Strategies compared"
    at = f" at ε = {budgets.pop():g}" if len(budgets) == 1 else ""
    rest = f"; {more} more in the report" if more else ""
    title = f"{against}{at}: difference (95% interval), p after Holm over {family}{rest}"
    for width in (30, 18, 26, None, None):
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=width)
    for _, row in shown.iterrows():
        what = _SHORT.get(row["quantity"], row["quantity"].replace("toll", digest.word))
        within = interval(row["low"], row["high"])
        table.add_row(
            Text(row["strategy"]),
            Text(what if at else f"{what}, ε = {row['epsilon']:g}"),
            Text(number(row["difference"]) + ("" if within == "none" else f" ({within})")),
            Text(f"p {p_value(row['p_holm'])}" if not math.isnan(row["p_holm"]) else UNDEFINED),
            Text(_verdict(row)),
        )
    return Group(Text(title), _Stripped(table))


@dataclass(frozen=True)
class _Stripped:
    """Text without the spaces that rich adds at the end of a line."""

    text: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        for line in console.render_lines(self.text, options, pad=False):
            yield Text("".join(segment.text for segment in line).rstrip(), no_wrap=True)


def _table(digest: Digest) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column(Text(digest.attribute), no_wrap=True)
    return table


def _notes(digest: Digest, groups: list[str]) -> str:
    """Explain the marks in the tables, and name what only the page shows."""
    notes = []
    rows = digest.tight[digest.tight["group"].isin([*groups, EVERYBODY])]
    if rows["too_few"].any():
        notes.append("* too few records, or of a class, for a claim")
    if (rows["collapsed"] > 0).any():
        notes.append(
            "! collapsed in some seeds: predicts one class at .5, or not shown to rank better than chance"
        )
    omitted = []
    if n := len(digest.order) - len(groups):
        omitted.append(f"{n} groups that pay less")
    if (n := len(digest.strategies) - ACROSS) > 0:
        omitted.append("1 strategy with a wider gap" if n == 1 else f"{n} strategies with wider gaps")
    if omitted:
        notes.append(f"only in the report: {' and '.join(omitted)}")
    return f"{'; '.join(notes)}." if notes else ""


def _strategies(digest: Digest) -> list[str]:
    """Return the strategies to show, in their order: the leader and those with the smallest toll gaps."""
    here = (digest.gaps["mechanism"] == "dp-sgd") & (digest.gaps["epsilon"] == digest.epsilon)
    by_gap = digest.gaps[here].sort_values("gap", kind="stable")["strategy"]
    chosen = list(dict.fromkeys([digest.leader, *by_gap, *digest.strategies]))[:ACROSS]
    return [s for s in digest.strategies if s in chosen]


def _budgets(digest: Digest) -> list[float]:
    private = digest.loss[digest.loss["mechanism"] == "dp-sgd"]
    return sorted(map(float, private["epsilon"].unique()), reverse=True)[-MOST_BUDGETS:]


def _name(group: str, digest: Digest) -> str:
    """Return a group's name in at most two lines of ``_NAME`` characters."""
    return "\n".join(textwrap.wrap(group_label(group, digest.attribute), _NAME)[:2])
