"""The three-way front of accuracy, disparity and ε, and which models are fair because they are constant.

A model that predicts one class has no disparity, so a plot of disparity against accuracy shows it as fair.
Here it is marked as collapsed (so is one whose scores are no better than chance) and never stands on the
front; nor does one that is no better than predicting the majority.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fedtoll.findings.quantities import Study
from fedtoll.findings.verdicts import Part
from fedtoll.formatting import budget, listed, number
from fedtoll.scenarios.claims import Claim, Term
from fedtoll.scenarios.run import budget_of

Standing = Literal["on the front", "beaten", "collapsed", "no better than the majority"]
STANDINGS: tuple[Standing, ...] = (
    "on the front",
    "beaten",
    "collapsed",
    "no better than the majority",
)
FLAGGED = 0.5
"""The share of seeds from which a flag counts for a point."""


@dataclass(frozen=True)
class Point:
    """One strategy at one ε in one setting.

    Parameters
    ----------
    setting, strategy
        Which.
    epsilon
        As the report writes it: ``∞``, ``clip-only`` or a number.
    measure
        Of the disparity.
    accuracy, disparity
        Seed-mean, low and high of the 95% t interval: everybody's accuracy, and maximum minus minimum of
        the measure over groups, run by run.
    collapsed
        The share of seeds whose model is flagged.
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


def front(claims: Sequence[Claim], studies: Mapping[str, Study]) -> tuple[Point, ...]:
    """Return the points of a finding with a claim about a spread over groups; none of another.

    Parameters
    ----------
    claims
        Of the finding; the first about a spread names the measure, all of them the settings.
    studies
        The results of its settings.
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
    made: list[Point] = []
    for setting in dict.fromkeys(term.setting or "" for term in spread if term.measure == measure):
        made += _points(setting, studies[setting], measure)
    return tuple(made)


def _points(setting: str, study: Study, measure: Any) -> list[Point]:
    cells = study.groups[["strategy", "mechanism", "epsilon"]].drop_duplicates()
    drawn = []
    for strategy, mechanism, epsilon in cells.itertuples(index=False):
        at = budget_of(mechanism, epsilon)

        def of(what: str, measure: Any, s: str = strategy, e: Any = at) -> Part:
            term = Term(of=what, measure=measure, strategy=s, epsilon=e, setting=setting)
            return Part(np.asarray(study.quantity(term).seeds, dtype=np.float64))

        accuracy, disparity = of("value", "accuracy").interval(), of("spread", measure).interval()
        if math.isnan(accuracy[0]) or math.isnan(disparity[0]):
            continue
        collapsed = of("value", "collapsed").interval()[0]
        below = of("value", "below_majority").interval()[0]
        order = math.inf if isinstance(at, str) else at  # clipping alone gives no privacy
        words = budget(mechanism, float(epsilon))
        drawn.append((order, strategy, words, accuracy, disparity, collapsed, below))
    able = [(d[3][0], d[4][0], d[0]) for d in drawn if d[5] < FLAGGED and d[6] < FLAGGED]
    return [
        Point(
            setting=setting,
            strategy=strategy,
            epsilon=words,
            measure=measure,
            accuracy=accuracy,
            disparity=disparity,
            collapsed=collapsed,
            standing="collapsed"
            if collapsed >= FLAGGED
            else "no better than the majority"
            if below >= FLAGGED
            else "beaten"
            if any(beats(other, (accuracy[0], disparity[0], order)) for other in able)
            else "on the front",
        )
        for order, strategy, words, accuracy, disparity, collapsed, below in sorted(
            drawn, key=lambda d: (d[1], -d[0], d[2])
        )
    ]


def beats(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    """Say whether one (accuracy, disparity, ε) is as good in all three, and better in one.

    Examples
    --------
    >>> beats((0.85, 0.1, 1.0), (0.84, 0.2, 1.0)), beats((0.85, 0.1, 1.0), (0.84, 0.0, 1.0))
    (True, False)
    """
    signed = [(one[0], other[0]), (-one[1], -other[1]), (-one[2], -other[2])]
    return all(a >= b for a, b in signed) and any(a > b for a, b in signed)


def told(points: Sequence[Point]) -> str:
    """Return a panel in words, for those who do not see it.

    Parameters
    ----------
    points
        Of one setting.
    """
    each = [
        f"{p.strategy}, ε = {p.epsilon}: accuracy {number(p.accuracy[0])}, "
        f"disparity {number(p.disparity[0])}, {p.standing}"
        for p in points
    ]
    return f"Chart. Disparity against accuracy in the setting {points[0].setting}. {'; '.join(each)}."


def drawing(points: Sequence[Point]) -> str:
    """Return a panel as a ``data:`` address of an SVG, which an ``img`` shows without any script.

    Parameters
    ----------
    points
        Of one setting.
    """
    import vl_convert

    svg = vl_convert.vegalite_to_svg(_spec(points), allowed_base_urls=[])
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _spec(points: Sequence[Point]) -> dict[str, Any]:
    """Return the Vega-Lite chart of one setting: right is better, down is fairer, ε is beside each point."""
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
    scale_of = alt.Scale(domain=strategies, range=cycle(COLOURS, len(strategies)))
    legend = alt.Undefined if len(strategies) > 1 else None
    colour = alt.Color("strategy:N", scale=scale_of, legend=legend)
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
    return spec | {"config": CONFIG, "datasets": {"front": rows}}


def labels(points: Sequence[Point]) -> list[str]:
    """Return what stands beside each point; those so close that labels would cover each other share one.

    Examples
    --------
    >>> def at(epsilon: str, x: float) -> Point:
    ...     return Point("base", "fedavg", epsilon, "accuracy", (x,) * 3, (0.1,) * 3, 0.0, "on the front")
    >>> labels([at("∞", 0.84), at("1", 0.839), at("0.1", 0.7)])
    ['ε = ∞, 1', '', 'ε = 0.1']
    """
    wide = max(p.accuracy[0] for p in points) - min(p.accuracy[0] for p in points)
    high = max(p.disparity[0] for p in points)
    made: list[list[str]] = [[] for _ in points]
    for i, p in enumerate(points):
        near = next(
            j
            for j, q in enumerate(points)
            if j == i
            or (
                made[j]
                and q.strategy == p.strategy
                and abs(q.accuracy[0] - p.accuracy[0]) <= 0.2 * wide
                and abs(q.disparity[0] - p.disparity[0]) <= 0.08 * high
            )
        )
        made[near].append(p.epsilon)
    return [f"ε = {', '.join(own)}" if own else "" for own in made]


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.5g}")


def summary(points: Sequence[Point]) -> str:
    """Return one sentence on what is fair because it is constant.

    Examples
    --------
    >>> flat = Point("base", "fedavg", "0.03", "selection_rate", (0.75,) * 3, (0.0,) * 3, 0.9, "collapsed")
    >>> summary([flat])[:9], summary([flat])[-49:]
    ('Collapsed', 'nothing: base, fedavg at ε = 0.03 (90% of seeds).')
    """
    flat = [p for p in points if p.standing == "collapsed"]
    if not flat:
        return "No model is flagged as collapsed in half of its seeds or more."
    each = listed(f"{p.setting}, {p.strategy} at ε = {p.epsilon} ({p.collapsed:.0%} of seeds)" for p in flat)
    return f"Collapsed (one class, or no better than chance), so that their parity says nothing: {each}."
