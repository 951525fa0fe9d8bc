"""What was spent and what was run: the privacy card's tables and the list of runs."""

from __future__ import annotations

import pandas as pd

from fedtoll.formatting import budget
from fedtoll.report.digest import Digest
from fedtoll.report.privacy import Card
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Cell, Row, Table


def spent_table(card: Card) -> Table | None:
    """Return what the clients spent by ε and strategy; ``None`` if no run is private."""
    if not card.spent:
        return None
    columns = (
        *t.words("Strategy"),
        *t.numbers("ε"),
        *t.words("ε spent by a client", "Largest", "σ of DP-SGD", "q", "T"),
        *t.words("Statistics, a client"),
    )
    names = ("strategy", "epsilon", "spent", "largest", "noise", "rate", "steps", "statistics")
    rows = tuple(
        Row(
            (
                t.text(s.strategy),
                Cell(s.epsilon, float(s.epsilon)),
                *(t.text(getattr(s, name)) for name in names[2:]),
            )
        )
        for s in card.spent
    )
    frame = pd.DataFrame([{name: getattr(s, name) for name in names} for s in card.spent])
    note = "From the ledger: noise multiplier σ, sampling rate q and steps T of one client over all rounds."
    return Table("spent", "Privacy spent, by ε and strategy", columns, rows, t.csv(frame), note)


def spent_by_client(card: Card) -> Table | None:
    """Return ε spent by every client; ``None`` if no run is private, or with very many clients."""
    if not card.by_client:
        return None
    rows = tuple(Row(tuple(_spent(cell, i) for i, cell in enumerate(line))) for line in card.by_client)
    columns = (*t.words("Client"), *t.numbers(*card.columns))
    frame = pd.DataFrame(card.by_client, columns=["client", *card.columns])
    return Table("spent-by-client", "ε spent by every client", columns, rows, t.csv(frame))


def runs_table(digest: Digest) -> Table:
    """Return every planned run and its hash."""
    runs = digest.results.resolved.get("runs", [])
    rows = tuple(
        Row(
            (
                t.text(r["hash"]),
                t.text(r["strategy"]),
                t.privacy(r["mechanism"], float(r["epsilon"])),
                Cell(str(r["seed"]), float(r["seed"])),
                t.text(r["engine"]),
            )
        )
        for r in runs
    )
    columns = (*t.words("Hash", "Strategy"), *t.numbers("ε", "Seed"), *t.words("Engine"))
    names = ["hash", "strategy", "mechanism", "epsilon", "seed", "engine"]
    frame = pd.DataFrame([{n: r[n] for n in names} for r in runs], columns=names)
    frame["epsilon"] = [
        budget(m, float(e)) for m, e in zip(frame["mechanism"], frame["epsilon"], strict=True)
    ]
    return Table("runs", "Runs", columns, rows, t.csv(frame))


def _spent(cell: str, column: int) -> Cell:
    if column == 0:
        return t.text(cell)
    try:
        return Cell(cell, float(cell))
    except ValueError:  # a dash: unknown
        return Cell(cell, float("nan"))
