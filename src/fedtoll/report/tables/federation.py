"""The tables of groups and clients: records, declared sizes, weights and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedtoll.formatting import MOST_CLIENTS, UNDEFINED, budget, count, general, group_label, span
from fedtoll.report.digest import Digest
from fedtoll.report.tables import table as t
from fedtoll.report.tables.table import Cell, Row, Table
from fedtoll.scenarios.measures import EVERYBODY, RUN
from fedtoll.scenarios.participation import Participation, chances_of
from fedtoll.toll import FEWEST_OF_CLASS, FEWEST_RECORDS

_NAN = float("nan")


def group_table(digest: Digest) -> Table:
    """Return each group's test records, clients, declared sizes and share of the weight."""
    results = digest.results
    clients = pd.DataFrame(results.resolved.get("clients", []), columns=["id", "group", "size"])
    groups = digest.loss.drop_duplicates("group").set_index("group")
    weighted = results.groups.dropna(subset="weight")
    weighted = weighted[weighted["epsilon"] == weighted["epsilon"].min()]
    share = weighted.groupby(["strategy", "group"], sort=False)["weight"].mean()
    strategies = list(weighted["strategy"].unique())
    total = clients["size"].sum()
    mixed = clients[clients["group"] == ""]
    named = clients["group"].dropna()[lambda g: g != ""]
    rates = not digest.several_classes
    rows, tidy = [], []
    for name in dict.fromkeys([*groups.index.drop(EVERYBODY, errors="ignore"), *named]):
        own = clients[clients["group"] == name]["size"]
        known = groups.loc[name] if name in groups.index else None
        n, positives, per_seed = (
            (_NAN, _NAN, _NAN) if known is None else (known["n"], known["positives"], known["n_per_seed"])
        )
        shares = [share.get((s, name), _NAN) for s in strategies]
        share_of_sizes = own.sum() / total if total and not len(mixed) else _NAN
        cells = (
            t.text_cell(group_label(str(name), digest.attribute)),
            Cell(UNDEFINED) if known is None else t.n_cell(n, positives),
            Cell(count(per_seed), per_seed),
            *((_percent(positives / n if n else _NAN),) if rates else ()),
            Cell(UNDEFINED if len(mixed) else count(len(own)), float(len(own))),
            Cell(span(own.min(), own.max(), "count"), float(own.min())) if len(own) else Cell(UNDEFINED),
            _percent(share_of_sizes),
            *map(_percent, shares),
        )
        rows.append(Row(cells, known is not None and bool(known["too_few"])))
        line = {
            "group": name,
            "n": n,
            "positives": positives,
            "n_per_seed": per_seed,
            "share_of_sizes": share_of_sizes,
        }
        line |= {f"weight, {s}": w for s, w in zip(strategies, shares, strict=True)}
        tidy.append(line | {"clients": _NAN if len(mixed) else len(own)})
    columns = (
        *t.text_columns("Group"),
        *t.number_columns("Test n (positives)" if rates else "Test n", "n per seed"),
        *(t.number_columns("Base rate") if rates else ()),
        *t.number_columns("Clients", "Declared size of each", "Share of sizes"),
        *t.number_columns(*(f"Weight, {s}" for s in strategies)),
    )
    tight = weighted.drop_duplicates("epsilon") if len(weighted) else weighted
    at = "".join(f" at ε = {budget(m, e)}" for m, e in zip(tight["mechanism"], tight["epsilon"], strict=True))
    note = f"Weights: mean over rounds and seeds{at}." if strategies else ""
    if len(mixed):
        sizes = span(mixed["size"].min(), mixed["size"].max(), "count")
        note = (
            f"{count(len(mixed))} clients of declared size {sizes} hold records of any group; the weight of "
            f"each is shared among groups in the proportions that the plan expects it to hold. {note}"
        )
    few = f"{FEWEST_RECORDS} test records" + (f" or {FEWEST_OF_CLASS} of the rarer class" if rates else "")
    return Table(
        "groups",
        "Groups: held-out records, clients and weight",
        columns,
        tuple(rows),
        t.csv(pd.DataFrame(tidy)),
        f"{note} “Too few” means fewer than {few}.".strip(),
    )


def client_table(digest: Digest) -> Table | None:
    """Return each client's weight and noise at the tightest ε; ``None`` if unknown, or with many clients."""
    results = digest.results
    weighted = results.clients.dropna(subset="weight")
    weighted = weighted[weighted["epsilon"] == weighted["epsilon"].min()]
    clients = results.resolved.get("clients", [])
    if weighted.empty or len(clients) > MOST_CLIENTS:
        return None
    mean = weighted.groupby(["strategy", "client"], sort=False)[["weight", "noise_variance"]].mean()
    strategies = list(weighted["strategy"].unique())
    everyone = pd.MultiIndex.from_product([strategies, [c["id"] for c in clients]], names=mean.index.names)
    mean = mean.reindex(everyone)  # undefined for a client that never took part
    rows = tuple(
        Row(
            (
                Cell(str(c["id"]), float(c["id"])),
                t.text_cell(group_label(c["group"], digest.attribute) if c["group"] else "any"),
                Cell(count(c["size"]), float(c["size"])),
                *(_percent(mean.loc[(s, c["id"]), "weight"]) for s in strategies),
                *(_general(mean.loc[(s, c["id"]), "noise_variance"]) for s in strategies),
            )
        )
        for c in clients
    )
    columns = (
        *t.number_columns("Client"),
        *t.text_columns("Group"),
        *t.number_columns("Declared size"),
        *t.number_columns(*(f"Weight, {s}" for s in strategies)),
        *t.number_columns(*(f"Noise, {s}" for s in strategies)),
    )
    frame = pd.DataFrame(clients).rename(columns={"id": "client"}).merge(mean.reset_index(), on="client")
    caption = "Clients: weight, and variance of the noise in each coordinate of an update"
    return Table("clients", caption, columns, rows, t.csv(frame), "Mean over rounds and seeds.")


def participation_table(digest: Digest) -> Table | None:
    """Return in which share of the rounds the clients of each group took part; ``None`` if all always did."""
    results = digest.results
    rule = results.resolved.get("scenario", {}).get("participation", {})
    if rule.get("kind", "all") == "all":
        return None
    known = [_Known(c["id"], c["group"]) for c in results.resolved["clients"]]
    chances = chances_of(Participation(**rule), known)
    runs = results.rounds.groupby([*RUN], sort=False)["round"].max()
    took = results.clients.groupby("client").size().reindex([c.id for c in known], fill_value=0).to_numpy()
    realised = took / runs.sum()
    rows, tidy = [], []
    for name in dict.fromkeys(c.group for c in known):
        own = np.array([c.group == name for c in known])
        least, most = (f"{100 * x:.1f}%" for x in (realised[own].min(), realised[own].max()))
        expected, found = float(chances[own].mean()), float(realised[own].mean())
        rows.append(
            Row(
                (
                    t.text_cell(group_label(name, digest.attribute) if name else "any"),
                    Cell(count(own.sum()), float(own.sum())),
                    _percent(expected),
                    _percent(found),
                    Cell(least if least == most else f"{least} to {most}", float(realised[own].min())),
                )
            )
        )
        tidy.append({"group": name, "clients": int(own.sum()), "expected": expected, "realised": found})
    columns = (
        *t.text_columns("Group"),
        *t.number_columns("Clients", "Expected share of rounds", "Share of rounds", "Share of each client"),
    )
    each = results.rounds["participants"]
    drawn = "It is drawn in secret from the seed of each run; ε holds against those who do not know it."
    if rule["kind"] != "poisson":
        drawn = f"The schedule is the same in every run, drawn from the public seed {rule.get('seed', 0)}."
    note = (
        f"Means over clients. {span(each.min(), each.max(), 'count')} of {count(len(known))} clients took "
        f"part in a round. {drawn}"
    )
    caption = "Participation: in which share of the rounds clients trained"
    return Table("participation", caption, columns, tuple(rows), t.csv(pd.DataFrame(tidy)), note)


@dataclass(frozen=True)
class _Known:
    """A client as ``resolved.json`` lists it."""

    id: int
    group: str


def _percent(share: float) -> Cell:
    return Cell(UNDEFINED if pd.isna(share) else f"{100 * share:.1f}%", share)


def _general(value: float) -> Cell:
    return Cell(general(value, 3), value)
