"""Fairness against utility: strategies as points, one panel an ε, and the front that nobody beats in both."""

from __future__ import annotations

import pandas as pd

from fedtoll.formatting import UNDEFINED, count, interval, named, number
from fedtoll.report.charts.style import GREY, Spec, budgets, facet, keys, tooltips, values
from fedtoll.report.charts.utility import with_intervals
from fedtoll.report.digest import CELL, Digest
from fedtoll.scenarios.measures import EVERYBODY


def front(digest: Digest) -> Spec | None:
    """Return the chart of toll gap against everybody's log-loss; ``None`` without two strategies' gaps.

    Right is better (the axis of log-loss is turned) and so is down. The line joins the strategies that no
    other strategy beats in both. Bars are the gap's conservative and the loss's t interval, both of 95%.
    """
    import altair as alt

    rows = front_rows(digest)
    if rows["strategy"].nunique() < 2:
        return None
    rows = rows.assign(
        panel="ε = " + budgets(rows),
        gap_told=rows["gap"].map(number),
        gap_interval=_between(rows, "gap_low", "gap_high"),
        loss_told=rows["value"].map(number),
        loss_interval=_between(rows, "low", "high"),
        most=[_who(g, t, digest) for g, t in zip(rows["worst_group"], rows["worst_toll"], strict=True)],
        n=rows["n"].map(count),
        standing=rows["on_front"].map({True: "on the front", False: "beaten in both"}),
    )
    colour, shape, _ = keys("strategy:N", digest.strategies)
    base = alt.Chart(alt.NamedData("front"))
    # Some room to either side, so that no mark touches the frame.
    scale = alt.Scale(reverse=True, zero=False, nice=True, padding=14)
    x = alt.X("value:Q", title="everybody’s log-loss (better →)", scale=scale, axis=alt.Axis(tickCount=4))
    y_scale = alt.Scale(zero=True, nice=True)
    y = alt.Y("gap:Q", title="toll gap in nats (fairer ↓)", scale=y_scale, axis=alt.Axis(tickCount=5))
    y_low = alt.Y("gap_low:Q", title="toll gap in nats (fairer ↓)", scale=y_scale)
    x_low = alt.X("low:Q", title="everybody’s log-loss (better →)", scale=scale)
    tips = tooltips(strategy="strategy", panel="budget", gap_told="toll gap", gap_interval="95% interval")
    tips += tooltips(loss_told="everybody’s log-loss", loss_interval="95% interval of it")
    tips += tooltips(most="pays most", standing="front", n="n", seeds="seeds")
    panel = alt.layer(
        base.transform_filter("datum.on_front")
        .mark_line(color=GREY, strokeWidth=1.4, strokeDash=[5, 4])
        .encode(x, y, alt.Order("value:Q")),
        base.mark_rule(strokeWidth=1.2, opacity=0.6).encode(x, y_low, alt.Y2("gap_high:Q"), colour),
        base.mark_rule(strokeWidth=1.2, opacity=0.6).encode(x_low, alt.X2("high:Q"), y, colour),
        base.mark_point(filled=True, size=90, opacity=1).encode(x, y, colour, shape, tooltip=tips),
    ).properties(width=210, height=210)
    fields = ["panel", "strategy", "value", "low", "high", "gap", "gap_low", "gap_high", "on_front"]
    fields += ["gap_told", "gap_interval", "loss_told", "loss_interval", "most", "standing", "n", "seeds"]
    return facet(panel, "front", values(rows, fields), margin=20, least=240, own_x=True, own_y=True)


def front_rows(digest: Digest) -> pd.DataFrame:
    """Return the gaps of private strategies with everybody's log-loss, its interval, n and seeds beside."""
    everybody = digest.loss[digest.loss["group"] == EVERYBODY]
    everybody = with_intervals(everybody, ceiling=None)
    everybody = everybody[[*CELL, "value", "low", "high", "n", "seeds"]]
    gaps = digest.gaps[digest.gaps["mechanism"] == "dp-sgd"].dropna(subset="gap")
    return gaps.merge(everybody, "inner", on=CELL).dropna(subset="value")


def _who(group: object, toll: float, digest: Digest) -> str:
    return f"{named(group, digest.attribute)}, {number(toll)}" if isinstance(group, str) else UNDEFINED


def _between(rows: pd.DataFrame, low: str, high: str) -> list[str]:
    return [interval(a, b) for a, b in zip(rows[low], rows[high], strict=True)]
