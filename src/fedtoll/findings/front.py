"""The Pareto front of accuracy, disparity and ε, and the models that are fair only because they are constant.

A model that predicts a single class has no disparity, so a plot of disparity against accuracy would show it
as fair. Here such a model, and one whose scores are no better than chance, is marked as collapsed and is
never on the front. Neither is a model that is no better than predicting the majority.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from fedtoll.findings.quantities import Study
from fedtoll.findings.verdicts import Part
from fedtoll.formatting import budget, listed, number
from fedtoll.report import vega
from fedtoll.scenarios.budgets import budget_of
from fedtoll.scenarios.claims import Claim, Term
from fedtoll.scenarios.visible import all_visible

Standing = Literal["on the front", "beaten", "collapsed", "no better than the majority"]
STANDINGS: tuple[Standing, ...] = (
    "on the front",
    "beaten",
    "collapsed",
    "no better than the majority",
)
MIN_FLAGGED = 0.5
"""A point is flagged if at least this share of its seeds is."""


@dataclass(frozen=True)
class Point:
    """One strategy at one ε in one setting.

    Parameters
    ----------
    setting, strategy
        The names of the setting and the strategy.
    epsilon
        The budget as the report writes it: ``∞``, ``∞ clip`` or a number.
    measure
        The measure of the disparity.
    accuracy, disparity
        The seed-mean and the 95% t interval (mean, low, high) of everybody's accuracy, and of the maximum
        minus the minimum of the measure over groups in each run.
    collapsed
        The share of seeds whose model is flagged as collapsed.
    standing
        One of :data:`STANDINGS`.
    """

    setting: str
    strategy: str
    epsilon: str
    measure: str
    accuracy: tuple[float, float, float]
    disparity: tuple[float, float, float]
    collapsed: float
    standing: Standing

    def without_intervals(self) -> Point:
        """Return the point with its means alone."""
        unknown = math.nan, math.nan
        return replace(self, accuracy=(self.accuracy[0], *unknown), disparity=(self.disparity[0], *unknown))


def front(claims: Sequence[Claim], studies: Mapping[str, Study]) -> tuple[Point, ...]:
    """Return the points of a finding with claims about a spread over all groups; empty for any other.

    Parameters
    ----------
    claims
        The claims of the finding. The first about a spread gives the measure; all of those give the settings.
    studies
        The results of its settings, by name.
    """
    spread = [
        term
        for c in claims
        for s in c.settings
        for term in c.terms(s)
        if term.of == "spread" and not term.groups
    ]
    if not spread:
        return ()
    measure = spread[0].measure or "accuracy"
    points: list[Point] = []
    for setting in dict.fromkeys(term.setting or "" for term in spread if term.measure == measure):
        points += _points(setting, studies[setting], measure)
    return tuple(points)


def _points(setting: str, study: Study, measure: Any) -> list[Point]:
    """Return the points of one setting, by strategy and from the loosest ε to the tightest."""
    cells = study.groups[["strategy", "mechanism", "epsilon"]].drop_duplicates()
    found: list[tuple[float, Point]] = []
    for strategy, mechanism, epsilon in cells.itertuples(index=False):
        at = budget_of(mechanism, epsilon)

        def interval(of: str, measure: Any, s: str = strategy, e: Any = at) -> tuple[float, float, float]:
            term = Term(of=of, measure=measure, strategy=s, epsilon=e, setting=setting)
            return Part(np.asarray(study.quantity(term).seeds, dtype=np.float64)).interval()

        accuracy, disparity = interval("value", "accuracy"), interval("spread", measure)
        if math.isnan(accuracy[0]) or math.isnan(disparity[0]):
            continue
        collapsed = interval("value", "collapsed")[0]
        standing: Standing = "on the front"
        if collapsed >= MIN_FLAGGED:
            standing = "collapsed"
        elif interval("value", "below_majority")[0] >= MIN_FLAGGED:
            standing = "no better than the majority"
        label = budget(mechanism, float(epsilon))
        order = math.inf if isinstance(at, str) else at  # clipping alone gives no privacy
        point = Point(setting, strategy, label, measure, accuracy, disparity, collapsed, standing)
        found.append((order, point))
    useful = [_objectives(order, p) for order, p in found if p.standing == "on the front"]
    points = []
    for order, p in sorted(found, key=lambda f: (f[1].strategy, -f[0], f[1].epsilon)):
        beaten = any(dominates(q, _objectives(order, p)) for q in useful)
        points.append(replace(p, standing="beaten") if p.standing == "on the front" and beaten else p)
    return points


def _objectives(epsilon: float, point: Point) -> tuple[float, float, float]:
    return point.accuracy[0], point.disparity[0], epsilon


def dominates(a: tuple[float, float, float], b: tuple[float, float, float]) -> bool:
    """Return whether (accuracy, disparity, ε) ``a`` is nowhere worse than ``b`` and somewhere better.

    Examples
    --------
    >>> dominates((0.85, 0.1, 1.0), (0.84, 0.2, 1.0)), dominates((0.85, 0.1, 1.0), (0.84, 0.0, 1.0))
    (True, False)
    """
    signed = [(a[0], b[0]), (-a[1], -b[1]), (-a[2], -b[2])]
    return all(a >= b for a, b in signed) and any(a > b for a, b in signed)


def alt_text(points: Sequence[Point]) -> str:
    """Return a description of a panel for screen readers.

    Parameters
    ----------
    points
        The points of one setting.
    """
    descriptions = [
        f"{p.strategy}, ε = {p.epsilon}: accuracy {number(p.accuracy[0])}, "
        f"disparity {number(p.disparity[0])}, {p.standing}"
        for p in points
    ]
    return f"Chart. Disparity against accuracy in the setting {points[0].setting}. {'; '.join(descriptions)}."


def data_url(points: Sequence[Point]) -> str:
    """Return a panel as the ``data:`` URL of an SVG, which an ``img`` element shows without scripts.

    Parameters
    ----------
    points
        The points of one setting.
    """
    svg, _ = vega.draw(_spec(points)).result()
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _spec(points: Sequence[Point]) -> dict[str, Any]:
    """Return the Vega-Lite chart of one setting: right is better, down is fairer, and ε labels each point."""
    import altair as alt

    from fedtoll.report.charts.style import COLOURS, CONFIG, GREY, cycle

    strategies = list(dict.fromkeys(p.strategy for p in points))
    rows = [
        {
            "strategy": p.strategy,
            "standing": p.standing,
            "label": label,
            **dict(zip(("x", "x_low", "x_high"), map(_plain, p.accuracy), strict=True)),
            **dict(zip(("y", "y_low", "y_high"), map(_plain, p.disparity), strict=True)),
        }
        for p, label in zip(points, labels(points), strict=True)
    ]
    base = alt.Chart(alt.NamedData("front"))
    scale = alt.Scale(zero=False, nice=True, padding=18)
    x = alt.X("x:Q", title="accuracy of everybody (better →)", scale=scale, axis=alt.Axis(tickCount=4))
    title = f"disparity of {points[0].measure.replace('_', ' ')} (fairer ↓)"
    y = alt.Y("y:Q", title=title, scale=alt.Scale(zero=True, nice=True), axis=alt.Axis(tickCount=5))
    colours = alt.Scale(domain=strategies, range=cycle(COLOURS, len(strategies)))
    legend = alt.Undefined if len(strategies) > 1 else None
    colour = alt.Color("strategy:N", scale=colours, legend=legend)
    shapes = alt.Scale(domain=list(STANDINGS), range=["circle", "circle", "cross", "triangle-down"])
    shape = alt.Shape("standing:N", scale=shapes, legend=None)
    on_front = "datum.standing == 'on the front'"
    chart = alt.layer(
        base.mark_rule(strokeWidth=1, opacity=0.55, color=GREY).encode(
            x, alt.Y("y_low:Q"), alt.Y2("y_high:Q")
        ),
        base.mark_rule(strokeWidth=1, opacity=0.55, color=GREY).encode(
            alt.X("x_low:Q"), alt.X2("x_high:Q"), y
        ),
        base.transform_filter(f"!({on_front})")
        .mark_point(size=90, strokeWidth=2, opacity=1, fill="white")
        .encode(x, y, shape, colour),
        base.transform_filter(on_front)
        .mark_point(size=90, strokeWidth=2, opacity=1, filled=True)
        .encode(x, y, shape, colour),
        base.mark_text(align="left", dx=8, dy=-7, fontSize=11, color="#222").encode(
            x, y, alt.Text("label:N")
        ),
    ).properties(width=300, height=230, title=points[0].setting)
    spec: dict[str, Any] = chart.to_dict()
    return {**all_visible(spec | {"datasets": {"front": rows}}), "config": CONFIG}


def labels(points: Sequence[Point]) -> list[str]:
    """Return the label of each point; points too close for two labels share one.

    Examples
    --------
    >>> def at(epsilon: str, x: float) -> Point:
    ...     return Point("base", "fedavg", epsilon, "accuracy", (x,) * 3, (0.1,) * 3, 0.0, "on the front")
    >>> labels([at("∞", 0.84), at("1", 0.839), at("0.1", 0.7)])
    ['ε = ∞, 1', '', 'ε = 0.1']
    """
    width = max(p.accuracy[0] for p in points) - min(p.accuracy[0] for p in points)
    height = max(p.disparity[0] for p in points)
    epsilons: list[list[str]] = [[] for _ in points]
    for i, p in enumerate(points):
        owner = next(
            j
            for j, q in enumerate(points)
            if j == i
            or (
                epsilons[j]
                and q.strategy == p.strategy
                and abs(q.accuracy[0] - p.accuracy[0]) <= 0.2 * width
                and abs(q.disparity[0] - p.disparity[0]) <= 0.08 * height
            )
        )
        epsilons[owner].append(p.epsilon)
    return [f"ε = {', '.join(shared)}" if shared else "" for shared in epsilons]


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.5g}")


def collapse_sentence(points: Sequence[Point]) -> str:
    """Return a sentence on the models that are fair only because they are constant.

    Examples
    --------
    >>> flat = Point("base", "fedavg", "0.03", "selection_rate", (0.75,) * 3, (0.0,) * 3, 0.9, "collapsed")
    >>> collapse_sentence([flat])[:9], collapse_sentence([flat])[-40:]
    ('Collapsed', 'base, fedavg at ε = 0.03 (90% of seeds).')
    """
    flat = [p for p in points if p.standing == "collapsed"]
    if not flat:
        return "No model collapsed in half of its seeds or more."
    cases = listed(f"{p.setting}, {p.strategy} at ε = {p.epsilon} ({p.collapsed:.0%} of seeds)" for p in flat)
    return f"Collapsed (a single class, or no better than chance), so their parity means nothing: {cases}."
