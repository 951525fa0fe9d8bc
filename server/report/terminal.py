"""The tolls in the terminal: one screen, readable without colour and when piped."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from fedtoll.server.report.headline import headline
from fedtoll.server.report.words import UNDEFINED, budget, count, number, plus_minus
from fedtoll.server.toll import EVERYBODY, ResultsLike, folds_of, toll

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType
    from rich.table import Table

ACROSS = 3
"""How many strategies fit beside each other in 100 columns; more go beneath."""

_NAME = 24  # characters of a group's name in one line


def toll_table(results: ResultsLike) -> RenderableType:
    """Return the tolls of every group, a table for each finite ε, and the headline.

    Each strategy has the toll in log-loss with its standard error, and the toll in the true-positive rate.

    Parameters
    ----------
    results
        The results of a scenario.

    Examples
    --------
    ``rich.console.Console().print(toll_table(results))``
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    folds = folds_of(results.resolved)
    loss, tpr = toll(results.groups, "log_loss", folds), toll(results.groups, "tpr", folds)
    loss["tpr_toll"] = tpr["toll"]
    private = loss[loss["mechanism"] == "dp-sgd"]
    strategies = list(private["strategy"].unique())
    parts: list[RenderableType] = []
    for epsilon, rows in private.groupby("epsilon", sort=False):
        for first in range(0, len(strategies), ACROSS):
            some = strategies[first : first + ACROSS]
            table = _table(budget("dp-sgd", float(str(epsilon))), rows[rows["strategy"].isin(some)], some)
            parts.append(Padding(table, (0, 0, 1, 0)))
    if marks := _legend(private):
        parts.append(Text(marks))
    # Text, not markup: a group may be called "[red]".
    return Group(*parts, Text(headline(results)))


def _table(epsilon: str, rows: pd.DataFrame, strategies: list[str]) -> Table:
    """Return the table of one ε: one row a group, two columns a strategy."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, title_justify="left", collapse_padding=True
    )
    table.title = Text(f"ε = {epsilon}: what privacy costs, in log-loss (± s.e.) and in TPR")
    table.add_column(Text("group"), no_wrap=True)
    table.add_column(Text("n"), justify="right", no_wrap=True)
    table.add_column(Text("pos."), justify="right", no_wrap=True)
    for strategy in strategies:
        table.add_column(Text(f"{strategy}\nlog-loss"), justify="right", overflow="fold")
        table.add_column(Text("\nTPR"), justify="right", no_wrap=True)
    blank = " " if (rows["collapsed"] > 0).any() else ""  # keeps the digits aligned
    for group in dict.fromkeys(rows["group"]):
        own = rows[rows["group"] == group].set_index("strategy")
        mark = "*" if own["too_few"].any() else ""
        name = "everybody" if group == EVERYBODY else str(group)
        cells = [
            "\n".join(textwrap.wrap(name, _NAME)),
            count(own["n"].iloc[0]),
            count(own["positives"].iloc[0]) + mark,
        ]
        for strategy in strategies:
            if strategy not in own.index:
                cells += [UNDEFINED, UNDEFINED]
                continue
            row = own.loc[strategy]
            mark = "!" if row["collapsed"] > 0 else blank
            cells += [
                plus_minus(row["toll"], row["toll_se"]).replace(" ", "") + mark,
                number(row["tpr_toll"], 2),
            ]
        table.add_row(*(Text(c) for c in cells))
    return table


def _legend(rows: pd.DataFrame) -> str:
    """Explain the marks that the tables use."""
    marks = []
    if rows["too_few"].any():
        marks.append("* too few records or positives for a claim")
    if (rows["collapsed"] > 0).any():
        marks.append("! collapsed in some seeds: useless for that group, whatever the toll")
    return f"{'; '.join(marks)}." if marks else ""
