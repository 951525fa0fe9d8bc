"""Groups, clients and weights: who is there, who holds what, and who counts for how much."""

from __future__ import annotations

import pandas as pd

from fedtoll.formatting import MOST_CLIENTS, UNDEFINED, budget, count, general, named, span
from fedtoll.report.digest import Digest
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Cell, Row, Table
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll import FEWEST_POSITIVES, FEWEST_RECORDS

_NAN = float("nan")


def group_table(digest: Digest) -> Table:
    """Return each group's test records, clients, declared sizes and share of the weight."""
    results = digest.results
    clients = pd.DataFrame(results.resolved.get("clients", []), columns=["id", "group", "size"])
    groups = digest.loss.drop_duplicates("group").set_index("group")
    weighed = results.groups.dropna(subset="weight")
    weighed = weighed[weighed["epsilon"] == weighed["epsilon"].min()]
    share = weighed.groupby(["strategy", "group"], sort=False)["weight"].mean()
    strategies = list(weighed["strategy"].unique())
    total = clients["size"].sum()
    mixed = clients[clients["group"] == ""]
    declared = clients["group"].dropna()[lambda g: g != ""]
    rates = not digest.several_classes
    rows, tidy = [], []
    for name in dict.fromkeys([*groups.index.drop(EVERYBODY, errors="ignore"), *declared]):
        own = clients[clients["group"] == name]["size"]
        known = groups.loc[name] if name in groups.index else None
        n, positives, each = (
            (_NAN, _NAN, _NAN) if known is None else (known["n"], known["positives"], known["n_per_seed"])
        )
        shares = [share.get((s, name), _NAN) for s in strategies]
        of_sizes = own.sum() / total if total and not len(mixed) else _NAN
        cells = (
            t.text(named(str(name), digest.attribute)),
            Cell(UNDEFINED) if known is None else t.counted(n, positives),
            Cell(count(each), each),
            *((_percent(positives / n if n else _NAN),) if rates else ()),
            Cell(UNDEFINED if len(mixed) else count(len(own)), float(len(own))),
            Cell(span(own.min(), own.max(), "count"), float(own.min())) if len(own) else Cell(UNDEFINED),
            _percent(of_sizes),
            *map(_percent, shares),
        )
        rows.append(Row(cells, known is not None and bool(known["too_few"])))
        line = {"group": name, "n": n, "positives": positives, "n_per_seed": each, "share_of_sizes": of_sizes}
        line |= {f"weight, {s}": w for s, w in zip(strategies, shares, strict=True)}
        tidy.append(line | {"clients": _NAN if len(mixed) else len(own)})
    columns = (
        *t.words("Group"),
        *t.numbers("Test n (positives)" if rates else "Test n", "n per seed"),
        *(t.numbers("Base rate") if rates else ()),
        *t.numbers("Clients", "Declared size of each", "Share of sizes"),
        *t.numbers(*(f"Weight, {s}" for s in strategies)),
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
    few = f"{FEWEST_RECORDS} test records" + (f" or {FEWEST_POSITIVES} positives" if rates else "")
    return Table(
        "groups",
        "Groups: held-out records, clients and weight",
        columns,
        tuple(rows),
        t.csv(pd.DataFrame(tidy)),
        f"{note} “Too few” means fewer than {few}.".strip(),
    )


def client_table(digest: Digest) -> Table | None:
    """Return each client's weight and noise at the tightest ε; ``None`` if unknown or too long."""
    results = digest.results
    weighed = results.clients.dropna(subset="weight")
    weighed = weighed[weighed["epsilon"] == weighed["epsilon"].min()]
    clients = results.resolved.get("clients", [])
    if weighed.empty or len(clients) > MOST_CLIENTS:
        return None
    mean = weighed.groupby(["strategy", "client"], sort=False)[["weight", "noise_variance"]].mean()
    strategies = list(weighed["strategy"].unique())
    rows = tuple(
        Row(
            (
                Cell(str(c["id"]), float(c["id"])),
                t.text(named(c["group"], digest.attribute) if c["group"] else "any"),
                Cell(count(c["size"]), float(c["size"])),
                *(_percent(mean.loc[(s, c["id"]), "weight"]) for s in strategies),
                *(_general(mean.loc[(s, c["id"]), "noise_variance"]) for s in strategies),
            )
        )
        for c in clients
    )
    columns = (
        *t.numbers("Client"),
        *t.words("Group"),
        *t.numbers("Declared size"),
        *t.numbers(*(f"Weight, {s}" for s in strategies)),
        *t.numbers(*(f"Noise, {s}" for s in strategies)),
    )
    frame = pd.DataFrame(clients).rename(columns={"id": "client"}).merge(mean.reset_index(), on="client")
    caption = "Clients: weight, and variance of the noise in each coordinate of an update"
    return Table("clients", caption, columns, rows, t.csv(frame), "Mean over rounds and seeds.")


def _percent(share: float) -> Cell:
    return Cell(UNDEFINED if pd.isna(share) else f"{100 * share:.1f}%", share)


def _general(value: float) -> Cell:
    return Cell(general(value, 3), value)
