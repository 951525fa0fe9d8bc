"""Skipped replies: how many, whose, and why. A client whose reply is skipped has no weight in that round."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fedtoll.formatting import count, group_label, listed, span
from fedtoll.report.digest import CELL, Digest
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Cell, Row, Table
from fedtoll.scenarios.measures import RUN
from fedtoll.toll import ResultsLike

MOST_ROWS = 100
"""With more rows than this, the table is by group rather than by client; the CSV file has every skip."""

MOST_GROUPS = 5


def skips_line(results: ResultsLike | Digest) -> str:
    """Return a sentence on how many replies were skipped, and whose; ``""`` if none was."""
    digest = Digest.from_results(results)
    skipped = _skipped(digest)
    if skipped.empty:
        return ""
    replies, clients = len(digest.results.clients), skipped["client"].nunique()
    runs, all_runs = (len(frame[RUN].drop_duplicates()) for frame in (skipped, digest.results.clients))
    senders = f"{count(clients)} client{'' if clients == 1 else 's'}{_by_group(skipped, digest)}"
    return (
        f"{count(len(skipped))} of {count(replies)} replies were skipped, "
        f"in {count(runs)} of {count(all_runs)} runs, from {senders}."
    )


def skips_table(digest: Digest) -> Table | None:
    """Return the skipped replies by strategy, ε and client; ``None`` if none was skipped."""
    skipped = _skipped(digest)
    if skipped.empty:
        return None
    by = "client" if len(skipped[[*CELL, "client"]].drop_duplicates()) <= MOST_ROWS else "group"
    replies = digest.results.clients.groupby([*CELL, by], sort=False).size()
    rows = []
    keys: Any
    for keys, part in skipped.groupby([*CELL, by], sort=False):
        strategy, mechanism, epsilon, sender = keys
        group = str(part["group"].iloc[0])
        rows.append(
            Row(
                (
                    t.text_cell(strategy),
                    t.budget_cell(mechanism, float(epsilon)),
                    *((Cell(str(sender), float(sender)),) if by == "client" else ()),
                    t.text_cell(group_label(group, digest.attribute) if group else "any"),
                    Cell(f"{count(len(part))} of {count(replies[keys])}", float(len(part))),
                    Cell(span(part["round"].min(), part["round"].max(), "count"), float(part["round"].min())),
                    Cell(count(part["seed"].nunique()), float(part["seed"].nunique())),
                    t.text_cell(part["skipped"].iloc[0]),
                )
            )
        )
    columns = (
        *t.text_columns("Strategy"),
        *t.number_columns("ε", *(("Client",) if by == "client" else ())),
        *t.text_columns("Group"),
        *t.number_columns("Replies skipped", "Rounds", "Seeds"),
        *t.text_columns("First reason"),
    )
    tidy = skipped[[*RUN, "round", "client", "group", "skipped"]].rename(columns={"skipped": "reason"})
    note = "A skipped reply has weight 0 in its round; its client is charged for the round all the same."
    return Table("skipped", "Skipped replies", columns, tuple(rows), t.csv(tidy), note)


def may_skip(digest: Digest) -> bool:
    """Return whether the scenario skips replies that fail; otherwise they end the run."""
    training = digest.results.resolved.get("scenario", {}).get("training", {})
    return bool(training.get("on_failure") == "skip")


def _skipped(digest: Digest) -> pd.DataFrame:
    """Return the rows of ``clients`` whose reply was skipped, with reason and group as strings."""
    clients = digest.results.clients
    if "skipped" not in clients:
        return clients.iloc[:0].assign(skipped="")
    reasons = clients["skipped"].astype(object)
    rows = clients.assign(skipped=reasons.where(reasons.notna(), "").astype(str))
    rows = rows[rows["skipped"] != ""]
    return rows.assign(group=rows["group"].astype(str))


def _by_group(skipped: pd.DataFrame, digest: Digest) -> str:
    """Name the groups that lost most replies; ``""`` if clients hold several groups."""
    lost = skipped.loc[skipped["group"] != "", "group"].value_counts()
    if lost.empty:
        return ""
    top = lost.head(MOST_GROUPS)
    more = [f"{len(lost) - MOST_GROUPS} more groups"] if len(lost) > MOST_GROUPS else []
    counts = [f"{group_label(str(g), digest.attribute)}: {count(n)}" for g, n in top.items()]
    return f" ({listed([*counts, *more])})"
