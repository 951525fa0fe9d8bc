"""Charts of who pays: each group's toll with its interval, and its split into clipping and noise."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fedtoll.formatting import count, group_label, in_seeds, interval, number
from fedtoll.report.charts.style import (
    COLOURS,
    GREY,
    SHAPES,
    WARNING,
    Spec,
    budget_labels,
    chart_rows,
    cycle,
    everybody_last,
    facet,
    panel_labels,
    single,
    tooltips,
    zero_grid,
)
from fedtoll.report.digest import CELL, Digest
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll.intervals import half_width

_TITLE = "log-loss added by privacy (nats)"
_SHORT = 24  # characters of a name on a phone, which leave room for its numbers
_POPULATION = ["population_low", "population_high"]
_FIELDS = ["panel", "label", "text", "group", "toll_text", "toll", "low", "high", *_POPULATION, "interval"]
_FIELDS += ["population", "n", "seeds", "flags", "few", "collapsed"]
_TOOLTIPS = {
    "group": "group",
    "panel": "strategy",
    "toll_text": "added",
    "interval": "95% over seeds",
    "population": "95%, records too",
    "n": "n",
    "seeds": "seeds",
    "flags": "flags",
}


def who_pays(digest: Digest) -> Spec:
    """Return the chart of the leader's toll by group at the tightest ε, the largest first.

    The thick bar is the 95% interval over seeds, the thin line the wider one over seeds and test records. The
    numbers are at the right edge.
    """
    import altair as alt

    rows = _rows(digest)
    rows = rows[rows["strategy"] == digest.leader]
    scale = alt.Scale(domain=list(rows["label"]))
    axis = alt.Axis(labelLimit=230, labelFontSize=13, labelOffset=-7, ticks=False, domain=False)
    y = alt.Y("label:N", scale=scale, title=None, axis=axis)
    base = alt.Chart(alt.NamedData("tolls"))
    numbers = base.mark_text(align="left", dx=12, fontSize=13.5, color="#111")
    # Outside the right edge, so that no interval overlaps its number.
    below = base.mark_text(align="left", dx=12, dy=16, fontSize=12, color=WARNING)
    texts = [
        m.encode(y, alt.Text(f), x=alt.value("width"))
        for m, f in ((numbers, "text:N"), (below, "collapsed:N"))
    ]
    chart = alt.layer(*_marks(base, y, alt.value(COLOURS[0]), 9), *texts).properties(
        width=420, height={"step": 44}
    )
    return single(chart, "tolls", chart_rows(rows, _FIELDS), margin=345, min_width=200, max_width=720)


def who_pays_narrow(digest: Digest) -> Spec:
    """Return the chart of :func:`who_pays` for a phone, with name and numbers above each interval."""
    import altair as alt

    rows = _rows(digest)
    rows = rows[rows["strategy"] == digest.leader]
    name = rows["group"].map(lambda g: g if len(g) <= _SHORT else f"{g[: _SHORT - 1]}…")
    rows = rows.assign(text=name + ", n = " + rows["n"] + ": " + rows["text"])
    y = alt.Y("label:N", scale=alt.Scale(domain=list(rows["label"])), title=None, axis=None)
    base = alt.Chart(alt.NamedData("tolls"))
    numbers = base.mark_text(
        align="left", baseline="bottom", dx=5, dy=-2, fontSize=11.5, color="#111", limit=330
    )
    numbers = numbers.encode(y, alt.Text("text:N"), x=alt.value(0))
    below = base.mark_text(align="left", baseline="top", dx=5, dy=16, fontSize=11.5, color=WARNING)
    below = below.encode(y, alt.Text("collapsed:N"), x=alt.value(0))
    step = 62 if (rows["collapsed"] != "").any() else 46
    chart = alt.layer(*_marks(base, y, alt.value(COLOURS[0]), 8, down=9), numbers, below)
    chart = chart.properties(width=300, height={"step": step})
    return single(chart, "tolls", chart_rows(rows, _FIELDS), margin=12, min_width=200, max_width=720)


def others(digest: Digest) -> Spec | None:
    """Return one panel per other strategy, with the leader's toll as a ring; ``None`` with one strategy."""
    import altair as alt

    rows = _rows(digest)
    leader = rows[rows["strategy"] == digest.leader].set_index("group_name")["toll"]
    rows = rows[rows["strategy"] != digest.leader]
    rows = rows.assign(leader=rows["group_name"].map(leader))
    if rows.empty:
        return None
    labels = everybody_last(rows["label"])
    axis = alt.Axis(labelLimit=170, labelOffset=-6, ticks=False, domain=False, labelPadding=6)
    y = alt.Y("label:N", scale=alt.Scale(domain=labels), title=None, axis=axis)
    names = digest.strategies
    colour = alt.Color(
        "panel:N", legend=None, scale=alt.Scale(domain=names, range=cycle(COLOURS, len(names)))
    )
    shape = alt.Shape(
        "panel:N",
        legend=None,
        scale=alt.Scale(domain=names, range=cycle(SHAPES, len(names), shift=True)),
    )
    base = alt.Chart(alt.NamedData("others"))
    ring = base.mark_point(filled=False, size=80, strokeWidth=1.4, color=GREY, shape="circle")
    ring = ring.encode(y, alt.X("leader:Q"))
    chart = alt.layer(ring, *_marks(base, y, colour, 6, shape=shape)).properties(
        width=200, height={"step": 34}
    )
    fields = [*_FIELDS, "leader"]
    data = chart_rows(rows, fields)
    return facet(chart, "others", data, margin=150, min_width=170, max_width=380, independent_x=True)


def split(digest: Digest) -> Spec | None:
    """Return each group's toll split into clipping and noise; ``None`` without clip-only runs.

    One panel per strategy, at the tightest ε.
    """
    import altair as alt

    loss = digest.tight[digest.tight["clipping"].notna()]
    if loss.empty:
        return None
    parts = []
    for part in ("clipping", "noise"):
        half = half_width(loss[f"{part}_se"], loss["seeds"])
        parts.append(loss.assign(part=part, toll=loss[part], low=loss[part] - half, high=loss[part] + half))
    rows = _with_text(pd.concat(parts), digest)
    labels = [label for g in [*digest.order, EVERYBODY] for label in _labels(rows, g)]
    y = alt.Y(
        "label:N",
        scale=alt.Scale(domain=labels),
        title=None,
        axis=alt.Axis(labelLimit=170, labelOffset=-6, ticks=False, domain=False),
    )
    scale = alt.Scale(domain=["clipping", "noise"], range=[COLOURS[4], COLOURS[0]])
    side_by_side = alt.YOffset("part:N", scale=alt.Scale(domain=["clipping", "noise"]))
    x = alt.X("toll:Q", title=_TITLE, axis=alt.Axis(gridColor=zero_grid(), tickCount=4))
    tips = {
        "group": "group",
        "panel": "strategy",
        "part": "part",
        "toll_text": "added",
        "interval": "95% interval",
    }
    base = alt.Chart(alt.NamedData("split"))
    chart = alt.layer(
        base.mark_bar(size=9).encode(
            y,
            side_by_side,
            x,
            alt.Color("part:N", scale=scale),
            tooltip=tooltips(**tips, n="n", seeds="seeds"),
        ),
        base.mark_rule(strokeWidth=1.2, color="#222").encode(
            y, side_by_side, alt.X("low:Q", title=_TITLE), alt.X2("high:Q")
        ),
    ).properties(width=200, height={"step": 34, "for": "position"})
    fields = [*_FIELDS, "part"]
    data = chart_rows(rows, fields)
    return facet(chart, "split", data, margin=150, min_width=190, max_width=420, independent_x=True)


def _marks(base: Any, y: Any, colour: Any, size: float, down: float = 0, shape: Any = None) -> list[Any]:
    """Return the thin line, bar and point of each row; a group with too few records has a hollow point."""
    import altair as alt

    axis = alt.Axis(gridColor=zero_grid(), tickCount=5)
    hair = alt.X("population_low:Q", title=_TITLE, axis=axis)
    bar = alt.X("low:Q", title=_TITLE, axis=axis)
    keys: dict[str, Any] = {"color": colour}
    point = keys | ({} if shape is None else {"shape": shape})
    hollow = alt.condition("datum.few", alt.value("white"), colour)
    return [
        base.mark_rule(strokeWidth=1.2, yOffset=down).encode(y, hair, alt.X2("population_high:Q"), **keys),
        base.mark_rule(strokeWidth=size / 2, opacity=0.45, yOffset=down).encode(
            y, bar, alt.X2("high:Q"), **keys
        ),
        base.mark_point(size=size * size, opacity=1, strokeWidth=1.6, yOffset=down).encode(
            y,
            alt.X("toll:Q", title=_TITLE),
            stroke=colour,
            fill=hollow,
            tooltip=tooltips(**_TOOLTIPS),
            **{k: v for k, v in point.items() if k != "color"},
        ),
    ]


def _rows(digest: Digest) -> pd.DataFrame:
    """Return the tolls at the tightest ε with all that the charts show, the largest first."""
    joint = digest.joint.rename(columns={"low": "population_low", "high": "population_high"})
    joint = joint[[*CELL, "group", *_POPULATION]]
    rows = digest.tight.merge(joint, "left", on=[*CELL, "group"])
    return _with_text(rows.assign(low=rows["toll_low"], high=rows["toll_high"]), digest)


def _with_text(rows: pd.DataFrame, digest: Digest) -> pd.DataFrame:
    """Add the text fields, and sort by strategy and toll."""
    rank = {g: i for i, g in enumerate([*digest.order, EVERYBODY])}
    strategy = {s: i for i, s in enumerate(digest.strategies)}
    key = rows["strategy"].map(strategy) * len(rank) + rows["group"].map(rank)
    rows = rows.assign(key=key).sort_values("key", kind="stable")
    toll_text = rows["toll"].map(number)
    intervals = [interval(a, b) for a, b in zip(rows["low"], rows["high"], strict=True)]
    interval_text = pd.Series(intervals, index=rows.index)
    bounds = [rows.get(end, pd.Series(float("nan"), index=rows.index)) for end in _POPULATION]
    return rows.assign(
        panel=rows["strategy"],
        label=panel_labels(rows, digest.attribute),
        group_name=rows["group"],
        group=rows["group"].map(lambda g: group_label(g, digest.attribute)),
        toll_text=toll_text,
        interval=interval_text,
        text=toll_text + interval_text.map(lambda text: "" if text == "none" else f"  ({text})"),
        population=[interval(a, b) for a, b in zip(*bounds, strict=True)],
        n=rows["n"].map(count),
        seeds=rows["seeds"],
        few=rows["too_few"].astype(bool),
        flags=[_flags(row) for _, row in rows.iterrows()],
        collapsed=[
            in_seeds("collapsed", *pair) for pair in zip(rows["collapsed"], rows["runs"], strict=True)
        ],
        epsilon_text=budget_labels(rows),
        population_low=bounds[0],
        population_high=bounds[1],
    )


def _flags(row: pd.Series[Any]) -> str:
    flags = ["too few for a claim"] if row["too_few"] else []
    for column, flag in (("collapsed", "collapsed"), ("below_majority", "below majority")):
        flags += [text] if (text := in_seeds(flag, row[column], row["runs"])) else []
    return "; ".join(flags) or "none"


def _labels(rows: pd.DataFrame, group: str) -> list[str]:
    return list(dict.fromkeys(rows.loc[rows["group_name"] == group, "label"]))
