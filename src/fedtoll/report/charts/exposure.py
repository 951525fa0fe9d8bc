"""Chart of who is exposed: the attacker's advantage by group, with its interval and the ceiling by ε."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from fedtoll.audit.subject import value
from fedtoll.formatting import budget, count, interval, number
from fedtoll.report.charts.style import COLOURS, WARNING, Spec, chart_rows, facet, tooltips, zero_grid
from fedtoll.scenarios.measures import EVERYBODY

_FIELDS = ["panel", "label", "advantage", "low", "high", "ceiling", "text", "interval", "members", "most"]


def exposure_rows(content: dict[str, Any], label: Callable[[str], str]) -> pd.DataFrame:
    """Return the advantage of LiRA by group: the first strategy, at the tightest ε and without privacy.

    Parameters
    ----------
    content
        The content of ``audit.json``.
    label
        Returns the name of a group for readers.
    """
    rows = [r for r in content["membership"] if r["attack"] == "lira"]
    rows = [r for r in rows if r["strategy"] == rows[0]["strategy"]]
    tightest = min((value(r["epsilon"]) for r in rows if r["mechanism"] == "dp-sgd"), default=None)
    shown = [r for r in rows if r["mechanism"] == "none" or value(r["epsilon"]) == tightest]
    frame = pd.DataFrame(
        {
            "panel": f"ε = {budget(r['mechanism'], value(r['epsilon']))}",
            "label": label(r["group"] or EVERYBODY),
            "everybody": not r["group"],
            "advantage": value(r["advantage"]),
            "low": value(r["low"]),
            "high": value(r["high"]),
            "ceiling": value(r["ceiling"]) if r["mechanism"] == "dp-sgd" else float("nan"),
            "text": number(value(r["advantage"])),
            "interval": interval(value(r["low"]), value(r["high"])),
            "members": count(value(r["members"])),
            "most": number(value(r["ceiling"])),
        }
        for r in shown
    )
    if frame.empty:
        return frame
    first = frame[frame["panel"] == frame["panel"].iloc[0]]
    first = first.sort_values(["everybody", "advantage"], ascending=[True, False], kind="stable")
    order = {group: i for i, group in enumerate(first["label"])}
    return frame.assign(rank=frame["label"].map(order)).sort_values("rank", kind="stable")


def exposure(content: dict[str, Any], label: Callable[[str], str]) -> Spec | None:
    """Return the chart of :func:`exposure_rows`, one panel per ε; ``None`` without an attack."""
    import altair as alt

    rows = exposure_rows(content, label)
    if rows.empty:
        return None
    labels = list(dict.fromkeys(rows["label"]))
    axis = alt.Axis(labelLimit=170, ticks=False, domain=False, labelPadding=6)
    y = alt.Y("label:N", scale=alt.Scale(domain=labels), title=None, axis=axis)
    title = "attacker’s advantage, TPR − FPR"
    scale = alt.Scale(nice=5)  # so that no bar ends at the edge of its panel
    x = alt.X("advantage:Q", title=title, scale=scale, axis=alt.Axis(gridColor=zero_grid(), tickCount=5))
    base = alt.Chart(alt.NamedData("exposure"))
    tips = tooltips(
        label="group", text="advantage", interval="95% interval", members="members", most="ceiling"
    )
    bar = base.mark_rule(strokeWidth=4, opacity=0.45, color=COLOURS[0])
    chart = alt.layer(
        base.mark_tick(color=WARNING, thickness=2, size=18).encode(y, alt.X("ceiling:Q", title=title)),
        bar.encode(y, alt.X("low:Q", title=title), alt.X2("high:Q")),
        base.mark_point(filled=True, size=80, opacity=1, color=COLOURS[0]).encode(y, x, tooltip=tips),
    ).properties(width=260, height={"step": 30})
    data = chart_rows(rows, _FIELDS)
    return facet(chart, "exposure", data, margin=150, min_width=190, max_width=420, independent_x=True)
