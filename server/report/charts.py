"""The report's charts as Vega-Lite specifications: the same for the page and for the figures.

Every chart is a facet of small panels; ``usermeta`` tells the page's script how many panels there are
and how wide the axis beside them is, so that it can lay them out for the width at hand. Colours are
Okabe and Ito's, which colour-blind readers can tell apart; shape and dash say the same again.

A specification holds no name that a counter or a clock made, so the same results give the same bytes.
Names come from users, so they appear as data and as domains only: Vega-Lite turns a list given as ``sort``
into code, and some characters break out of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedtoll.server.report.words import MOST_CLIENTS, budget, count
from fedtoll.server.toll import EVERYBODY, MEASURES, ResultsLike

if TYPE_CHECKING:
    import altair as alt

Spec = dict[str, Any]

# Okabe and Ito (2008), without the yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
DASHES = ([1, 0], [8, 3], [2, 2], [8, 2, 2, 2], [5, 5], [1, 4], [12, 4])
PANEL = 150
MOST_POINTS = 1500
"""Lines over rounds are thinned to about this many points, which keeps the page small."""

_CONFIG: Spec = {
    "font": "Helvetica, Arial, sans-serif",
    "lineBreak": "\n",
    "axis": {
        "labelColor": "#222",
        "titleColor": "#222",
        "titleFontWeight": "normal",
        "gridColor": "#e3e3e3",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "domainColor": "#888",
        "tickColor": "#888",
    },
    "header": {"labelFontSize": 12, "labelColor": "#111", "titleColor": "#111", "labelLineHeight": 14},
    "legend": {"orient": "top", "title": None, "labelFontSize": 12, "labelColor": "#111", "labelLimit": 260},
    "title": {"anchor": "start", "fontSize": 13, "color": "#111", "offset": 8},
    "view": {"stroke": "#ccc"},
}


def who_pays(tolls: pd.DataFrame, measure: str) -> Spec:
    """Return the chart of a measure against ε: one panel a group, one line a strategy.

    Privacy tightens to the right and worse is down, so that a line which falls is a group which pays. The
    bars are one standard deviation over seeds to either side of the seeds' mean.

    Parameters
    ----------
    tolls
        What :func:`fedtoll.server.toll.toll` returned for ``measure``.
    measure
        A name of :data:`fedtoll.server.toll.MEASURES`.
    """
    import altair as alt

    m = MEASURES[measure]
    title = m.title[0].upper() + m.title[1:] + (f" in {m.unit}" if m.unit else "")
    title += "" if m.higher_is_better else " (axis turned: worse is down)"
    rows = _values(
        tolls.assign(
            panel=_panels(tolls, positives=measure == "tpr"),
            budget=_budgets(tolls),
            low=(tolls["value"] - tolls["value_sd"]).clip(lower=0),
            high=(tolls["value"] + tolls["value_sd"]).clip(upper=None if m.unit else 1),
        ),
        ["panel", "strategy", "budget", "value", "low", "high"],
    )
    strategies = list(tolls["strategy"].unique())
    budgets = alt.Scale(domain=list(dict.fromkeys(_budgets(tolls))))
    x = alt.X("budget:O", scale=budgets, title="ε", axis=alt.Axis(labelAngle=0))
    beside = alt.XOffset("strategy:N", scale=alt.Scale(domain=strategies))
    scale = alt.Scale(reverse=not m.higher_is_better, zero=False, nice=True)
    colour, shape, dash = _keys("strategy:N", strategies)
    base = alt.Chart(alt.NamedData(measure))
    y = alt.Y("value:Q", title=None, scale=scale)
    tooltip = [alt.Tooltip(f, title=t) for f, t in (("strategy:N", "strategy"), ("budget:O", "ε"))]
    tooltip += [alt.Tooltip("value:Q", title=m.title, format=".3f")]
    panel = alt.layer(
        base.mark_rule(strokeWidth=1.2, opacity=0.7).encode(
            x, alt.Y("low:Q", title=None, scale=scale), alt.Y2("high:Q"), colour, beside
        ),
        base.mark_line(strokeWidth=1.6).encode(x, y, colour, dash, beside),
        base.mark_point(filled=True, size=42, opacity=1).encode(x, y, colour, shape, beside, tooltip=tooltip),
    ).properties(width=PANEL, height=170)
    return _facet(panel, measure, rows, title=title, margin=50)


def toll_intervals(tolls: pd.DataFrame) -> Spec:
    """Return the chart of the tolls with their 95% intervals: one panel an ε, one row a group.

    Parameters
    ----------
    tolls
        What :func:`fedtoll.server.toll.toll` returned; rows at ε = ∞ without clipping are left out.
    """
    import altair as alt

    rows = tolls[(tolls["mechanism"] != "none") & tolls["toll"].notna()]
    rows = rows.assign(group=_panels(rows), panel="ε = " + _budgets(rows))
    strategies = list(tolls["strategy"].unique())
    colour, shape, _ = _keys("strategy:N", strategies)
    base = alt.Chart(alt.NamedData("tolls"))
    groups = alt.Scale(domain=list(dict.fromkeys(rows["group"])))
    bands = alt.Axis(labelLimit=170, grid=True, tickBand="extent")
    y = alt.Y("group:N", scale=groups, title=None, axis=bands)
    beside = alt.YOffset("strategy:N", scale=alt.Scale(domain=strategies))
    tooltip = [alt.Tooltip("strategy:N", title="strategy")]
    tooltip += [
        alt.Tooltip(f"{f}:Q", title=t, format=".3f")
        for f, t in (("toll", "toll"), ("toll_low", "from"), ("toll_high", "to"))
    ]
    # The grid line at 0 is the one to compare with.
    zero = alt.condition("datum.value == 0", alt.value("#555"), alt.value("#e3e3e3"))
    x = alt.X("toll_low:Q", title="toll (log-loss, nats)", axis=alt.Axis(gridColor=zero, tickCount=4))
    panel = alt.layer(
        base.mark_rule(strokeWidth=1.6).encode(x, alt.X2("toll_high:Q"), y, beside, colour),
        base.mark_point(filled=True, size=46, opacity=1).encode(
            alt.X("toll:Q"), y, beside, colour, shape, tooltip=tooltip
        ),
    ).properties(width=PANEL, height={"step": max(38, 10 * len(strategies)), "for": "position"})
    values = _values(rows, ["panel", "strategy", "group", "toll", "toll_low", "toll_high"])
    return _facet(panel, "tolls", values, margin=150, least=190, own_x=True)


def weights(results: ResultsLike) -> Spec | None:
    """Return the chart of each group's share of the weight by round, tightest ε; ``None`` if unknown."""
    import altair as alt

    groups = results.groups
    rows = groups[(groups["group"] != EVERYBODY) & groups["weight"].notna()]
    if rows.empty:
        return None
    rows = rows[rows["epsilon"] == rows["epsilon"].min()]
    keys = ["strategy", "group", "round"]
    rows = _thin(rows.groupby(keys, sort=False)["weight"].mean().reset_index(), ["strategy", "group"])
    names = list(rows["group"].unique())
    colour, _, _ = _keys("group:N", names)
    # Groups with the same share lie on each other: dashes let the one beneath be seen.
    dash = alt.StrokeDash("group:N", scale=alt.Scale(domain=names, range=_cycle(DASHES, len(names))))
    share = alt.Axis(format="%", values=[0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1])
    y = alt.Y("weight:Q", title="share of the weight", scale=alt.Scale(type="sqrt", zero=True), axis=share)
    tooltip = ["group:N", "round:Q", alt.Tooltip("weight:Q", format=".1%")]
    panel = (
        alt.Chart(alt.NamedData("weights"))
        .mark_line(strokeWidth=1.6)
        .encode(_round_axis(), y, colour, dash, tooltip=tooltip)
        .properties(width=PANEL, height=170)
    )
    values = _values(rows, [*keys, "weight"])
    return _facet(panel, "weights", values, margin=60, by="strategy:N", least=200)


def partition(results: ResultsLike) -> Spec | None:
    """Return the chart of what every client is planned to hold, by group; ``None`` if unknown or too long."""
    import altair as alt

    planned = results.resolved.get("partition", {})
    counts = planned.get("expected", [])
    if not counts or len(counts) > MOST_CLIENTS:
        return None
    rows = [
        {"panel": "records", "client": str(k), "group": group, "records": n, "rank": 0, "order": k}
        for k, of in enumerate(counts)
        for group, n in zip(planned["groups"], of, strict=True)
        if n
    ]
    names = list(planned["groups"])
    colour = alt.Color("group:N", scale=alt.Scale(domain=names, range=_cycle(COLOURS, len(names))))
    clients = alt.Scale(domain=[str(k) for k in range(len(counts))])
    panel = (
        alt.Chart(alt.NamedData("partition"))
        .mark_bar()
        .encode(
            alt.X("client:N", scale=clients, title="client", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            alt.Y("records:Q", title="records", stack=True),
            colour,
            tooltip=["client:N", "group:N", "records:Q"],
        )
        .properties(width=PANEL, height=200)
    )
    return _facet(panel, "partition", rows, margin=60, least=420)


def effective_noise(results: ResultsLike) -> Spec | None:
    """Return the chart of the effective noise Σ a_k² v_k by round: one panel an ε; ``None`` if unknown."""
    import altair as alt

    noise = results.rounds["effective_noise"]
    rows = results.rounds[(results.rounds["mechanism"] == "dp-sgd") & (noise > 0) & (noise < math.inf)]
    if rows.empty:
        return None
    rows = rows.assign(panel="ε = " + _budgets(rows)).sort_values("epsilon", ascending=False, kind="stable")
    keys = ["panel", "strategy", "round"]
    mean = _thin(
        rows.groupby(keys, sort=False)["effective_noise"].mean().reset_index(), ["panel", "strategy"]
    )
    colour, _, dash = _keys("strategy:N", list(results.rounds["strategy"].unique()))
    low, high = (math.log10(mean["effective_noise"].agg(end)) for end in ("min", "max"))
    powers = [10.0**k for k in range(math.floor(low), math.ceil(high) + 1)]
    axis = alt.Axis(format=".0e", values=powers)
    y = alt.Y("effective_noise:Q", title="effective noise", scale=alt.Scale(type="log"), axis=axis)
    tooltip = ["strategy:N", "round:Q", alt.Tooltip("effective_noise:Q", format=".2e")]
    panel = (
        alt.Chart(alt.NamedData("noise"))
        .mark_line(strokeWidth=1.6)
        .encode(_round_axis(), y, colour, dash, tooltip=tooltip)
        .properties(width=PANEL, height=170)
    )
    return _facet(panel, "noise", _values(mean, [*keys, "effective_noise"]), margin=70, least=200)


def stacked(specs: list[Spec]) -> Spec:
    """Return one specification that stacks several charts, for a figure on paper."""
    top = {"$schema": specs[0]["$schema"], "config": _CONFIG}
    shared = {"$schema", "config", "usermeta", "datasets"}
    inner = [{k: v for k, v in s.items() if k not in shared} for s in specs]
    datasets = {name: rows for s in specs for name, rows in s["datasets"].items()}
    return top | {"vconcat": inner, "datasets": datasets, "spacing": 30}


def _facet(
    panel: Any,
    name: str,
    rows: list[dict[str, Any]],
    *,
    margin: int,
    title: str | None = None,
    by: str = "panel:N",
    least: int = PANEL,
    own_x: bool = False,
) -> Spec:
    """Facet a panel over the rows that its data are named after, and note how the page may lay it out."""
    import altair as alt

    panels = len({row["rank"] for row in rows})
    chart = panel.facet(
        facet=alt.Facet(
            by,
            sort=alt.EncodingSortField("rank", op="min"),
            header=alt.Header(title=None, labelLimit=least + 40),
        ),
        columns=min(panels, 6),
        spacing=18,
    ).resolve_axis(x="independent")
    if own_x:
        chart = chart.resolve_scale(x="independent")
    if title:
        chart = chart.properties(title=title)
    spec: Spec = chart.to_dict()
    layout = {"panels": panels, "margin": margin, "least": least}
    return spec | {"config": _CONFIG, "usermeta": layout, "datasets": {name: rows}}


def _keys(field: str, order: list[str]) -> tuple[alt.Color, alt.Shape, alt.StrokeDash]:
    """Return colour, shape and dash of a field, one legend for the three."""
    import altair as alt

    n, m = len(order), len(COLOURS)
    # The second time round the colours, each has another shape than the first time.
    shapes = [SHAPES[(i + i // m) % m] for i in range(n)]
    return (
        alt.Color(field, scale=alt.Scale(domain=order, range=_cycle(COLOURS, n))),
        alt.Shape(field, scale=alt.Scale(domain=order, range=shapes)),
        alt.StrokeDash(field, scale=alt.Scale(domain=order, range=_cycle(DASHES, n, len(COLOURS)))),
    )


def _cycle(values: tuple[Any, ...], n: int, slow: int = 1) -> list[Any]:
    """Return ``n`` values in turn, each ``slow`` times."""
    return [values[i // slow % len(values)] for i in range(n)]


def _round_axis() -> alt.X:
    import altair as alt

    return alt.X("round:Q", title="round", axis=alt.Axis(tickMinStep=1, tickCount=4, grid=False))


def _panels(rows: pd.DataFrame, positives: bool = False) -> pd.Series[str]:
    """Name each row's group with its test records (or positives) beneath, and whether they are too few."""
    names = rows["group"].where(rows["group"] != EVERYBODY, "everybody")
    few = rows["too_few"].map({True: ", too few", False: ""})
    n = "positives = " + rows["positives"].map(count) if positives else "n = " + rows["n"].map(count)
    return names + "\n" + n + few


def _budgets(rows: pd.DataFrame) -> pd.Series[str]:
    words = [budget(m, e) for m, e in zip(rows["mechanism"], rows["epsilon"], strict=True)]
    return pd.Series(words, index=rows.index, dtype=object)


def _thin(rows: pd.DataFrame, series: list[str]) -> pd.DataFrame:
    """Keep every k-th round and the last, so that all series together have about :data:`MOST_POINTS`."""
    lines = len(rows[series].drop_duplicates())
    rounds = sorted(rows["round"].unique())
    step = -(-len(rounds) * lines // MOST_POINTS) or 1
    return rows[rows["round"].isin({*rounds[::step], rounds[-1]})]


def _values(rows: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """Return rows as plain values: five significant digits, null for undefined; ``rank`` orders the panels.

    The first of ``columns`` names the panel.
    """
    panels = {panel: i for i, panel in enumerate(rows[columns[0]].unique())}
    records = rows[columns].assign(rank=rows[columns[0]].map(panels)).to_dict("records")
    return [{str(k): _plain(v) for k, v in r.items()} for r in records]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if pd.isna(value) else float(f"{value:.5g}")
    return value
