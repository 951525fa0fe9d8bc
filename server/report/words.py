"""How the report writes numbers, budgets and lists: the same on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable

MOST_CLIENTS = 100
"""With more clients than this the page leaves single clients to the tables on disk."""

UNDEFINED = "–"
"""What stands where a number is undefined or unknown; never a zero."""


def number(value: float, digits: int = 3) -> str:
    """Write ``value`` with ``digits`` decimals and a true minus sign; undefined is a dash.

    Examples
    --------
    >>> number(-0.0494), number(float("nan")), number(-0.0001)
    ('−0.049', '–', '0.000')
    """
    if value is None or math.isnan(value):
        return UNDEFINED
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def general(value: float, digits: int = 4) -> str:
    """Write a constant with ``digits`` significant digits: 0.02, 1e-05, 2.86.

    Examples
    --------
    >>> general(1e-5), general(0.02), general(3.0)
    ('1e-05', '0.02', '3')
    """
    return UNDEFINED if value is None or math.isnan(value) else f"{value:.{digits}g}".replace("inf", "∞")


def count(value: float) -> str:
    """Write a number of records: 41,762."""
    return UNDEFINED if value is None or math.isnan(value) else f"{round(value):,}"


def plus_minus(value: float, se: float, digits: int = 3) -> str:
    """Write a mean with its standard error; with one seed there is none.

    Examples
    --------
    >>> plus_minus(0.252, 0.024), plus_minus(0.252, float("nan"))
    ('0.252 ± 0.024', '0.252')
    """
    return number(value, digits) if math.isnan(se) else f"{number(value, digits)} ± {number(se, digits)}"


def span(low: float, high: float, write: str = "number") -> str:
    """Write ``low to high``, once where both read the same.

    Examples
    --------
    >>> span(0.2, 0.3), span(300, 300, "general")
    ('0.200 to 0.300', '300')
    """
    text = {"number": number, "general": general, "count": count}[write]
    return text(low) if text(low) == text(high) else f"{text(low)} to {text(high)}"


def budget(mechanism: str, epsilon: float) -> str:
    """Write a privacy budget as the charts label it.

    Examples
    --------
    >>> budget("none", math.inf), budget("clip-only", math.inf), budget("dp-sgd", 0.5)
    ('∞', '∞ clip', '0.5')
    """
    if mechanism == "none":
        return "∞"
    return "∞ clip" if mechanism == "clip-only" else general(epsilon, 6)


def listed(words: Iterable[str]) -> str:
    """Join words as a sentence does: ``a, b and c``."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
