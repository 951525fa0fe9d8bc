"""Who pays: the toll of each group with its interval, and its split into clipping and noise."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fedtoll.formatting import count, interval, named, number
from fedtoll.report.charts.style import (
    COLOURS,
    GREY,
    SHAPES,
    Spec,
    budgets,
    cycle,
    everybody_last,
    facet,
    panels,
    single,
    tooltips,
    values,
    zero_grid,
)
from fedtoll.report.digest import CELL, Digest
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll.intervals import half_width

_TITLE = "toll: log-loss lost to privacy (nats)"
_SHORT = 24  # characters of a name on a phone, so that its number is not cut off
_FIELDS = ["panel", "label", "line", "group", "told", "toll", "low", "high", "from", "to", "interval"]
_FIELDS += ["population", "n", "seeds", "flags", "few"]
_TOOLTIPS = {
    "group": "group",
    "panel": "strategy",
    "told": "toll",
    "interval": "95% over seeds",
    "population": "95%, records too",
    "n": "n",
    "seeds": "seeds",
    "flags": "flags",
}


def who_pays(digest: Digest) -> Spec:
    """Return the chart of the leader's toll by group at the tightest ε, who pays most first.

    The bar is the 95% interval over seeds, the hair the wider one over seeds and test records; the
    numbers stand beside them.
    """
    import altair as alt

    rows = _rows(digest)
    rows = rows[rows["strategy"] == digest.leader]
    scale = alt.Scale(domain=list(rows["label"]))
    axis = alt.Axis(labelLimit=230, labelFontSize=13, labelOffset=-7, ticks=False, domain=False)
    y = alt.Y("label:N", scale=scale, title=None, axis=axis)
    base = alt.Chart(alt.NamedData("tolls"))
    told = base.mark_text(align="left", dx=12, fontSize=13.5, color="#111")
    # At the right edge, outside: a longer interval never runs into its number.
    told = told.encode(y, alt.Text("line:N"), x=alt.value("width"))
    chart = alt.layer(*_marks(base, y, alt.value(COLOURS[0]), 9), told).properties(
        width=420, height={"step": 44}
    )
    return single(chart, "tolls", values(rows, _FIELDS), margin=345, least=200, most=720)


def who_pays_narrow(digest: Digest) -> Spec:
    """Return the same chart for a phone: each group's name and number stand above its interval."""
    import altair as alt

    rows = _rows(digest)
    rows = rows[rows["strategy"] == digest.leader]
    name = rows["group"].map(lambda g: g if len(g) <= _SHORT else f"{g[: _SHORT - 1]}…")
    rows = rows.assign(line=name + ", n = " + rows["n"] + ": " + rows["line"])
    y = alt.Y("label:N", scale=alt.Scale(domain=list(rows["label"])), title=None, axis=None)
    base = alt.Chart(alt.NamedData("tolls"))
    told = base.mark_text(
        align="left", baseline="bottom", dx=5, dy=-2, fontSize=11.5, color="#111", limit=330
    )
    told = told.encode(y, alt.Text("line:N"), x=alt.value(0))
    chart = alt.layer(*_marks(base, y, alt.value(COLOURS[0]), 8, down=9), told)
    chart = chart.properties(width=300, height={"step": 46})
    return single(chart, "tolls", values(rows, _FIELDS), margin=12, least=200, most=720)


def others(digest: Digest) -> Spec | None:
    """Return a panel for each other strategy, the leader's toll as a ring; ``None`` with one strategy."""
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
    return facet(chart, "others", values(rows, fields), margin=150, least=170, most=380, own_x=True)


def split(digest: Digest) -> Spec | None:
    """Return each group's toll as what clipping and what noise take; ``None`` without clip-only runs.

    One panel a strategy, at the tightest ε.
    """
    import altair as alt

    loss = digest.tight[digest.tight["clipping"].notna()]
    if loss.empty:
        return None
    parts = []
    for part in ("clipping", "noise"):
        spread = half_width(loss[f"{part}_se"], loss["seeds"])
        own = loss.assign(part=part, toll=loss[part], low=loss[part] - spread, high=loss[part] + spread)
        parts.append(own)
    rows = _told(pd.concat(parts), digest)
    labels = [label for g in [*digest.order, EVERYBODY] for label in _label_of(rows, g)]
    y = alt.Y(
        "label:N",
        scale=alt.Scale(domain=labels),
        title=None,
        axis=alt.Axis(labelLimit=170, labelOffset=-6, ticks=False, domain=False),
    )
    scale = alt.Scale(domain=["clipping", "noise"], range=[COLOURS[4], COLOURS[0]])
    beside = alt.YOffset("part:N", scale=alt.Scale(domain=["clipping", "noise"]))
    x = alt.X("toll:Q", title=_TITLE, axis=alt.Axis(gridColor=zero_grid(), tickCount=4))
    tips = {"group": "group", "panel": "strategy", "part": "part", "told": "toll", "interval": "95% interval"}
    base = alt.Chart(alt.NamedData("split"))
    chart = alt.layer(
        base.mark_bar(size=9).encode(
            y,
            beside,
            x,
            alt.Color("part:N", scale=scale),
            tooltip=tooltips(**tips, n="n", seeds="seeds"),
        ),
        base.mark_rule(strokeWidth=1.2, color="#222").encode(
            y, beside, alt.X("low:Q", title=_TITLE), alt.X2("high:Q")
        ),
    ).properties(width=200, height={"step": 34, "for": "position"})
    fields = [*_FIELDS, "part"]
    return facet(chart, "split", values(rows, fields), margin=150, least=190, most=420, own_x=True)


def _marks(base: Any, y: Any, colour: Any, size: float, down: float = 0, shape: Any = None) -> list[Any]:
    """Return hair, bar and point of each row; what is too few for a claim is hollow."""
    import altair as alt

    axis = alt.Axis(gridColor=zero_grid(), tickCount=5)
    hair = alt.X("from:Q", title=_TITLE, axis=axis)
    bar = alt.X("low:Q", title=_TITLE, axis=axis)
    keys: dict[str, Any] = {"color": colour}
    point = keys | ({} if shape is None else {"shape": shape})
    hollow = alt.condition("datum.few", alt.value("white"), colour)
    return [
        base.mark_rule(strokeWidth=1.2, yOffset=down).encode(y, hair, alt.X2("to:Q"), **keys),
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
    """Return the tolls at the tightest ε with all that the charts show of them, most first."""
    joint = digest.joint.rename(columns={"low": "from", "high": "to"})
    rows = digest.tight.merge(joint[[*CELL, "group", "from", "to"]], "left", on=[*CELL, "group"])
    return _told(rows.assign(low=rows["toll_low"], high=rows["toll_high"]), digest)


def _told(rows: pd.DataFrame, digest: Digest) -> pd.DataFrame:
    """Add the texts, and sort by strategy and by who pays."""
    rank = {g: i for i, g in enumerate([*digest.order, EVERYBODY])}
    strategy = {s: i for i, s in enumerate(digest.strategies)}
    key = rows["strategy"].map(strategy) * len(rank) + rows["group"].map(rank)
    rows = rows.assign(key=key).sort_values("key", kind="stable")
    told = rows["toll"].map(number)
    within = [interval(a, b) for a, b in zip(rows["low"], rows["high"], strict=True)]
    known = pd.Series(within, index=rows.index)
    bounds = [rows.get(end, pd.Series(float("nan"), index=rows.index)) for end in ("from", "to")]
    return rows.assign(
        panel=rows["strategy"],
        label=panels(rows, digest.attribute),
        group_name=rows["group"],
        group=rows["group"].map(lambda g: named(g, digest.attribute)),
        told=told,
        interval=known,
        line=told + known.map(lambda text: "" if text == "none" else f"  ({text})"),
        population=[interval(a, b) for a, b in zip(*bounds, strict=True)],
        n=rows["n"].map(count),
        seeds=rows["seeds"],
        few=rows["too_few"].astype(bool),
        flags=[_flags(row) for _, row in rows.iterrows()],
        epsilon_text=budgets(rows),
        **{"from": bounds[0], "to": bounds[1]},
    )


def _flags(row: pd.Series[Any]) -> str:
    runs = int(row["runs"])
    words = ["too few for a claim"] if row["too_few"] else []
    for column, word in (("collapsed", "collapsed"), ("below_majority", "below majority")):
        seeds = round(float(row[column]) * runs)
        words += [f"{word} in {seeds} of {runs} seeds"] if seeds else []
    return "; ".join(words) or "none"


def _label_of(rows: pd.DataFrame, group: str) -> list[str]:
    return list(dict.fromkeys(rows.loc[rows["group_name"] == group, "label"]))
