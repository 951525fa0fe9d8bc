"""The tables of ε spent, for the privacy card, and the list of runs."""

from __future__ import annotations

import pandas as pd

from fedtoll.formatting import budget
from fedtoll.report.digest import Digest
from fedtoll.report.privacy import Card
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Cell, Row, Table


def spent_table(card: Card) -> Table | None:
    """Return what clients spent, by ε and strategy; ``None`` if no run is private."""
    if not card.spent:
        return None
    columns = (
        *t.text_columns("Strategy"),
        *t.number_columns("ε"),
        *t.text_columns("ε spent by a client", "Largest", "σ of DP-SGD", "q", "T"),
        *t.text_columns("Statistics, per client"),
    )
    names = ("strategy", "epsilon", "spent", "largest", "noise", "rate", "steps", "statistics")
    rows = tuple(
        Row(
            (
                t.text_cell(s.strategy),
                Cell(s.epsilon, float(s.epsilon)),
                *(t.text_cell(getattr(s, name)) for name in names[2:]),
            )
        )
        for s in card.spent
    )
    frame = pd.DataFrame([{name: getattr(s, name) for name in names} for s in card.spent])
    note = "From the ledger: noise multiplier σ, sampling rate q and steps T of one client over all rounds."
    return Table("spent", "Privacy spent, by ε and strategy", columns, rows, t.csv(frame), note)


def spent_by_client(card: Card) -> Table | None:
    """Return the ε that every client spent; ``None`` if no run is private, or with very many clients."""
    if not card.by_client:
        return None
    rows = tuple(Row(tuple(_spent(cell, i) for i, cell in enumerate(line))) for line in card.by_client)
    columns = (*t.text_columns("Client"), *t.number_columns(*card.columns))
    frame = pd.DataFrame(card.by_client, columns=["client", *card.columns])
    return Table("spent-by-client", "ε spent by every client", columns, rows, t.csv(frame))


def runs_table(digest: Digest) -> Table:
    """Return every planned run with its hash."""
    runs = digest.results.resolved.get("runs", [])
    rows = tuple(
        Row(
            (
                t.text_cell(r["hash"]),
                t.text_cell(r["strategy"]),
                t.budget_cell(r["mechanism"], float(r["epsilon"])),
                Cell(str(r["seed"]), float(r["seed"])),
                t.text_cell(r["engine"]),
            )
        )
        for r in runs
    )
    columns = (*t.text_columns("Hash", "Strategy"), *t.number_columns("ε", "Seed"), *t.text_columns("Engine"))
    names = ["hash", "strategy", "mechanism", "epsilon", "seed", "engine"]
    frame = pd.DataFrame([{n: r[n] for n in names} for r in runs], columns=names)
    frame["epsilon"] = [
        budget(m, float(e)) for m, e in zip(frame["mechanism"], frame["epsilon"], strict=True)
    ]
    return Table("runs", "Runs", columns, rows, t.csv(frame))


def _spent(cell: str, column: int) -> Cell:
    if column == 0:
        return t.text_cell(cell)
    try:
        return Cell(cell, float(cell))
    except ValueError:  # a dash, for unknown
        return Cell(cell, float("nan"))
