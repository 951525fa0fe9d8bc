"""The summary in the terminal: a sentence and a table, at most 80 columns wide, readable without colour."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedtoll.formatting import UNDEFINED, count, group_label, interval, listed, number, span
from fedtoll.report.digest import Digest
from fedtoll.report.headline import lead
from fedtoll.report.skips import skips_line
from fedtoll.report.tables.compared import verdict
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll import ResultsLike

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

WIDTH = 80
"""Columns of the summary, in a wider terminal and in a pipe too."""

ACROSS = 3
"""How many strategies fit side by side. With more, strategies are the rows."""

MOST_ROWS = 14
"""More groups or strategies than this are left to the page."""

MOST_NAMES = 4
"""How many strategies the line of tests names for one verdict."""

_NAME = 24  # columns of a group's or strategy's name; longer ones are folded, never cut


def terminal_summary(results: ResultsLike | Digest) -> RenderableType:
    """Return who pays most, the tolls at the tightest ε with the leader's intervals, and what the tests say.

    With up to :data:`ACROSS` strategies the table has a row per group, otherwise a row per strategy. Names
    that do not fit take several lines; none is cut.

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
    # Text, not a string: rich would read a group called "[red]" as markup.
    parts: list[RenderableType] = [Text(_wrapped(lead(digest)))]
    if len(digest.tight):
        what = "Price at best constants" if digest.tuned else "Toll of this recipe"
        seeds = _seeds(digest)
        by_group = len(digest.strategies) <= ACROSS
        table, notes = _by_group(digest) if by_group else _by_strategy(digest)
        title = f"{what}, ε = {digest.epsilon_text}: log-loss added by privacy (nats), {seeds}"
        parts += [Text(), Text(title), table]
        notes = [*_marks(digest, by_group), *notes]
        parts += [Text(), Text(f"{'; '.join(notes)}.")] if notes else []
        parts += [Text(), Text(tests)] if (tests := _tests(digest)) else []
    if skipped := skips_line(digest):
        parts += [
            Text(),
            Text(f"{skipped} They had no weight in those rounds; the report lists who and why."),
        ]
    return _Narrow(Group(*parts, Text()))


def _seeds(digest: Digest) -> str:
    """Return how many seeds the tolls at the tightest ε have: those with a run at ∞."""
    low, high = int(digest.tight["seeds"].min()), int(digest.tight["seeds"].max())
    return "one seed" if high == 1 else f"{span(low, high, 'count')} seeds"


def _wrapped(sentence: str) -> str:
    """Break a sentence into lines, but not within ``n = 1,367``."""
    return textwrap.fill(sentence.replace("n = ", "n\0=\0"), WIDTH, break_on_hyphens=False).replace("\0", " ")


@dataclass(frozen=True)
class _Narrow:
    """Text of at most ``WIDTH`` columns, without the spaces that rich adds at the end of a line."""

    text: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        narrow = options.update(width=min(WIDTH, options.max_width))
        for line in console.render_lines(self.text, narrow, pad=False):
            yield Text("".join(segment.text for segment in line).rstrip(), no_wrap=True)


def _table(name: str) -> Table:
    """Return an empty table whose first column has names."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column(Text(name, overflow="fold"), overflow="fold", max_width=_NAME)
    return table


def _row(table: Table, cells: list[str]) -> None:
    from rich.text import Text

    # The first cell folds at a column's width, so every part of a name is printed.
    table.add_row(Text(cells[0], overflow="fold"), *(Text(cell) for cell in cells[1:]))


def _by_group(digest: Digest) -> tuple[Table, list[str]]:
    """Return a table with a row per group, the largest toll first, and a column per strategy."""
    from rich.text import Text

    groups = digest.order[:MOST_ROWS]
    strategies = [digest.leader, *(s for s in digest.strategies if s != digest.leader)]
    several = digest.seeds > 1
    table = _table(digest.attribute)
    table.add_column(Text("n"), justify="right", no_wrap=True)
    width = 12 if len(strategies) == ACROSS else 20  # a longer name takes several lines
    for strategy in strategies:
        table.add_column(Text("\n".join(textwrap.wrap(strategy, width))), justify="right", no_wrap=True)
        if several and strategy == digest.leader:
            table.add_column(Text("95% interval"), justify="right", no_wrap=True)
    blank = " " if (digest.tight["collapsed"] > 0).any() else ""  # keeps the digits aligned
    for group in [*groups, EVERYBODY]:
        own = digest.tight[digest.tight["group"] == group].set_index("strategy")
        if own.empty:
            continue
        few = "*" if own["too_few"].any() else ""
        cells = [group_label(group, digest.attribute), count(own["n"].iloc[0]) + few]
        for strategy in strategies:
            row: Any = own.loc[strategy] if strategy in own.index else None
            cells.append(UNDEFINED if row is None else _toll(row, blank))
            if several and strategy == digest.leader:
                cells.append(UNDEFINED if row is None else _interval(row["toll_low"], row["toll_high"]))
        _row(table, cells)
    gaps = _gaps(digest)
    if gaps["gap"].notna().any():
        cells = [f"{digest.word} gap", ""]
        for strategy in strategies:
            known = strategy in gaps.index
            cells.append(f"{number(gaps['gap'][strategy])}{blank}" if known else UNDEFINED)
            if several and strategy == digest.leader:
                ends = gaps.loc[strategy, ["gap_low", "gap_high"]] if known else (float("nan"),) * 2
                cells.append(_interval(*ends))
        _row(table, cells)
    more = len(digest.order) - len(groups)
    return table, [f"only in the report: {more} groups that pay less"] if more else []


def _by_strategy(digest: Digest) -> tuple[Table, list[str]]:
    """Return a table with a row per strategy, the leader first and then by gap."""
    from rich.text import Text

    gaps = _gaps(digest)
    everybody = digest.tight[digest.tight["group"] == EVERYBODY].set_index("strategy")
    by_gap = [s for s in gaps["gap"].sort_values(kind="stable").index if s != digest.leader]
    table = _table("strategy")
    for title in ("everybody", "pays most", digest.word, f"{digest.word} gap"):
        name = title == "pays most"
        table.add_column(
            Text(title),
            justify="left" if name else "right",
            no_wrap=not name,
            overflow="fold",
            max_width=_NAME if name else None,
        )
    shown = [digest.leader, *by_gap][:MOST_ROWS]
    blank = " " if (digest.tight["collapsed"] > 0).any() else ""
    for strategy in shown:
        if strategy not in gaps.index:
            continue
        own: Any = gaps.loc[strategy]
        rows = digest.tight[digest.tight["strategy"] == strategy].set_index("group")
        most = own["worst_group"]
        named = isinstance(most, str) and most in rows.index
        _row(
            table,
            [
                strategy,
                _toll(everybody.loc[strategy], blank) if strategy in everybody.index else UNDEFINED,
                group_label(most, digest.attribute) if named else UNDEFINED,
                _toll(rows.loc[most], blank) if named else UNDEFINED,
                number(own["gap"]),
            ],
        )
    more = len(gaps) - len(shown)
    left = f"only in the report: {more} strateg{'y' if more == 1 else 'ies'} with wider gaps"
    return table, [left] if more > 0 else []


def _gaps(digest: Digest) -> pd.DataFrame:
    here = (digest.gaps["mechanism"] == "dp-sgd") & (digest.gaps["epsilon"] == digest.epsilon)
    return digest.gaps[here].set_index("strategy")


def _toll(row: Any, blank: str) -> str:
    return number(row["toll"]) + ("!" if row["collapsed"] > 0 else blank)


def _interval(low: float, high: float) -> str:
    text = interval(low, high)
    return "" if text == "none" else text


def _marks(digest: Digest, by_group: bool) -> list[str]:
    """Explain the marks in the table."""
    notes = []
    if by_group and digest.tight["too_few"].any():
        notes.append("* too few records, or of a class, for a claim")
    if (digest.tight["collapsed"] > 0).any():
        notes.append(
            "! collapsed in some seeds: predicts one class at .5, or not shown to rank better than chance"
        )
    return notes


def _tests(digest: Digest) -> str:
    """Return which comparisons are significant, in one sentence, or why none was tested."""
    frame = digest.comparisons.sort_values("epsilon", kind="stable")
    if frame.empty:
        return ""
    reasons = set(frame["reason"])
    family = f"{len(frame)} {'' if digest.declared else 'default '}comparisons"
    if len(reasons) == 1 and "" not in reasons:
        return f"{family}, not tested ({reasons.pop()})."
    baselines, budgets = set(frame["baseline"]), set(frame["epsilon"])
    against = f" against {baselines.pop()}" if len(baselines) == 1 else ""
    at = f" at ε = {budgets.pop():g}" if len(budgets) == 1 else ""
    found: dict[str, list[str]] = {}
    for _, row in frame[frame["significant"].astype(bool)].iterrows():
        where = "" if against else f" against {row['baseline']}"
        where += "" if at else f" at ε = {row['epsilon']:g}"
        found.setdefault(_verdict(row, digest.word), []).append(f"{row['strategy']}{where}")
    parts = []
    for words, who in found.items():
        more = len(who) - MOST_NAMES
        parts.append(f"{words} under {listed([*who[:MOST_NAMES], *([f'{more} more'] if more > 0 else [])])}")
    rest = len(frame) - sum(map(len, found.values()))
    if rest:
        others = f" in the other {'comparison' if rest == 1 else rest}" if found else ""
        parts.append(f"no significant difference{others}")
    return f"Tests{against}{at}: {'; '.join(parts)} (Holm over {family})."


def _verdict(row: pd.Series[Any], word: str) -> str:
    """Return a significant verdict with the name of what was compared."""
    words = verdict(row)
    if words.endswith(" difference"):
        return f"{words.removesuffix(' difference')} {row['quantity']}"
    return words.replace("gap", f"{word} gap")
