"""Charts of the federation: the groups' weights, the clients' records, and the noise of the aggregate."""

from __future__ import annotations

import math

import pandas as pd

from fedtoll.formatting import MOST_CLIENTS, count, group_label, interval
from fedtoll.report.charts.style import (
    COLOURS,
    PANEL,
    Spec,
    budget_labels,
    chart_rows,
    cycle,
    facet,
    round_axis,
    series_encodings,
    single,
    thin_rounds,
    tooltips,
)
from fedtoll.report.digest import Digest
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll.intervals import half_width


def weights(digest: Digest) -> Spec | None:
    """Return the chart of the groups' shares of the weight by round, tightest ε; ``None`` if unknown."""
    import altair as alt

    groups = digest.results.groups
    rows = groups[(groups["group"] != EVERYBODY) & groups["weight"].notna()]
    if rows.empty:
        return None
    rows = rows[rows["epsilon"] == rows["epsilon"].min()]
    names = [group_label(g, digest.attribute) for g in dict.fromkeys(rows["group"])]
    rows = rows.assign(group=rows["group"].map(lambda g: group_label(g, digest.attribute)))
    mean = thin_rounds(_over_seeds(rows, ["strategy", "group", "round"], "weight"), ["strategy", "group"])
    mean = mean.assign(
        text=[f"{100 * w:.1f}%" for w in mean["weight"]],
        interval=_percent(mean["low"], mean["high"]),
    )
    colour, _, dash = series_encodings("group:N", names)
    # The lines of groups with the same share overlap; dashes keep both visible.
    share = alt.Axis(format="%", values=[0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    y = alt.Y("weight:Q", title="share of the weight", scale=alt.Scale(type="sqrt", zero=True), axis=share)
    tips = tooltips(group="group", strategy="strategy", round="round", text="share", interval="95% interval")
    panel = (
        alt.Chart(alt.NamedData("weights"))
        .mark_line(strokeWidth=1.7)
        .encode(round_axis(), y, colour, dash, tooltip=tips + tooltips(seeds="seeds"))
        .properties(width=PANEL, height=170)
    )
    fields = ["strategy", "group", "round", "weight", "text", "interval", "seeds"]
    return facet(panel, "weights", chart_rows(mean, fields), margin=60, by="strategy:N", min_width=200)


def partition(digest: Digest) -> Spec | None:
    """Return the chart of each client's planned records; ``None`` if unknown, or with too many clients."""
    import altair as alt

    planned = digest.results.resolved.get("partition", {})
    counts = planned.get("expected", [])
    if not counts or len(counts) > MOST_CLIENTS:
        return None
    names = [group_label(g, digest.attribute) for g in planned["groups"]]
    rows = [
        {"client": str(k), "group": group, "records": n, "text": count(n)}
        for k, planned_k in enumerate(counts)
        for group, n in zip(names, planned_k, strict=True)
        if n
    ]
    colour = alt.Color("group:N", scale=alt.Scale(domain=names, range=cycle(COLOURS, len(names))))
    clients = alt.Scale(domain=[str(k) for k in range(len(counts))])
    panel = (
        alt.Chart(alt.NamedData("partition"))
        # White edges separate groups whose colours repeat.
        .mark_bar(stroke="white", strokeWidth=0.6)
        .encode(
            alt.X("client:N", scale=clients, title="client", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            alt.Y("records:Q", title="records", stack=True),
            colour,
            tooltip=tooltips(client="client", group="group", text="n, records"),
        )
        .properties(width=PANEL, height=200)
    )
    return single(panel, "partition", rows, margin=75, max_width=720)


def effective_noise(digest: Digest) -> Spec | None:
    """Return the chart of the effective noise Σ a_k² v_k by round, one panel per ε; ``None`` if unknown."""
    import altair as alt

    rounds = digest.results.rounds
    noise = rounds["effective_noise"]
    rows = rounds[(rounds["mechanism"] == "dp-sgd") & (noise > 0) & (noise < math.inf)]
    if rows.empty:
        return None
    rows = rows.assign(panel="ε = " + budget_labels(rows))
    rows = rows.sort_values("epsilon", ascending=False, kind="stable")
    mean = _over_seeds(rows, ["panel", "strategy", "round"], "effective_noise")
    mean = thin_rounds(mean, ["panel", "strategy"])
    mean = mean.assign(
        text=[f"{v:.2e}" for v in mean["effective_noise"]],
        interval=[
            "none" if math.isnan(a) else f"{a:.2e} to {b:.2e}"
            for a, b in zip(mean["low"], mean["high"], strict=True)
        ],
    )
    colour, _, dash = series_encodings("strategy:N", digest.strategies)
    low, high = (math.log10(mean["effective_noise"].agg(end)) for end in ("min", "max"))
    powers = [10.0**k for k in range(math.floor(low), math.ceil(high) + 1)]
    axis = alt.Axis(format="~g", values=powers)
    y = alt.Y("effective_noise:Q", title="effective noise", scale=alt.Scale(type="log"), axis=axis)
    tips = tooltips(strategy="strategy", panel="budget", round="round", text="noise", interval="95% interval")
    panel = (
        alt.Chart(alt.NamedData("noise"))
        .mark_line(strokeWidth=1.7)
        .encode(round_axis(), y, colour, dash, tooltip=tips + tooltips(seeds="seeds"))
        .properties(width=PANEL, height=170)
    )
    fields = ["panel", "strategy", "round", "effective_noise", "text", "interval", "seeds"]
    return facet(panel, "noise", chart_rows(mean, fields), margin=70, min_width=200)


def _over_seeds(rows: pd.DataFrame, by: list[str], column: str) -> pd.DataFrame:
    """Return the mean over seeds with its 95% t interval (``low``, ``high``) and ``seeds``."""
    mean = rows.groupby(by, sort=False)[column].agg(["mean", "sem", "count"]).reset_index()
    half = half_width(mean["sem"], mean["count"])
    ends = {"low": mean["mean"] - half, "high": mean["mean"] + half}
    return mean.rename(columns={"mean": column, "count": "seeds"}).assign(**ends)


def _percent(low: pd.Series[float], high: pd.Series[float]) -> list[str]:
    texts = [interval(100 * a, 100 * b, 1) for a, b in zip(low, high, strict=True)]
    return [text if text == "none" else f"{text}%" for text in texts]
