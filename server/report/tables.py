"""The report's tables as rows of text: every number of a group with its n and positives beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from fedtoll.server.report.words import (
    MOST_CLIENTS,
    UNDEFINED,
    budget,
    count,
    general,
    number,
    plus_minus,
    span,
)
from fedtoll.server.toll import EVERYBODY, FEWEST_POSITIVES, FEWEST_RECORDS, ResultsLike, fairness, toll_gap

Cells = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One row: its header, its cells, and whether its group is too small for a claim."""

    head: str
    cells: Cells
    too_few: bool = False
    everybody: bool = False


@dataclass(frozen=True)
class Section:
    """Rows under a common header, e.g. those of one strategy."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table for the page: caption, column names (the first heads the rows) and sections."""

    caption: str
    columns: Cells
    sections: tuple[Section, ...]
    note: str = ""


Tolls = dict[str, pd.DataFrame]
"""What :func:`fedtoll.server.toll.toll` returned, by measure; the frames' rows are aligned."""


def toll_tables(tolls: Tolls) -> list[Table]:
    """Return one table an ε, who pays most first; the reference at ε = ∞ comes last."""
    frame = tolls["log_loss"]
    cells = frame[["mechanism", "epsilon"]].drop_duplicates().itertuples(index=False, name=None)
    at = {(m, e): frame.index[(frame["mechanism"] == m) & (frame["epsilon"] == e)] for m, e in cells}
    order = sorted(at, key=lambda key: ({"dp-sgd": 0, "clip-only": 1, "none": 2}[key[0]], -key[1]))
    return [_toll_table(m, e, {k: t.loc[at[m, e]] for k, t in tolls.items()}) for m, e in order]


def _toll_table(mechanism: str, epsilon: float, tolls: Tolls) -> Table:
    reference = mechanism == "none"
    levels = ("Log-loss", "TPR") if reference else ("Log-loss toll ± s.e.", "95% interval", "TPR toll ± s.e.")
    columns = ("Group", "n (positives)", *levels, "Balanced accuracy", "Accuracy", "Price ± s.e.", "Flags")
    sections = []
    for strategy, rows in tolls["log_loss"].groupby("strategy", sort=False):
        # "(all)" closes the section; the groups go from who pays most to who pays least.
        key = (
            rows["group"].eq(EVERYBODY).to_frame("last").assign(pays=-rows["value" if reference else "toll"])
        )
        order = key.sort_values(["last", "pays"], kind="stable").index
        sections.append(Section(str(strategy), tuple(_toll_row(i, tolls, reference) for i in order)))
    return Table(_caption(mechanism, epsilon), columns, tuple(sections))


def _caption(mechanism: str, epsilon: float) -> str:
    if mechanism == "dp-sgd":
        return f"ε = {budget(mechanism, epsilon)}"
    return (
        "ε = ∞, clipped and not noised (non-private)"
        if mechanism == "clip-only"
        else "ε = ∞, the reference (non-private)"
    )


def _toll_row(index: Any, tolls: Tolls, reference: bool) -> Row:
    loss, tpr = tolls["log_loss"].loc[index], tolls["tpr"].loc[index]
    levels = (
        (number(loss["value"]), number(tpr["value"]))
        if reference
        else (
            plus_minus(loss["toll"], loss["toll_se"]),
            span(loss["toll_low"], loss["toll_high"]),
            plus_minus(tpr["toll"], tpr["toll_se"]),
        )
    )
    cells = (
        f"{count(loss['n'])} ({count(loss['positives'])})",
        *levels,
        number(tolls["balanced_accuracy"].loc[index, "value"]),
        number(tolls["accuracy"].loc[index, "value"]),
        plus_minus(loss["price"], loss["price_se"]),
        flags(loss, tpr),
    )
    return Row(_name(loss["group"]), cells, bool(loss["too_few"]), loss["group"] == EVERYBODY)


def flags(loss: pd.Series[Any], tpr: pd.Series[Any]) -> str:
    """Say what is wrong with a row, each with the share of its seeds."""
    runs = int(loss["runs"])
    words = ["too few"] if loss["too_few"] else []
    for column, word in (("collapsed", "collapsed"), ("below_majority", "below majority")):
        seeds = round(float(loss[column]) * runs)
        if seeds:
            words.append(f"{word} {seeds}/{runs}")
    if tpr["undefined"] and not pd.isna(loss["positives"]):  # with several classes there is no TPR
        words.append(f"TPR undefined {int(tpr['undefined'])}/{runs}")
    unpaired = runs - int(loss["seeds"]) - int(loss["undefined"])
    if 0 < unpaired < runs:
        words.append(f"no reference {unpaired}/{runs}")
    return "; ".join(words)


def gap_table(results: ResultsLike, tolls: pd.DataFrame) -> Table:
    """Return the toll gap, the disparity and fairlearn's two differences by ε and strategy."""
    few = set(tolls.loc[tolls["too_few"], "group"])
    predictions = results.predictions
    fair = fairness(predictions[~predictions["group"].isin(few)])
    n = tolls.drop_duplicates("group").set_index("group")["n"]
    gaps = toll_gap(tolls).merge(fair, "left", on=["strategy", "mechanism", "epsilon"])
    sections = []
    for _, part in gaps.groupby(["mechanism", "epsilon"], sort=False):
        rows = tuple(_gap_row(row, n) for _, row in part.iterrows())
        sections.append(Section(_caption(part["mechanism"].iloc[0], part["epsilon"].iloc[0]), rows))
    columns = (
        "Strategy",
        "Toll gap",
        "Pays most",
        "Pays least",
        "Disparity",
        "Demographic parity difference",
        "Equalized odds difference",
    )
    note = f"Groups with too few records take no part: {', '.join(sorted(few))}." if few else ""
    return Table("Toll gap and disparity in log-loss, by ε and strategy", columns, tuple(sections), note)


def _gap_row(row: pd.Series[Any], n: pd.Series[int]) -> Row:
    def who(side: str) -> str:
        group = row[f"{side}_group"]
        return (
            UNDEFINED
            if pd.isna(group)
            else f"{number(row[f'{side}_toll'])} {group} (n\u00a0=\u00a0{count(n[group])})"
        )

    def difference(name: str) -> str:
        text = plus_minus(row[name], row[f"{name}_se"])
        undefined = row["undefined"] if name.startswith("equal") and row["undefined"] > 0 else 0
        return f"{text} (undefined {int(undefined)}/{int(row['seeds'])})" if undefined else text

    gap = "reference" if row["mechanism"] == "none" else number(row["gap"])
    cells = (
        gap,
        who("worst"),
        who("best"),
        number(row["disparity"]),
        difference("demographic_parity_difference"),
        difference("equalized_odds_difference"),
    )
    return Row(row["strategy"], cells)


def group_table(results: ResultsLike, tolls: pd.DataFrame) -> Table:
    """Return each group's test records, clients, declared sizes and share of the weight."""
    clients = pd.DataFrame(results.resolved.get("clients", []), columns=["id", "group", "size"])
    groups = tolls.drop_duplicates("group").set_index("group")
    weighed = results.groups.dropna(subset="weight")
    weighed = weighed[weighed["epsilon"] == weighed["epsilon"].min()]
    share = weighed.groupby(["strategy", "group"], sort=False)["weight"].mean()
    strategies = list(weighed["strategy"].unique())
    total = clients["size"].sum()
    rows = []
    mixed = clients[clients["group"] == ""]
    declared = clients["group"].dropna()[lambda g: g != ""]
    for name in dict.fromkeys([*groups.index.drop(EVERYBODY, errors="ignore"), *declared]):
        own = clients[clients["group"] == name]["size"]
        known = groups.loc[name] if name in groups.index else None
        cells = (
            UNDEFINED if known is None else f"{count(known['n'])} ({count(known['positives'])})",
            UNDEFINED if known is None else count(known["n_per_seed"]),
            UNDEFINED if known is None or not known["n"] else _percent(known["positives"] / known["n"]),
            UNDEFINED if len(mixed) else count(len(own)),
            span(own.min(), own.max(), "count") if len(own) else UNDEFINED,
            _percent(own.sum() / total) if total and not len(mixed) else UNDEFINED,
            *(_percent(share.get((s, name), float("nan"))) for s in strategies),
        )
        rows.append(Row(str(name), cells, known is not None and bool(known["too_few"])))
    columns = (
        "Group",
        "Test n (positives)",
        "n per seed",
        "Base rate",
        "Clients",
        "Declared size of each",
        "Share of sizes",
    )
    tight = weighed.drop_duplicates("epsilon") if len(weighed) else weighed
    at = "".join(f" at ε = {budget(m, e)}" for m, e in zip(tight["mechanism"], tight["epsilon"], strict=True))
    note = f"Weights: mean over rounds and seeds{at}." if strategies else ""
    if len(mixed):
        sizes = span(mixed["size"].min(), mixed["size"].max(), "count")
        note = (
            f"{count(len(mixed))} clients of declared size {sizes} hold records of any group; their weight "
            f"goes to groups as the plan expects them to hold them. {note}"
        )
    return Table(
        "Groups: held-out records, clients and weight",
        (*columns, *(f"Weight, {s}" for s in strategies)),
        (Section("", tuple(rows)),),
        f"{note} “Too few” means fewer than {FEWEST_RECORDS} test records or {FEWEST_POSITIVES} positives.",
    )


def client_table(results: ResultsLike) -> Table | None:
    """Return each client's weight and noise at the tightest ε; ``None`` if unknown or too long."""
    weighed = results.clients.dropna(subset="weight")
    weighed = weighed[weighed["epsilon"] == weighed["epsilon"].min()]
    clients = results.resolved.get("clients", [])
    if weighed.empty or len(clients) > MOST_CLIENTS:
        return None
    mean = weighed.groupby(["strategy", "client"], sort=False)[["weight", "noise_variance"]].mean()
    strategies = list(weighed["strategy"].unique())
    rows = tuple(
        Row(
            str(c["id"]),
            (
                c["group"] or "any",
                count(c["size"]),
                *(_percent(mean.loc[(s, c["id"]), "weight"]) for s in strategies),
                *(general(mean.loc[(s, c["id"]), "noise_variance"], 3) for s in strategies),
            ),
        )
        for c in clients
    )
    columns = ("Client", "Group", "Declared size", *(f"Weight, {s}" for s in strategies))
    return Table(
        "Clients: weight, and variance of the noise in each coordinate of an update",
        (*columns, *(f"Noise, {s}" for s in strategies)),
        (Section("", rows),),
        "Mean over rounds and seeds.",
    )


def _percent(share: float) -> str:
    return UNDEFINED if pd.isna(share) else f"{100 * share:.1f}%"


def _name(group: str) -> str:
    return "everybody" if group == EVERYBODY else group
