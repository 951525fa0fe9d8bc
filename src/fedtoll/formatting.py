"""How the report writes numbers, budgets and lists: the same on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from fedtoll.scenarios.measures import EVERYBODY

MOST_CLIENTS = 100
"""With more clients than this the page leaves single clients to the tables on disk."""

UNDEFINED = "–"
"""What stands where a number is undefined or unknown; never a zero."""


_SAY_OF_WHAT = {
    "other",
    "others",
    "yes",
    "no",
    "true",
    "false",
    "unknown",
    "missing",
    "none",
    "mixed",
    "both",
}
"""Names that mean nothing without their attribute."""


def attribute(resolved: dict[str, Any]) -> str:
    """Return what the groups are groups of, as the scenario says: ``race``, ``race/sex``; else ``group``."""
    groups = resolved.get("scenario", {}).get("data", {}).get("groups") or ["group"]
    return "/".join(str(g) for g in groups)


def named(group: str, of: str = "group") -> str:
    """Name a group so that a sentence can hold it: a name that is no word is introduced.

    Parameters
    ----------
    group
        Its name in the tables.
    of
        What :func:`attribute` returned.

    Examples
    --------
    >>> named("White", "race"), named("8", "digit"), named("Other", "race"), named("(all)", "race")
    ('White', 'digit “8”', 'race “Other”', 'everybody')
    """
    if group == EVERYBODY:
        return "everybody"
    word = sum(c.isalpha() for c in group) > 2 and group.casefold().strip("()") not in _SAY_OF_WHAT
    return group if word else f"{of} “{group}”"


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


def interval(low: float, high: float, digits: int = 3) -> str:
    """Write an interval, or say that there is none.

    Examples
    --------
    >>> interval(0.209, 0.413), interval(float("nan"), float("nan"))
    ('0.209 to 0.413', 'none')
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return "none"
    return f"{number(low, digits)} to {number(high, digits)}"


def chance(p: float) -> str:
    """Write a p-value: two significant digits, and never a plain 0.

    Examples
    --------
    >>> chance(0.0432), chance(0.00002), chance(1.0), chance(float("nan"))
    ('0.043', 'below 0.0001', '1', '–')
    """
    if p is None or math.isnan(p):
        return UNDEFINED
    return "below 0.0001" if p < 1e-4 else f"{p:.2g}"


def listed(words: Iterable[str]) -> str:
    """Join words as a sentence does: ``a, b and c``."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
