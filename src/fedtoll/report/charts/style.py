"""What all charts share: colours, shapes, panels, and how rows become data.

``usermeta`` tells the page's script how many panels a chart has and how much room its axes take, so that
it can lay them out for the width at hand. Colours are Okabe and Ito's, which colour-blind readers can
tell apart; shape and dash say the same again.

A specification holds no name that a counter or a clock made, so the same results give the same bytes.
Names come from users, so they appear as data and as domains only: Vega-Lite turns a list given as
``sort`` into code, and some characters break out of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedtoll.formatting import budget, count, named
from fedtoll.scenarios.measures import EVERYBODY

if TYPE_CHECKING:
    import altair as alt

Spec = dict[str, Any]

# Okabe and Ito (2008), without the yellow, which white paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
DASHES = ([1, 0], [8, 3], [2, 2], [8, 2, 2, 2], [5, 5], [1, 4], [12, 4])
GREY = "#767676"
PANEL = 150
MOST_POINTS = 900
"""Lines over rounds are thinned to about this many points, which keeps the page small."""

CONFIG: Spec = {
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
    "legend": {
        "orient": "top",
        "title": None,
        "labelFontSize": 12,
        "labelColor": "#111",
        "labelLimit": 260,
        "symbolOpacity": 1,
        "symbolSize": 90,
    },
    "title": {"anchor": "start", "fontSize": 13, "color": "#111", "offset": 8},
    "view": {"stroke": "#ccc"},
}


def single(
    chart: Any, name: str, rows: list[dict[str, Any]], *, margin: int, least: int = 90, most: int = 340
) -> Spec:
    """Finish a chart of one panel that is ``least`` to ``most`` points wide, beside ``margin``."""
    spec: Spec = chart.to_dict()
    layout = {"panels": 1, "margin": margin, "least": least, "most": most}
    return spec | {"config": CONFIG, "usermeta": layout, "datasets": {name: rows}}


def facet(
    panel: Any,
    name: str,
    rows: list[dict[str, Any]],
    *,
    margin: int,
    title: str | None = None,
    by: str = "panel:N",
    least: int = PANEL,
    most: int = 340,
    own_x: bool = False,
    own_y: bool = False,
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
    own = {axis: "independent" for axis, wanted in (("x", own_x), ("y", own_y)) if wanted}
    if own:
        chart = chart.resolve_scale(**own)
    if title:
        chart = chart.properties(title=title)
    spec: Spec = chart.to_dict()
    beside = 60 if own_y else 22  # what stands between two panels
    layout = {"panels": panels, "margin": margin, "least": least, "most": most, "beside": beside}
    return spec | {"config": CONFIG, "usermeta": layout, "datasets": {name: rows}}


def stacked(specs: list[Spec]) -> Spec:
    """Return one specification that stacks several charts, for a figure on paper."""
    top = {"$schema": specs[0]["$schema"], "config": CONFIG}
    shared = {"$schema", "config", "usermeta", "datasets"}
    inner = [{k: v for k, v in s.items() if k not in shared} for s in specs]
    datasets = {name: rows for s in specs for name, rows in s["datasets"].items()}
    return top | {"vconcat": inner, "datasets": datasets, "spacing": 30}


def keys(field: str, order: list[str]) -> tuple[alt.Color, alt.Shape, alt.StrokeDash]:
    """Return colour, shape and dash of a field, one legend for the three.

    The second time round the colours, each has another shape and another dash than the first time.
    """
    import altair as alt

    n = len(order)
    return (
        alt.Color(field, scale=alt.Scale(domain=order, range=cycle(COLOURS, n))),
        alt.Shape(field, scale=alt.Scale(domain=order, range=cycle(SHAPES, n, shift=True))),
        alt.StrokeDash(field, scale=alt.Scale(domain=order, range=cycle(DASHES, n, shift=True))),
    )


def cycle(values: tuple[Any, ...], n: int, shift: bool = False) -> list[Any]:
    """Return ``n`` values in turn; with ``shift`` each time round begins one further."""
    m = len(values)
    return [values[(i + i // m * shift) % m] for i in range(n)]


def tooltips(**fields: str) -> list[alt.Tooltip]:
    """Return tooltips of texts that the data hold: ``field="title"``."""
    import altair as alt

    return [alt.Tooltip(f"{field}:N", title=title) for field, title in fields.items()]


def zero_grid() -> Any:
    """Return what makes the grid line at 0, the one to compare with, darker than the others."""
    import altair as alt

    return alt.condition("datum.value == 0", alt.value("#555"), alt.value("#e3e3e3"))


def round_axis() -> alt.X:
    """Return the axis of rounds."""
    import altair as alt

    scale = alt.Scale(zero=False, nice=False)
    return alt.X("round:Q", title="round", scale=scale, axis=alt.Axis(tickMinStep=1, tickCount=4, grid=False))


def panels(rows: pd.DataFrame, of: str, positives: bool = False) -> pd.Series[str]:
    """Name each row's group with its test records (or positives) beneath, and whether they are too few."""
    names = rows["group"].map(lambda g: named(g, of))
    few = rows["too_few"].map({True: ", too few", False: ""})
    n = "positives = " + rows["positives"].map(count) if positives else "n = " + rows["n"].map(count)
    return names + "\n" + n + few


def budgets(rows: pd.DataFrame) -> pd.Series[str]:
    """Write each row's privacy budget as the charts label it."""
    words = [budget(m, e) for m, e in zip(rows["mechanism"], rows["epsilon"], strict=True)]
    return pd.Series(words, index=rows.index, dtype=object)


def everybody_last(groups: Iterable[str]) -> list[str]:
    """Return the groups once each, everybody last."""
    once = dict.fromkeys(groups)
    return [g for g in once if g != EVERYBODY] + [g for g in once if g == EVERYBODY]


def thin(rows: pd.DataFrame, series: list[str]) -> pd.DataFrame:
    """Keep every k-th round and the last, so that all series together have about :data:`MOST_POINTS`."""
    lines = len(rows[series].drop_duplicates())
    rounds = sorted(rows["round"].unique())
    step = -(-len(rounds) * lines // MOST_POINTS) or 1
    return rows[rows["round"].isin({*rounds[::step], rounds[-1]})]


def values(rows: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """Return rows as plain values: five significant digits, null for undefined; ``rank`` orders the panels.

    The first of ``columns`` names the panel.
    """
    ranks = {panel: i for i, panel in enumerate(rows[columns[0]].unique())}
    records = rows[columns].assign(rank=rows[columns[0]].map(ranks)).to_dict("records")
    return [{str(k): _plain(v) for k, v in r.items()} for r in records]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if pd.isna(value) else float(f"{value:.5g}")
    return value
