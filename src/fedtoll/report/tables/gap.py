"""The toll gap and its kin: who is apart from whom, by ε and strategy."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fedtoll.formatting import UNDEFINED, count, named, number, plus_minus
from fedtoll.report.digest import CELL, Digest
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Cell, Column, Row, Table
from fedtoll.toll import fairness, toll_gap


def gap_table(digest: Digest) -> Table:
    """Return the toll gap with its interval, who pays most and least, and who is on the Pareto front."""
    n = digest.loss.drop_duplicates("group").set_index("group")["n"]
    gaps = tightest_first(digest.gaps)
    columns = (
        *t.words("Strategy"),
        *t.numbers("ε", "Toll gap", "95% interval, conservative", "Pays most", "Pays least"),
        *t.numbers("Everybody’s log-loss"),
        *t.words("Pareto front"),
    )
    rows = tuple(_gap_row(row, n, digest) for _, row in gaps.iterrows())
    note = (
        "The gap is the largest minus the smallest toll over groups, each a mean over seeds; a largest minus "
        f"a smallest is biased upward, the more the smaller the groups.{_left_out(digest)}"
    )
    return Table("gaps", "Toll gap in log-loss, by ε and strategy", columns, rows, t.csv(gaps), note)


def disparity_table(digest: Digest) -> Table:
    """Return how far apart the groups are at each ε: disparity, and fairlearn's two differences."""
    few = set(digest.loss.loc[digest.loss["too_few"], "group"])
    fair = fairness(digest.results.predictions, without=few)
    accuracy = toll_gap(digest.tolls["accuracy"])[[*CELL, "disparity_corrected"]]
    frame = digest.gaps[[*CELL, "disparity"]].merge(accuracy, "left", on=CELL)
    frame = tightest_first(frame.merge(fair, "left", on=CELL))
    rates = bool(frame["demographic_parity_difference"].notna().any())
    columns: list[Column] = [
        *t.words("Strategy"),
        *t.numbers("ε", "Disparity in log-loss", "Variance of accuracy between groups, corrected"),
        *(t.numbers("Demographic parity difference", "Equalized odds difference") if rates else ()),
    ]
    rows = tuple(_disparity_row(row, rates) for _, row in frame.iterrows())
    note = (
        "Disparity is the largest minus the smallest log-loss over groups, of means over seeds. The "
        "corrected variance takes off what sampling test records adds: it is unbiased, and so negative "
        "about half the time where groups do not differ."
    )
    if rates:
        note += (
            " The last two columns follow fairlearn’s definitions (maximum minus minimum over groups, at a "
            "score of .5), one a run, then the mean over seeds ± s.e."
        )
    note += _left_out(digest)
    caption = "How far apart the groups are, by ε and strategy"
    return Table("disparity", caption, tuple(columns), rows, t.csv(frame), note)


def tightest_first(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort rows from the tightest ε to the references; strategies keep their order."""
    rank = frame["mechanism"].map({"dp-sgd": 0, "clip-only": 1, "none": 2})
    order = pd.DataFrame({"rank": rank, "epsilon": frame["epsilon"]})
    return frame.loc[order.sort_values(["rank", "epsilon"], kind="stable").index]


def _gap_row(row: pd.Series[Any], n: pd.Series[int], digest: Digest) -> Row:
    def who(side: str) -> Cell:
        group, toll = row[f"{side}_group"], row[f"{side}_toll"]
        if pd.isna(group):
            return t.text(UNDEFINED)
        name = named(group, digest.attribute)
        return Cell(f"{number(toll)} {name} (n\u00a0=\u00a0{count(n[group])})", toll)

    reference = row["mechanism"] == "none"
    front = UNDEFINED if reference or pd.isna(row["gap"]) else "on it" if row["on_front"] else "behind it"
    return Row(
        (
            t.text(row["strategy"]),
            t.privacy(row["mechanism"], row["epsilon"]),
            t.text("reference") if reference else t.figure(row["gap"]),
            Cell(UNDEFINED) if reference else t.within(row["gap_low"], row["gap_high"]),
            who("worst"),
            who("best"),
            t.figure(-row["everybody"]),
            t.text(front),
        )
    )


def _disparity_row(row: pd.Series[Any], rates: bool) -> Row:
    def difference(name: str) -> Cell:
        text = plus_minus(row[name], row[f"{name}_se"])
        undefined = row["undefined"] if name.startswith("equal") and row["undefined"] > 0 else 0
        told = f"{text} (undefined {int(undefined)}/{int(row['seeds'])})" if undefined else text
        return Cell(told, row[name])

    names = ("demographic_parity_difference", "equalized_odds_difference") if rates else ()
    return Row(
        (
            t.text(row["strategy"]),
            t.privacy(row["mechanism"], row["epsilon"]),
            t.figure(row["disparity"]),
            t.figure(row["disparity_corrected"], 5),
            *map(difference, names),
        )
    )


def _left_out(digest: Digest) -> str:
    few = dict.fromkeys(digest.loss.loc[digest.loss["too_few"], "group"])
    names = ", ".join(named(g, digest.attribute) for g in few)
    return f" Groups with too few records take no part: {names}." if few else ""
