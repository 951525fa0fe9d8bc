"""What all charts share: colours, shapes, panels, and the conversion of rows to data.

``usermeta`` tells the page's script how many panels a chart has and how wide its axes are, so that the
script can lay out the panels for the width of the window. The colours are Okabe and Ito's, which
colour-blind readers can distinguish; shapes and dashes repeat the distinction.

No name in a specification comes from a counter or a clock, so the same results give the same bytes. Names
that come from users appear only as data and as domains: Vega-Lite turns a list given as ``sort`` into code,
and some characters break out of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedtoll.formatting import budget, count, group_label
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.scenarios.visible import all_visible

if TYPE_CHECKING:
    import altair as alt

Spec = dict[str, Any]

# Okabe and Ito (2008), without the yellow, which is hard to see on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
DASHES = ([1, 0], [8, 3], [2, 2], [8, 2, 2, 2], [5, 5], [1, 4], [12, 4])
GREY = "#767676"
WARNING = "#8c3b00"
PANEL = 150
MOST_POINTS = 900
"""Lines over rounds are thinned to about this many points, to keep the page small."""

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
    chart: Any,
    name: str,
    rows: list[dict[str, Any]],
    *,
    margin: int,
    min_width: int = 90,
    max_width: int = 340,
) -> Spec:
    """Return a chart of one panel, ``min_width`` to ``max_width`` wide plus ``margin`` for its axes."""
    spec: Spec = chart.to_dict()
    layout = {"panels": 1, "margin": margin, "min_width": min_width, "max_width": max_width}
    return _finished(spec, layout, name, rows)


def facet(
    panel: Any,
    name: str,
    rows: list[dict[str, Any]],
    *,
    margin: int,
    title: str | None = None,
    by: str = "panel:N",
    min_width: int = PANEL,
    max_width: int = 340,
    independent_x: bool = False,
    independent_y: bool = False,
) -> Spec:
    """Return a chart of one panel per value of ``by``, with the layout that the page may give it."""
    import altair as alt

    panels = len({row["rank"] for row in rows})
    chart = panel.facet(
        facet=alt.Facet(
            by,
            sort=alt.EncodingSortField("rank", op="min"),
            header=alt.Header(title=None, labelLimit=min_width + 40),
        ),
        columns=min(panels, 6),
        spacing=18,
    ).resolve_axis(x="independent")
    scales = {"x": independent_x, "y": independent_y}
    if any(scales.values()):
        chart = chart.resolve_scale(**{axis: "independent" for axis, own in scales.items() if own})
    if title:
        chart = chart.properties(title=title)
    spec: Spec = chart.to_dict()
    gap = 60 if independent_y else 22  # points between two panels
    layout = {"panels": panels, "margin": margin, "min_width": min_width, "max_width": max_width, "gap": gap}
    return _finished(spec, layout, name, rows)


def _finished(spec: Spec, layout: dict[str, Any], name: str, rows: list[dict[str, Any]]) -> Spec:
    """Return a specification with its layout and its data; names show control characters."""
    finished = spec | {"usermeta": layout, "datasets": {name: rows}}
    return {**all_visible(finished), "config": CONFIG}


def stacked(specs: list[Spec]) -> Spec:
    """Return one specification that stacks several charts, for a figure in a paper."""
    top = {"$schema": specs[0]["$schema"], "config": CONFIG}
    shared = {"$schema", "config", "usermeta", "datasets"}
    inner = [{k: v for k, v in s.items() if k not in shared} for s in specs]
    datasets = {name: rows for s in specs for name, rows in s["datasets"].items()}
    return top | {"vconcat": inner, "datasets": datasets, "spacing": 30}


def series_encodings(field: str, domain: list[str]) -> tuple[alt.Color, alt.Shape, alt.StrokeDash]:
    """Return the colour, shape and dash encodings of a field, which share one legend.

    When the colours repeat, each comes with another shape and another dash than before.
    """
    import altair as alt

    n = len(domain)
    return (
        alt.Color(field, scale=alt.Scale(domain=domain, range=cycle(COLOURS, n))),
        alt.Shape(field, scale=alt.Scale(domain=domain, range=cycle(SHAPES, n, shift=True))),
        alt.StrokeDash(field, scale=alt.Scale(domain=domain, range=cycle(DASHES, n, shift=True))),
    )


def cycle(values: tuple[Any, ...], n: int, shift: bool = False) -> list[Any]:
    """Return ``n`` values in turn; with ``shift``, each repetition starts one value later."""
    m = len(values)
    return [values[(i + i // m * shift) % m] for i in range(n)]


def tooltips(**fields: str) -> list[alt.Tooltip]:
    """Return tooltips for string fields of the data: ``field="title"``."""
    import altair as alt

    return [alt.Tooltip(f"{field}:N", title=title) for field, title in fields.items()]


def zero_grid() -> Any:
    """Return the colour of grid lines, darker at 0, the value to compare with."""
    import altair as alt

    return alt.condition("datum.value == 0", alt.value("#555"), alt.value("#e3e3e3"))


def round_axis() -> alt.X:
    """Return the x axis of rounds."""
    import altair as alt

    scale = alt.Scale(zero=False, nice=False)
    return alt.X("round:Q", title="round", scale=scale, axis=alt.Axis(tickMinStep=1, tickCount=4, grid=False))


def panel_labels(rows: pd.DataFrame, attribute: str, of: str = "n") -> pd.Series[str]:
    """Return each row's group with, on a second line, its test records and if too few.

    For a rate of ``of``, the positives or negatives, the line counts these.
    """
    names = rows["group"].map(lambda g: group_label(g, attribute))
    few = rows["too_few"].map({True: ", too few", False: ""})
    counts = {"positives": rows["positives"], "negatives": rows["n"] - rows["positives"]}
    what = of if of in counts else "n"
    n = f"{what} = " + counts.get(what, rows["n"]).map(count)
    return names + "\n" + n + few


def budget_labels(rows: pd.DataFrame) -> pd.Series[str]:
    """Return each row's privacy budget as text."""
    labels = [budget(m, e) for m, e in zip(rows["mechanism"], rows["epsilon"], strict=True)]
    return pd.Series(labels, index=rows.index, dtype=object)


def everybody_last(groups: Iterable[str]) -> list[str]:
    """Return the distinct groups, everybody last."""
    once = dict.fromkeys(groups)
    return [g for g in once if g != EVERYBODY] + [g for g in once if g == EVERYBODY]


def thin_rounds(rows: pd.DataFrame, series: list[str]) -> pd.DataFrame:
    """Keep every k-th round and the last: all series together then have about :data:`MOST_POINTS` points."""
    lines = len(rows[series].drop_duplicates())
    rounds = sorted(rows["round"].unique())
    step = -(-len(rounds) * lines // MOST_POINTS) or 1
    return rows[rows["round"].isin({*rounds[::step], rounds[-1]})]


def chart_rows(rows: pd.DataFrame, columns: list[str]) -> list[dict[str, Any]]:
    """Return rows as plain values, with five significant digits and null for undefined.

    The first of ``columns`` names the panel; ``rank`` is added to order the panels.
    """
    ranks = {panel: i for i, panel in enumerate(rows[columns[0]].unique())}
    records = rows[columns].assign(rank=rows[columns[0]].map(ranks)).to_dict("records")
    return [{str(k): _plain(v) for k, v in r.items()} for r in records]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if pd.isna(value) else float(f"{value:.5g}")
    return value
