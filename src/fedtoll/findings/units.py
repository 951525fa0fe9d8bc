"""Units of the numbers in claims: differences of rates are written in percentage points, as papers do."""

from __future__ import annotations

import math

from fedtoll.formatting import number
from fedtoll.scenarios.claims import Claim, Term
from fedtoll.scenarios.measures import FLAGS

SHARES = ("accuracy", "balanced_accuracy", "tpr", "fpr", "auroc", "selection_rate")
"""Measures whose differences are written in points (hundredths)."""


def figure_unit(claim: Claim) -> str:
    """Return the unit of a claim's figure: ``points``, ``nats``, ``of seeds`` or an empty string.

    Examples
    --------
    >>> figure_unit(Claim(name="x", says="x", kind="order", measure="accuracy", b=Term()))
    'points'
    >>> figure_unit(Claim(name="x", says="x", kind="ratio", measure="accuracy", b=Term(), at_least=2.0))
    ''
    """
    if claim.kind in {"ratio", "correlation"}:
        return ""
    term = claim.terms(claim.settings[0])[0]
    return side_unit(term) if claim.kind == "threshold" else _unit(term)


def side_unit(term: Term) -> str:
    """Return the unit of one side: tolls, prices and spreads are differences, a value is not."""
    if term.measure in FLAGS:
        return "of seeds"
    return _unit(term) if term.of in {"toll", "price", "spread"} else ""


def _unit(term: Term) -> str:
    if term.of == "weight" or term.measure in SHARES:
        return "points"
    return "nats" if term.measure == "log_loss" else ""


def format_bound(value: float, unit: str = "") -> str:
    """Return a bound as the claim states it, with its unit.

    Examples
    --------
    >>> format_bound(-0.01, "points"), format_bound(2.0)
    ('−1 points', '2')
    """
    if unit == "of seeds":
        return f"{value:.0%} of seeds"
    return f"{100 * value if unit == 'points' else value:g} {unit}".rstrip().replace("-", "−")


def format_value(value: float, unit: str = "") -> str:
    """Return a number in its unit, without the unit's name.

    Examples
    --------
    >>> format_value(0.0123, "points"), format_value(0.0123), format_value(float("nan"))
    ('1.23', '0.0123', '–')
    """
    if unit == "of seeds" and not math.isnan(value):
        return f"{value:.0%}"
    return number(100 * value, 2) if unit == "points" else number(value, 4)


def format_interval(mean: float, low: float, high: float, unit: str = "") -> str:
    """Return a figure with its interval and unit.

    Examples
    --------
    >>> format_interval(3.25, 2.5, 4.0), format_interval(0.5, float("nan"), float("nan"))
    ('3.2500 (2.5000 to 4.0000)', '0.5000')
    >>> format_interval(-0.01, -0.02, 0.0, "points")
    '−1.00 points (−2.00 to 0.00)'
    """
    figure = f"{format_value(mean, unit)} {unit}".rstrip() if not math.isnan(mean) else format_value(mean)
    if math.isnan(low) or math.isnan(high):
        return figure
    return f"{figure} ({format_value(low, unit)} to {format_value(high, unit)})"
