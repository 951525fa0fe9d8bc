"""Sensitivity to the constants: everybody's loss and the gap along one of them, one panel per strategy."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fedtoll.formatting import number
from fedtoll.report.charts.style import COLOURS, Spec, budget_labels, chart_rows, cycle, facet, tooltips
from fedtoll.report.constants import constant_words
from fedtoll.report.digest import Digest
from fedtoll.report.sensitivity import axis, candidates

CEILING = 2.0
"""Charts leave out losses above this multiple of the largest chosen one: they would flatten all others."""


def loss(digest: Digest) -> Spec | None:
    """Return everybody's log-loss on the public records; ``None`` if nothing was tuned along a number."""
    return _chart(digest, "sensitivity", "log_loss", "everybody’s log-loss (nats)")


def gap(digest: Digest) -> Spec | None:
    """Return the gap of the groups' added losses on the public records; ``None`` as for :func:`loss`."""
    return _chart(digest, "sensitivity_gap", "gap", f"{digest.word} gap (nats)")


def _chart(digest: Digest, name: str, value: str, title: str) -> Spec | None:
    import altair as alt

    frame = candidates(digest) if digest.tuned else pd.DataFrame()
    constant = axis(frame) if len(frame) else ""
    if not constant:
        return None
    rows = _best_along(frame, f"constant.{constant}")
    highest = CEILING * frame.loc[frame["chosen"], "log_loss"].max()
    rows = rows[rows[value].notna() & ~(rows["log_loss"] > highest)]
    if value == "gap":
        rows = rows[rows["mechanism"] != "none"]
    if rows.empty:
        return None
    rows = rows.assign(
        panel=rows["strategy"],
        at=rows[f"constant.{constant}"].astype(float),
        shown=rows[value],
        budget=budget_labels(rows),
        loss_text=rows["log_loss"].map(number),
        gap_text=rows["gap"].map(number),
    )
    order = list(budget_labels(candidates(digest)).unique())
    colour = alt.Color("budget:N", title="ε", scale=alt.Scale(domain=order, range=cycle(COLOURS, len(order))))
    x = alt.X(
        "at:Q",
        title=constant_words(constant),
        scale=alt.Scale(type="log" if rows["at"].min() > 0 else "linear", nice=False, padding=10),
        axis=alt.Axis(tickCount=5),
    )
    y = alt.Y("shown:Q", title=title, scale=alt.Scale(zero=False, nice=True))
    tips = tooltips(panel="strategy", budget="ε", constants="constants", loss_text="log-loss", gap_text="gap")
    base: Any = alt.Chart(alt.NamedData(name))
    fill = alt.condition("datum.chosen", colour, alt.value("white"))
    panel = alt.layer(
        base.mark_line(strokeWidth=1.6).encode(x, y, colour),
        base.mark_point(size=55, opacity=1, strokeWidth=1.5).encode(
            x, y, stroke=colour, fill=fill, tooltip=tips
        ),
    ).properties(width=210, height=170)
    fields = ["panel", "at", "shown", "budget", "constants", "loss_text", "gap_text", "chosen"]
    return facet(panel, name, chart_rows(rows, fields), margin=50, min_width=190)


def _best_along(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the best candidate at each value of a constant, by strategy and ε; a chosen one stays."""
    order = frame.sort_values(["chosen", "log_loss"], ascending=[False, True], kind="stable")
    best = order.drop_duplicates(["strategy", "mechanism", "epsilon", column])
    return best.sort_index()
