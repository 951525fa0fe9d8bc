"""Charts of utility against ε: one panel per group, one line and band per strategy."""

from __future__ import annotations

import pandas as pd

from fedtoll.formatting import count, group_label, interval
from fedtoll.report.charts.style import (
    PANEL,
    Spec,
    budget_labels,
    chart_rows,
    facet,
    panel_labels,
    series_encodings,
    tooltips,
)
from fedtoll.report.digest import Digest
from fedtoll.scenarios.measures import MEASURES
from fedtoll.toll.intervals import half_width


def utility(digest: Digest, measure: str) -> Spec:
    """Return the chart of a measure against ε: one panel per group, one line per strategy.

    Privacy tightens to the right and worse is down, so that a falling line is a group that pays. The band is
    the 95% t interval of the mean over seeds, clipped to the range of a rate.

    Parameters
    ----------
    digest
        The digest of the results.
    measure
        A name of :data:`fedtoll.scenarios.measures.MEASURES`.
    """
    import altair as alt

    m = MEASURES[measure]
    tolls = digest.tolls[measure]
    title = m.title[0].upper() + m.title[1:] + (f" in {m.unit}" if m.unit else "")
    title += "" if m.higher_is_better else " (axis reversed: worse is down)"
    rows = with_intervals(tolls, ceiling=None if m.unit else 1)
    rows = rows.assign(
        panel=panel_labels(tolls, digest.attribute, m.of),
        budget=budget_labels(tolls),
        group=rows["group"].map(lambda g: group_label(g, digest.attribute)),
        interval=[interval(a, b) for a, b in zip(rows["low"], rows["high"], strict=True)],
        n=rows["n"].map(count),
        seeds=rows["runs"] - rows["undefined"],
    )
    domain = list(dict.fromkeys(rows["budget"]))
    x = alt.X("budget:O", scale=alt.Scale(domain=domain), title="ε", axis=alt.Axis(labelAngle=0))
    scale = alt.Scale(reverse=not m.higher_is_better, zero=False, nice=True)
    colour, shape, dash = series_encodings("strategy:N", digest.strategies)
    base = alt.Chart(alt.NamedData(measure))
    y = alt.Y("value:Q", title=None, scale=scale)
    tips = tooltips(group="group", strategy="strategy", budget="ε")
    tips.append(alt.Tooltip("value:Q", title=m.title, format=".3f"))
    tips += tooltips(interval="95% interval", n="n", seeds="seeds")
    panel = alt.layer(
        base.mark_area(opacity=0.18).encode(
            x, alt.Y("low:Q", title=None, scale=scale), alt.Y2("high:Q"), colour
        ),
        base.mark_line(strokeWidth=1.7).encode(x, y, colour, dash),
        base.mark_point(filled=True, size=46, opacity=1).encode(x, y, colour, shape, tooltip=tips),
    ).properties(width=PANEL, height=170)
    fields = ["panel", "group", "strategy", "budget", "value", "low", "high", "interval", "n", "seeds"]
    return facet(panel, measure, chart_rows(rows, fields), title=title, margin=50, min_width=125)


def with_intervals(tolls: pd.DataFrame, ceiling: float | None) -> pd.DataFrame:
    """Add ``low`` and ``high``, the 95% t interval of the measure's mean over seeds; NaN with one seed.

    A seed whose measure is undefined on either side of its pair is not counted, which makes the interval
    too wide rather than too narrow.

    Parameters
    ----------
    tolls
        From :func:`fedtoll.toll.toll`.
    ceiling
        The largest value of the measure, 1 for a rate; the smallest is 0.
    """
    seeds = tolls["runs"] - tolls["undefined"]
    half = half_width(tolls["value_sd"] / seeds.clip(lower=1) ** 0.5, seeds)
    low, high = (tolls["value"] - half).clip(lower=0), (tolls["value"] + half).clip(upper=ceiling)
    return tolls.assign(low=low, high=high)
