"""Tables on the constants: every candidate of ``[tune]``, and the toll of the scenario's own recipe."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fedtoll.formatting import count, group_label
from fedtoll.report.digest import Digest
from fedtoll.report.sensitivity import candidates
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Cell, Row, Table
from fedtoll.scenarios.measures import EVERYBODY


def sensitivity_table(digest: Digest) -> Table | None:
    """Return every candidate with its loss and gap on the public records; ``None`` if nothing was tuned."""
    if not digest.tuned:
        return None
    frame = candidates(digest)
    columns = (
        *t.text_columns("Strategy"),
        *t.number_columns("ε"),
        *t.text_columns("Constants"),
        *t.number_columns("Everybody’s log-loss", f"{digest.word.capitalize()} gap", "Seeds"),
        *t.text_columns("Chosen"),
    )
    rows = tuple(
        Row(
            (
                t.text_cell(row["strategy"]),
                t.budget_cell(row["mechanism"], row["epsilon"]),
                t.text_cell(row["constants"]),
                t.number_cell(row["log_loss"]),
                t.number_cell(row["gap"]),
                Cell(count(row["seeds"]), float(row["seeds"])),
                t.text_cell("yes" if row["chosen"] else "failed" if row.get("failed", False) else ""),
            )
        )
        for _, row in frame.iterrows()
    )
    tidy = frame.rename(columns=lambda name: name.removeprefix("constant."))
    return Table("candidates", "What [tune] tried, on the public records", columns, rows, t.csv(tidy))


def sensitivity_text(digest: Digest) -> str:
    """Return how the constants were chosen, in a few sentences."""
    section = digest.results.resolved.get("scenario", {}).get("tune") or {}
    if not digest.tuned:
        return ""
    frame = candidates(digest)
    failed = frame.get("failed", pd.Series(False, frame.index))
    tried = ((frame["seeds"] > 0) | failed).groupby([frame["strategy"], frame["mechanism"], frame["epsilon"]])
    per_cell = tried.sum()
    few, many = int(per_cell.min()), int(per_cell.max())
    number = f"{few if few == many else f'{few} to {many}'} candidate{'' if many == 1 else 's'}"
    by = "the worst group" if section.get("by") == "worst group" else "everybody"
    seeds = len(section.get("seeds", []))
    halved = section.get("method") == "halving"
    halving = ", dropping the worse half after one seed, two, four, ..." if halved else ""
    free = "; without clipping there are fewer to try at ε = ∞" if section.get("clips") else ""
    return (
        f"Every strategy chose among {number} at every ε, by the least log-loss of {by} on records that are "
        f"declared public, over {seeds} seed{'' if seeds == 1 else 's'} of its own{halving}. "
        f"All strategies try the same number at one ε{free}. {_failures(int(failed.sum()))}{_price(section)}"
    )


def _failures(count: int) -> str:
    """Return a sentence on the candidates that failed, with a space after it; empty if none did."""
    if not count:
        return ""
    return f"{count} candidate{' has' if count == 1 else 's have'} failed, and could not be chosen. "


def _price(section: dict[str, Any]) -> str:
    if section.get("charge", "none") == "none":
        return "What the choice reveals about private records is not counted in ε."
    return "Their number was drawn at random, and ε includes the choice: see the privacy card."


def recipe_table(digest: Digest) -> Table | None:
    """Return the recipe's toll next to the price, by strategy, ε and group; ``None`` without both."""
    recipe = digest.recipe
    if recipe is None:
        return None
    keys = ["strategy", "mechanism", "epsilon", "group"]
    both = digest.loss.merge(recipe.loss, on=keys, suffixes=("", "_recipe"))
    both = both[(both["mechanism"] == "dp-sgd") & both["group"].isin([*digest.order, EVERYBODY])]
    columns = (
        *t.text_columns("Group", "Strategy"),
        *t.number_columns(
            "ε", "Toll of the recipe", "95% interval", "Price at best constants", "95% interval"
        ),
    )
    rows = tuple(
        Row(
            (
                t.text_cell(group_label(row["group"], digest.attribute)),
                t.text_cell(row["strategy"]),
                t.budget_cell(row["mechanism"], row["epsilon"]),
                t.number_cell(row["toll_recipe"]),
                t.interval_cell(row["toll_low_recipe"], row["toll_high_recipe"]),
                t.number_cell(row["toll"]),
                t.interval_cell(row["toll_low"], row["toll_high"]),
            ),
            too_few=bool(row["too_few"]),
            everybody=row["group"] == EVERYBODY,
        )
        for _, row in both.iterrows()
    )
    kept = [*keys, "toll_recipe", "toll_low_recipe", "toll_high_recipe", "toll", "toll_low", "toll_high"]
    return Table("recipe", "Toll of the recipe and price at best constants", columns, rows, t.csv(both[kept]))
