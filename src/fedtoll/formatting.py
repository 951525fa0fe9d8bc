"""Format numbers, privacy budgets, names and lists: the same on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from fedtoll.scenarios.measures import EVERYBODY

MOST_CLIENTS = 100
"""With more clients than this, the page shows no single clients; the tables on disk have them."""

UNDEFINED = "–"
"""Shown in place of an undefined or unknown number; never a zero."""

_VAGUE = {
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
"""Group names that mean nothing without their attribute."""


def attribute(resolved: dict[str, Any]) -> str:
    """Return the attribute that defines the groups: ``race``, ``race/sex``; ``group`` if none is given."""
    groups = resolved.get("scenario", {}).get("data", {}).get("groups") or ["group"]
    return "/".join(str(g) for g in groups)


def group_label(group: str, attribute: str = "group") -> str:
    """Return a group's name as a sentence can use it, with its attribute where the name alone is unclear.

    Parameters
    ----------
    group
        Its name in the tables.
    attribute
        What defines the groups, from :func:`attribute`.

    Examples
    --------
    >>> group_label("White", "race"), group_label("8", "digit")
    ('White', 'digit “8”')
    >>> group_label("Other", "race"), group_label("(all)", "race")
    ('race “Other”', 'everybody')
    """
    if group == EVERYBODY:
        return "everybody"
    clear = sum(c.isalpha() for c in group) > 2 and group.casefold().strip("()") not in _VAGUE
    return group if clear else f"{attribute} “{group}”"


def number(value: float, digits: int = 3) -> str:
    """Format ``value`` with ``digits`` decimals and a minus sign (U+2212); undefined is a dash.

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
    """Format a constant with ``digits`` significant digits.

    Examples
    --------
    >>> general(1e-5), general(0.02), general(3.0)
    ('1e-05', '0.02', '3')
    """
    return UNDEFINED if value is None or math.isnan(value) else f"{value:.{digits}g}".replace("inf", "∞")


def count(value: float) -> str:
    """Format a number of records: 41,762."""
    return UNDEFINED if value is None or math.isnan(value) else f"{round(value):,}"


def estimate(value: float, low: float, high: float, digits: int = 3) -> str:
    """Format a value and its 95% interval; the value alone without an interval.

    Examples
    --------
    >>> estimate(0.252, 0.209, 0.413), estimate(0.252, float("nan"), float("nan"))
    ('0.252 (0.209 to 0.413)', '0.252')
    """
    within = interval(low, high, digits)
    return number(value, digits) + ("" if within == "none" or math.isnan(value) else f" ({within})")


def span(low: float, high: float, style: str = "number") -> str:
    """Format a range as ``low to high``, or as one number where both ends look the same.

    Parameters
    ----------
    low, high
        The ends.
    style
        The function that formats them: ``number``, ``general`` or ``count``.

    Examples
    --------
    >>> span(0.2, 0.3), span(300, 300, "general")
    ('0.200 to 0.300', '300')
    """
    write = {"number": number, "general": general, "count": count}[style]
    return write(low) if write(low) == write(high) else f"{write(low)} to {write(high)}"


def budget(mechanism: str, epsilon: float) -> str:
    """Format a privacy budget: ε, or ``∞`` without privacy, or ``∞ clip`` with clipping alone.

    Examples
    --------
    >>> budget("none", math.inf), budget("clip-only", math.inf), budget("dp-sgd", 0.5)
    ('∞', '∞ clip', '0.5')
    """
    if mechanism == "none":
        return "∞"
    return "∞ clip" if mechanism == "clip-only" else general(epsilon, 6)


def interval(low: float, high: float, digits: int = 3) -> str:
    """Format an interval; an undefined one is ``none``.

    Examples
    --------
    >>> interval(0.209, 0.413), interval(float("nan"), float("nan"))
    ('0.209 to 0.413', 'none')
    """
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return "none"
    return f"{number(low, digits)} to {number(high, digits)}"


def in_seeds(what: str, share: float, runs: int) -> str:
    """Format a share of runs with the number of seeds; empty for a share of 0.

    Examples
    --------
    >>> in_seeds("collapsed", 0.6, 10), in_seeds("collapsed", 0.0, 10)
    ('collapsed in 6 of 10 seeds', '')
    """
    seeds = round(float(share) * int(runs))
    return f"{what} in {seeds} of {int(runs)} seeds" if seeds else ""


def p_value(p: float) -> str:
    """Format a p-value with two significant digits, and never as 0.

    Examples
    --------
    >>> p_value(0.0432), p_value(0.00002), p_value(1.0), p_value(float("nan"))
    ('0.043', 'below 0.0001', '1', '–')
    """
    if p is None or math.isnan(p):
        return UNDEFINED
    return "below 0.0001" if p < 1e-4 else f"{p:.2g}"


def listed(words: Iterable[str]) -> str:
    """Join words for a sentence: ``a, b and c``."""
    words = list(words)
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def duration(seconds: float) -> str:
    """Format a time in the unit that suits it.

    Examples
    --------
    >>> duration(42.4), duration(300), duration(9000)
    ('42 s', '5.0 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
