"""How figures of claims are written: in points where they are differences of shares, as sources do."""

from __future__ import annotations

import math

from fedtoll.formatting import number
from fedtoll.scenarios.claims import Claim, Term
from fedtoll.scenarios.measures import FLAGS

SHARES = ("accuracy", "balanced_accuracy", "tpr", "fpr", "auroc", "selection_rate")
"""Measures whose differences are told in points, hundredths."""


def of_figure(claim: Claim) -> str:
    """Return the unit of a claim's figure: ``points``, ``nats``, ``of seeds`` or none.

    Examples
    --------
    >>> of_figure(Claim(name="x", says="x", kind="order", measure="accuracy", b=Term()))
    'points'
    >>> of_figure(Claim(name="x", says="x", kind="ratio", measure="accuracy", b=Term(), at_least=2.0))
    ''
    """
    if claim.kind in {"ratio", "correlation"}:
        return ""
    term = claim.terms(claim.settings[0])[0]
    return of_side(term) if claim.kind == "threshold" else _unit(term)


def of_side(term: Term) -> str:
    """Return the unit of one side: a toll, a price and a spread are differences, a value is none."""
    if term.measure in FLAGS:
        return "of seeds"
    return _unit(term) if term.of in {"toll", "price", "spread"} else ""


def _unit(term: Term) -> str:
    if term.of == "weight" or term.measure in SHARES:
        return "points"
    return "nats" if term.measure == "log_loss" else ""


def bound(value: float, unit: str = "") -> str:
    """Write a bound as it was fixed, with its unit.

    Examples
    --------
    >>> bound(-0.01, "points"), bound(2.0)
    ('−1 points', '2')
    """
    if unit == "of seeds":
        return f"{value:.0%} of seeds"
    return f"{100 * value if unit == 'points' else value:g} {unit}".rstrip().replace("-", "−")


def written(value: float, unit: str = "") -> str:
    """Write one number in its unit, without the unit's name.

    Examples
    --------
    >>> written(0.0123, "points"), written(0.0123), written(float("nan"))
    ('1.23', '0.0123', '–')
    """
    if unit == "of seeds" and not math.isnan(value):
        return f"{value:.0%}"
    return number(100 * value, 2) if unit == "points" else number(value, 4)


def interval(mean: float, low: float, high: float, unit: str = "") -> str:
    """Write a figure with its interval and unit.

    Examples
    --------
    >>> interval(3.25, 2.5, 4.0), interval(0.5, float("nan"), float("nan"))
    ('3.2500 (2.5000 to 4.0000)', '0.5000')
    >>> interval(-0.01, -0.02, 0.0, "points")
    '−1.00 points (−2.00 to 0.00)'
    """
    told = f"{written(mean, unit)} {unit}".rstrip() if not math.isnan(mean) else written(mean)
    if math.isnan(low) or math.isnan(high):
        return told
    return f"{told} ({written(low, unit)} to {written(high, unit)})"
