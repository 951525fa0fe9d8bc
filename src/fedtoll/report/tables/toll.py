"""The table of tolls by group and the table of the groups' utility."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fedtoll.formatting import UNDEFINED, group_label
from fedtoll.report.charts.utility import with_intervals
from fedtoll.report.digest import CELL, Digest
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Cell, Column, Row, Table
from fedtoll.scenarios.measures import EVERYBODY, MEASURES

_SHORT = {
    "log_loss": "Log-loss",
    "tpr": "TPR",
    "fpr": "FPR",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced acc.",
}
_TIDY = [*CELL, "group", "n", "positives", "too_few", "runs", "seeds", "undefined", "value", "value_sd"]
_TIDY += ["toll", "toll_se", "toll_low", "toll_high", "clipping", "clipping_se", "noise", "noise_se"]
_TIDY += ["price", "price_se", "price_low", "price_high", "collapsed", "below_majority"]

_PARTS = (
    "The intervals of the clipping and noise parts are t intervals over the seeds with all three runs (at ∞, "
    "with clipping alone and at ε)."
)

_NO_PREDICTIONS = (
    "The interval over seeds and records needs the score of every held-out record: set [results] predictions "
    "= true, and run again. The folder then holds the row, group and label of these records, too."
)


def toll_table(digest: Digest) -> Table:
    """Return every group's toll at every ε under every strategy, the tightest ε first.

    Within an ε and strategy, groups come in the order of their toll under the leader, and everybody last.
    """
    loss = _ordered(digest)
    joint = digest.joint.rename(columns={"low": "population_low", "high": "population_high"})
    joint = joint[[*CELL, "group", "population_low", "population_high"]]
    loss = loss.reset_index().merge(joint, "left", on=[*CELL, "group"]).set_index("index")
    parts = bool(loss["clipping"].notna().any())
    rates = [digest.rate or "accuracy"]
    columns: list[Column] = [
        *t.text_columns(_group(digest)),
        *t.number_columns("ε"),
        *t.text_columns("Strategy"),
        *t.number_columns("n" if digest.several_classes else "n (positives)"),
        *t.number_columns(
            f"Log-loss {digest.word}", "95% interval, seeds", "95% interval, seeds and records"
        ),
        *(t.number_columns("Clipping part (95% interval)", "Noise part (95% interval)") if parts else ()),
        *t.number_columns(*(f"{_SHORT[m]} {digest.word} (95% interval)" for m in rates)),
        *t.number_columns(("Against FedAvg at ∞" if digest.tuned else "Price") + " (95% interval)"),
        *t.text_columns("Flags"),
    ]
    rows = []
    for at, row in loss.iterrows():
        index: Any = at
        cells: list[Cell] = [
            *_key(row, digest),
            t.number_cell(row["toll"]),
            t.interval_cell(row["toll_low"], row["toll_high"]),
            t.interval_cell(row["population_low"], row["population_high"]),
        ]
        if parts:
            cells += [t.mean_cell(row[p], row[f"{p}_se"], row["part_seeds"]) for p in ("clipping", "noise")]
        for m in rates:
            other = digest.tolls[m].loc[index]
            cells.append(t.estimate_cell(other["toll"], other["toll_low"], other["toll_high"]))
        cells.append(t.estimate_cell(row["price"], row["price_low"], row["price_high"]))
        cells.append(
            t.text_cell(
                flags(row, digest.rates.loc[index] if digest.rate else None, _SHORT.get(digest.rate, ""))
            )
        )
        rows.append(Row(tuple(cells), bool(row["too_few"]), row["group"] == EVERYBODY))
    tidy = [
        frame.loc[loss.index, _TIDY].assign(measure=m, population_low=low, population_high=high)
        for m, frame in digest.tolls.items()
        if m in digest.measures
        for low, high in [
            (loss["population_low"], loss["population_high"]) if m == "log_loss" else (float("nan"),) * 2
        ]
    ]
    notes = [_PARTS] if parts else []
    notes += [] if len(digest.joint) or digest.tight.empty else [_NO_PREDICTIONS]
    frame = pd.concat(tidy)
    frame.insert(0, "measure", frame.pop("measure"))
    return Table(
        "tolls",
        f"{digest.word.capitalize()}s by group, ε and strategy",
        tuple(columns),
        tuple(rows),
        t.csv(frame),
        " ".join(notes),
    )


def utility_table(digest: Digest) -> Table:
    """Return every group's utility at every ε under every strategy, including the references at ε = ∞."""
    loss = _ordered(digest, references=True)
    columns = [
        *t.text_columns(_group(digest)),
        *t.number_columns("ε"),
        *t.text_columns("Strategy"),
        *t.number_columns("n" if digest.several_classes else "n (positives)"),
        *t.number_columns(*(f"{_SHORT[m]} (95% interval)" for m in digest.measures)),
        *t.number_columns("Seeds"),
    ]
    frames = [with_intervals(digest.tolls[m], None if MEASURES[m].unit else 1) for m in digest.measures]
    rows = []
    for at, row in loss.iterrows():
        index: Any = at
        levels = [frame.loc[index] for frame in frames]
        cells = (
            *_key(row, digest),
            *(t.estimate_cell(level["value"], level["low"], level["high"]) for level in levels),
            t.number_cell(row["runs"], 0),
        )
        rows.append(Row(cells, bool(row["too_few"]), row["group"] == EVERYBODY))
    keep = [*CELL, "group", "n", "positives", "too_few", "runs", "undefined", "value", "value_sd"]
    frame = pd.concat([digest.tolls[m].loc[loss.index, keep].assign(measure=m) for m in digest.measures])
    frame.insert(0, "measure", frame.pop("measure"))
    caption = f"Utility by group, ε and strategy: {', '.join(MEASURES[m].title for m in digest.measures)}"
    return Table("utility", caption, tuple(columns), tuple(rows), t.csv(frame))


def _group(digest: Digest) -> str:
    return "Group" if digest.attribute == "group" else f"Group ({digest.attribute})"


def _key(row: pd.Series[Any], digest: Digest) -> list[Cell]:
    return [
        t.text_cell(group_label(row["group"], digest.attribute)),
        t.budget_cell(row["mechanism"], row["epsilon"]),
        t.text_cell(row["strategy"]),
        t.n_cell(row["n"], row["positives"]),
    ]


def _ordered(digest: Digest, references: bool = False) -> pd.DataFrame:
    """Return the log-loss tolls in table order; their index is valid for the frames of all measures."""
    loss = digest.loss if references else digest.loss[digest.loss["mechanism"] != "none"]
    groups = {g: i for i, g in enumerate([*digest.order, EVERYBODY])}
    names = {s: i for i, s in enumerate([digest.leader, *digest.strategies]) if s != digest.leader or not i}
    keys = pd.DataFrame(
        {
            "mechanism": loss["mechanism"].map({"dp-sgd": 0, "clip-only": 1, "none": 2}),
            "epsilon": loss["epsilon"],
            "strategy": loss["strategy"].map(names),
            "group": loss["group"].map(groups),
        }
    )
    return loss.loc[keys.sort_values(list(keys.columns), kind="stable").index]


def flags(loss: pd.Series[Any], rate: pd.Series[Any] | None, name: str) -> str:
    """Return a row's flags, each with its number of seeds; a dash without flags.

    Parameters
    ----------
    loss, rate
        The row in log-loss and in the rate of the rarer class; there is no rate with more than two classes.
    name
        The rate's short name.
    """
    runs = int(loss["runs"])
    found = ["too few"] if loss["too_few"] else []
    for column, flag in (("collapsed", "collapsed"), ("below_majority", "below majority")):
        seeds = round(float(loss[column]) * runs)
        if seeds:
            found.append(f"{flag} {seeds}/{runs}")
    if rate is not None and rate["undefined"]:
        found.append(f"{name} undefined {int(rate['undefined'])}/{runs}")
    unpaired = runs - int(loss["seeds"]) - int(loss["undefined"])
    if 0 < unpaired < runs:
        found.append(f"no reference {unpaired}/{runs}")
    return "; ".join(found) or UNDEFINED
