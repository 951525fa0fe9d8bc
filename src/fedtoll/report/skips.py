"""Replies that were skipped: how many, whose, and why. Whoever is skipped has no weight in that round."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fedtoll.formatting import count, listed, named, span
from fedtoll.report.digest import CELL, Digest
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Cell, Row, Table
from fedtoll.scenarios.measures import RUN
from fedtoll.toll import ResultsLike

MOST_ROWS = 100
"""A longer table is by group and not by client; what is downloaded has every skip."""

MOST_GROUPS = 5


def skips_line(results: ResultsLike | Digest) -> str:
    """Say how many replies were skipped and of whom; "" where none was."""
    digest = Digest.of(results)
    gone = _skipped(digest)
    if gone.empty:
        return ""
    asked, clients = len(digest.results.clients), gone["client"].nunique()
    runs, all_runs = (len(frame[RUN].drop_duplicates()) for frame in (gone, digest.results.clients))
    whose = f"{count(clients)} client{'' if clients == 1 else 's'}{_of_groups(gone, digest)}"
    return (
        f"{count(len(gone))} of {count(asked)} replies were skipped, "
        f"in {count(runs)} of {count(all_runs)} runs: of {whose}."
    )


def skips_table(digest: Digest) -> Table | None:
    """Return what was skipped, by strategy, ε and client; ``None`` where nothing was."""
    gone = _skipped(digest)
    if gone.empty:
        return None
    whose = "client" if len(gone[[*CELL, "client"]].drop_duplicates()) <= MOST_ROWS else "group"
    asked = digest.results.clients.groupby([*CELL, whose], sort=False).size()
    rows = []
    keys: Any
    for keys, part in gone.groupby([*CELL, whose], sort=False):
        strategy, mechanism, epsilon, who = keys
        group = str(part["group"].iloc[0])
        rows.append(
            Row(
                (
                    t.text(strategy),
                    t.privacy(mechanism, float(epsilon)),
                    *((Cell(str(who), float(who)),) if whose == "client" else ()),
                    t.text(named(group, digest.attribute) if group else "any"),
                    Cell(f"{count(len(part))} of {count(asked[keys])}", float(len(part))),
                    Cell(span(part["round"].min(), part["round"].max(), "count"), float(part["round"].min())),
                    Cell(count(part["seed"].nunique()), float(part["seed"].nunique())),
                    t.text(part["skipped"].iloc[0]),
                )
            )
        )
    columns = (
        *t.words("Strategy"),
        *t.numbers("ε", *(("Client",) if whose == "client" else ())),
        *t.words("Group"),
        *t.numbers("Replies skipped", "Rounds", "Seeds"),
        *t.words("First reason"),
    )
    told = gone[[*RUN, "round", "client", "group", "skipped"]].rename(columns={"skipped": "reason"})
    note = "A reply that is skipped has weight 0 in its round, and its client is charged for the round."
    return Table("skipped", "Replies that were skipped", columns, tuple(rows), t.csv(told), note)


def may_skip(digest: Digest) -> bool:
    """Whether the scenario skips replies that fail; else they end a run."""
    training = digest.results.resolved.get("scenario", {}).get("training", {})
    return bool(training.get("on_failure") == "skip")


def _skipped(digest: Digest) -> pd.DataFrame:
    """Return the rows of the clients whose reply was skipped, as texts."""
    clients = digest.results.clients
    if "skipped" not in clients:
        return clients.iloc[:0].assign(skipped="")
    reasons = clients["skipped"].astype(object)
    gone = clients.assign(skipped=reasons.where(reasons.notna(), "").astype(str))
    gone = gone[gone["skipped"] != ""]
    return gone.assign(group=gone["group"].astype(str))


def _of_groups(gone: pd.DataFrame, digest: Digest) -> str:
    """Name the groups that lost most replies; nothing where clients are mixed."""
    lost = gone.loc[gone["group"] != "", "group"].value_counts()
    if lost.empty:
        return ""
    more = [f"{len(lost) - MOST_GROUPS} more groups"] if len(lost) > MOST_GROUPS else []
    each = [f"{named(str(g), digest.attribute)} {count(n)}" for g, n in lost.head(MOST_GROUPS).items()]
    return f" ({listed([*each, *more])})"
