"""The tables of the toll gap and of other differences between groups, by ε and strategy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from fedtoll.formatting import UNDEFINED, count, estimate, group_label, number
from fedtoll.report.digest import CELL, Digest
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Cell, Column, Row, Table
from fedtoll.toll import fairness, toll_gap
from fedtoll.toll.intervals import half_width


def gap_table(digest: Digest) -> Table:
    """Return the toll gaps with their intervals, the groups that pay most and least, and the Pareto front."""
    n = digest.loss.drop_duplicates("group").set_index("group")["n"]
    gaps, word = tightest_first(digest.gaps), digest.word.capitalize()
    columns = (
        *t.text_columns("Strategy"),
        *t.number_columns("ε", f"{word} gap", "95% interval, conservative", "Pays most", "Pays least"),
        *t.number_columns("Everybody’s log-loss"),
        *t.text_columns("Pareto front"),
    )
    rows = tuple(_gap_row(row, n, digest) for _, row in gaps.iterrows())
    note = (
        f"The gap is the largest minus the smallest {digest.word} over groups, each a mean over seeds. "
        f"Such a difference is biased upward, more so for small groups.{_left_out(digest)}"
    )
    return Table(
        "gaps",
        f"{word} gap in log-loss, by ε and strategy",
        columns,
        rows,
        t.csv(gaps),
        note,
    )


def disparity_table(digest: Digest) -> Table:
    """Return the disparity between groups at each ε, and fairlearn's two differences."""
    few = set(digest.loss.loc[digest.loss["too_few"], "group"])
    fair = fairness(digest.results.groups, without=few)
    accuracy = toll_gap(digest.tolls["accuracy"])[[*CELL, "disparity_corrected"]]
    frame = digest.gaps[[*CELL, "disparity"]].merge(accuracy, "left", on=CELL)
    frame = tightest_first(frame.merge(fair, "left", on=CELL))
    rates = bool(frame["demographic_parity_difference"].notna().any())
    columns: list[Column] = [
        *t.text_columns("Strategy"),
        *t.number_columns("ε", "Disparity in log-loss", "Variance of accuracy between groups, corrected"),
        *(t.number_columns("Demographic parity difference", "Equalized odds difference") if rates else ()),
    ]
    rows = tuple(_disparity_row(row, rates) for _, row in frame.iterrows())
    note = (
        "Disparity is the largest minus the smallest log-loss over groups, each a mean over seeds. The "
        "corrected variance subtracts what the sampling of test records adds. It is unbiased, so it is "
        "negative about half the time if groups do not differ."
    )
    if rates:
        note += (
            " The last two columns follow fairlearn’s definitions (maximum minus minimum over groups, at a "
            "score of .5), computed per run: the mean over seeds, with its 95% t interval."
        )
    note += _left_out(digest)
    caption = "Differences between groups, by ε and strategy"
    return Table("disparity", caption, tuple(columns), rows, t.csv(frame), note)


def tightest_first(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort rows from the tightest ε to the references; strategies keep their order."""
    rank = frame["mechanism"].map({"dp-sgd": 0, "clip-only": 1, "none": 2})
    order = pd.DataFrame({"rank": rank, "epsilon": frame["epsilon"]})
    return frame.loc[order.sort_values(["rank", "epsilon"], kind="stable").index]


def _gap_row(row: pd.Series[Any], n: pd.Series[int], digest: Digest) -> Row:
    def payer(side: str) -> Cell:
        group, toll = row[f"{side}_group"], row[f"{side}_toll"]
        if pd.isna(group):
            return t.text_cell(UNDEFINED)
        name = group_label(group, digest.attribute)
        return Cell(f"{number(toll)} {name} (n\u00a0=\u00a0{count(n[group])})", toll)

    reference = row["mechanism"] == "none"
    front = UNDEFINED if reference or pd.isna(row["gap"]) else "on the front" if row["on_front"] else "beaten"
    return Row(
        (
            t.text_cell(row["strategy"]),
            t.budget_cell(row["mechanism"], row["epsilon"]),
            t.text_cell("reference") if reference else t.number_cell(row["gap"]),
            Cell(UNDEFINED) if reference else t.interval_cell(row["gap_low"], row["gap_high"]),
            payer("worst"),
            payer("best"),
            t.number_cell(-row["everybody"]),
            t.text_cell(front),
        )
    )


def _disparity_row(row: pd.Series[Any], rates: bool) -> Row:
    def difference(name: str) -> Cell:
        undefined = row["undefined"] if name.startswith("equal") else 0
        half = float(half_width(row[f"{name}_se"], row["seeds"] - undefined))
        low, high = np.clip([row[name] - half, row[name] + half], 0, 1)  # unlike max and min, it keeps NaN
        text = estimate(row[name], low, high)
        note = f" (undefined {int(undefined)}/{int(row['seeds'])})" if undefined else ""
        return Cell(f"{text}{note}", row[name])

    names = ("demographic_parity_difference", "equalized_odds_difference") if rates else ()
    return Row(
        (
            t.text_cell(row["strategy"]),
            t.budget_cell(row["mechanism"], row["epsilon"]),
            t.number_cell(row["disparity"]),
            t.number_cell(row["disparity_corrected"], 5),
            *map(difference, names),
        )
    )


def _left_out(digest: Digest) -> str:
    few = dict.fromkeys(digest.loss.loc[digest.loss["too_few"], "group"])
    names = ", ".join(group_label(g, digest.attribute) for g in few)
    return f" Groups with too few records are left out: {names}." if few else ""
