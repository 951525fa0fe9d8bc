"""What goes on behind the tolls: who holds which records, who weighs what, and how loud the noise is."""

from __future__ import annotations

import math

import pandas as pd

from fedtoll.formatting import MOST_CLIENTS, count, interval, named
from fedtoll.report.charts.style import (
    COLOURS,
    PANEL,
    Spec,
    budgets,
    cycle,
    facet,
    keys,
    round_axis,
    single,
    thin,
    tooltips,
    values,
)
from fedtoll.report.digest import Digest
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll.intervals import half_width


def weights(digest: Digest) -> Spec | None:
    """Return the chart of each group's share of the weight by round, tightest ε; ``None`` if unknown."""
    import altair as alt

    groups = digest.results.groups
    rows = groups[(groups["group"] != EVERYBODY) & groups["weight"].notna()]
    if rows.empty:
        return None
    rows = rows[rows["epsilon"] == rows["epsilon"].min()]
    names = [named(g, digest.attribute) for g in dict.fromkeys(rows["group"])]
    rows = rows.assign(group=rows["group"].map(lambda g: named(g, digest.attribute)))
    mean = thin(_over_seeds(rows, ["strategy", "group", "round"], "weight"), ["strategy", "group"])
    mean = mean.assign(
        told=[f"{100 * w:.1f}%" for w in mean["weight"]],
        interval=_percent(mean["low"], mean["high"]),
    )
    colour, _, dash = keys("group:N", names)
    # Groups with the same share lie on each other: dashes let the one beneath be seen.
    share = alt.Axis(format="%", values=[0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    y = alt.Y("weight:Q", title="share of the weight", scale=alt.Scale(type="sqrt", zero=True), axis=share)
    tips = tooltips(group="group", strategy="strategy", round="round", told="share", interval="95% interval")
    panel = (
        alt.Chart(alt.NamedData("weights"))
        .mark_line(strokeWidth=1.7)
        .encode(round_axis(), y, colour, dash, tooltip=tips + tooltips(seeds="seeds"))
        .properties(width=PANEL, height=170)
    )
    fields = ["strategy", "group", "round", "weight", "told", "interval", "seeds"]
    return facet(panel, "weights", values(mean, fields), margin=60, by="strategy:N", least=200)


def partition(digest: Digest) -> Spec | None:
    """Return the chart of what every client is planned to hold, by group; ``None`` if unknown or too long."""
    import altair as alt

    planned = digest.results.resolved.get("partition", {})
    counts = planned.get("expected", [])
    if not counts or len(counts) > MOST_CLIENTS:
        return None
    names = [named(g, digest.attribute) for g in planned["groups"]]
    rows = [
        {"client": str(k), "group": group, "records": n, "told": count(n)}
        for k, of in enumerate(counts)
        for group, n in zip(names, of, strict=True)
        if n
    ]
    colour = alt.Color("group:N", scale=alt.Scale(domain=names, range=cycle(COLOURS, len(names))))
    clients = alt.Scale(domain=[str(k) for k in range(len(counts))])
    panel = (
        alt.Chart(alt.NamedData("partition"))
        # White edges part colours that repeat.
        .mark_bar(stroke="white", strokeWidth=0.6)
        .encode(
            alt.X("client:N", scale=clients, title="client", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            alt.Y("records:Q", title="records", stack=True),
            colour,
            tooltip=tooltips(client="client", group="group", told="n, records"),
        )
        .properties(width=PANEL, height=200)
    )
    return single(panel, "partition", rows, margin=75, most=720)


def effective_noise(digest: Digest) -> Spec | None:
    """Return the chart of the effective noise Σ a_k² v_k by round: one panel an ε; ``None`` if unknown."""
    import altair as alt

    rounds = digest.results.rounds
    noise = rounds["effective_noise"]
    rows = rounds[(rounds["mechanism"] == "dp-sgd") & (noise > 0) & (noise < math.inf)]
    if rows.empty:
        return None
    rows = rows.assign(panel="ε = " + budgets(rows)).sort_values("epsilon", ascending=False, kind="stable")
    mean = thin(_over_seeds(rows, ["panel", "strategy", "round"], "effective_noise"), ["panel", "strategy"])
    mean = mean.assign(
        told=[f"{v:.2e}" for v in mean["effective_noise"]],
        interval=[
            "none" if math.isnan(a) else f"{a:.2e} to {b:.2e}"
            for a, b in zip(mean["low"], mean["high"], strict=True)
        ],
    )
    colour, _, dash = keys("strategy:N", digest.strategies)
    low, high = (math.log10(mean["effective_noise"].agg(end)) for end in ("min", "max"))
    powers = [10.0**k for k in range(math.floor(low), math.ceil(high) + 1)]
    axis = alt.Axis(format="~g", values=powers)
    y = alt.Y("effective_noise:Q", title="effective noise", scale=alt.Scale(type="log"), axis=axis)
    tips = tooltips(strategy="strategy", panel="budget", round="round", told="noise", interval="95% interval")
    panel = (
        alt.Chart(alt.NamedData("noise"))
        .mark_line(strokeWidth=1.7)
        .encode(round_axis(), y, colour, dash, tooltip=tips + tooltips(seeds="seeds"))
        .properties(width=PANEL, height=170)
    )
    fields = ["panel", "strategy", "round", "effective_noise", "told", "interval", "seeds"]
    return facet(panel, "noise", values(mean, fields), margin=70, least=200)


def _over_seeds(rows: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Return the mean over seeds with its 95% t interval (``low``, ``high``) and ``seeds``."""
    mean = rows.groupby(by, sort=False)[column].agg(["mean", "sem", "count"]).reset_index()
    half = half_width(mean["sem"], mean["count"])
    ends = {"low": mean["mean"] - half, "high": mean["mean"] + half}
    return mean.rename(columns={"mean": column, "count": "seeds"}).assign(**ends)


def _percent(low: pd.Series[float], high: pd.Series[float]) -> list[str]:
    within = [interval(100 * a, 100 * b, 1) for a, b in zip(low, high, strict=True)]
    return [text if text == "none" else f"{text}%" for text in within]
