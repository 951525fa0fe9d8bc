"""Fairness against utility: strategies as points, one panel per ε, and the Pareto front."""

from __future__ import annotations

import pandas as pd

from fedtoll.formatting import UNDEFINED, count, group_label, interval, number
from fedtoll.report.charts.style import (
    GREY,
    Spec,
    budget_labels,
    chart_rows,
    facet,
    series_encodings,
    tooltips,
)
from fedtoll.report.charts.utility import with_intervals
from fedtoll.report.digest import CELL, Digest
from fedtoll.scenarios.measures import EVERYBODY


def front(digest: Digest) -> Spec | None:
    """Return the chart of toll gap against everybody's log-loss; ``None`` with fewer than two strategies.

    Right is better, since the axis of log-loss is reversed, and down is fairer. The line joins the
    strategies that no other strategy beats in both. The bars are 95% intervals: conservative for the gap, t
    for the log-loss.
    """
    import altair as alt

    rows = front_rows(digest)
    if rows["strategy"].nunique() < 2:
        return None
    rows = rows.assign(
        panel="ε = " + budget_labels(rows),
        gap_text=rows["gap"].map(number),
        gap_interval=_between(rows, "gap_low", "gap_high"),
        loss_text=rows["value"].map(number),
        loss_interval=_between(rows, "low", "high"),
        worst=[_worst(g, t, digest) for g, t in zip(rows["worst_group"], rows["worst_toll"], strict=True)],
        n=rows["n"].map(count),
        front_text=rows["on_front"].map({True: "on the front", False: "beaten in both"}),
    )
    colour, shape, _ = series_encodings("strategy:N", digest.strategies)
    base = alt.Chart(alt.NamedData("front"))
    # Padding keeps the marks off the frame.
    scale = alt.Scale(reverse=True, zero=False, nice=True, padding=14)
    x = alt.X("value:Q", title="everybody’s log-loss (better →)", scale=scale, axis=alt.Axis(tickCount=4))
    y_scale, title = alt.Scale(zero=True, nice=True), f"{digest.word} gap in nats (fairer ↓)"
    y = alt.Y("gap:Q", title=title, scale=y_scale, axis=alt.Axis(tickCount=5))
    y_low = alt.Y("gap_low:Q", title=title, scale=y_scale)
    x_low = alt.X("low:Q", title="everybody’s log-loss (better →)", scale=scale)
    tips = tooltips(
        strategy="strategy", panel="budget", gap_text=f"{digest.word} gap", gap_interval="95% interval"
    )
    tips += tooltips(loss_text="everybody’s log-loss", loss_interval="95% interval of it")
    tips += tooltips(worst="pays most", front_text="front", n="n", seeds="seeds")
    panel = alt.layer(
        base.transform_filter("datum.on_front")
        .mark_line(color=GREY, strokeWidth=1.4, strokeDash=[5, 4])
        .encode(x, y, alt.Order("value:Q")),
        base.mark_rule(strokeWidth=1.2, opacity=0.6).encode(x, y_low, alt.Y2("gap_high:Q"), colour),
        base.mark_rule(strokeWidth=1.2, opacity=0.6).encode(x_low, alt.X2("high:Q"), y, colour),
        base.mark_point(filled=True, size=90, opacity=1).encode(x, y, colour, shape, tooltip=tips),
    ).properties(width=210, height=210)
    fields = ["panel", "strategy", "value", "low", "high", "gap", "gap_low", "gap_high", "on_front"]
    fields += ["gap_text", "gap_interval", "loss_text", "loss_interval", "worst", "front_text", "n", "seeds"]
    data = chart_rows(rows, fields)
    return facet(panel, "front", data, margin=20, min_width=240, independent_x=True, independent_y=True)


def front_rows(digest: Digest) -> pd.DataFrame:
    """Return the toll gaps of private runs, with everybody's log-loss, its interval, n and seeds."""
    everybody = digest.loss[digest.loss["group"] == EVERYBODY]
    everybody = with_intervals(everybody, ceiling=None)
    everybody = everybody[[*CELL, "value", "low", "high", "n", "seeds"]]
    gaps = digest.gaps[digest.gaps["mechanism"] == "dp-sgd"].dropna(subset="gap").drop(columns="seeds")
    return gaps.merge(everybody, "inner", on=CELL).dropna(subset="value")


def _worst(group: object, toll: float, digest: Digest) -> str:
    return f"{group_label(group, digest.attribute)}, {number(toll)}" if isinstance(group, str) else UNDEFINED


def _between(rows: pd.DataFrame, low: str, high: str) -> list[str]:
    return [interval(a, b) for a, b in zip(rows[low], rows[high], strict=True)]
