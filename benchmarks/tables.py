"""Markdown tables and the format of their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.measure import spread


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers.

    Examples
    --------
    >>> print(table(["variant", "s"], [["ours", "1.0"]]))
    | variant | s |
    |---|--:|
    | ours | 1.0 |
    """
    lines = [list(head), *map(list, rows)]
    text = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([text[0], "|---" + "|--:" * (len(head) - 1) + "|", *text[1:]])


def numbers(values: Sequence[float], unit: float = 1.0) -> str:
    """Format a median and its range with three significant digits.

    Examples
    --------
    >>> numbers([1.0, 2.0, 4.0])
    '2.00 (1.00 to 4.00)'
    """
    if len(values) == 1:
        return three(values[0] / unit)
    s = spread(values)
    return f"{three(s['median'] / unit)} ({three(s['low'] / unit)} to {three(s['high'] / unit)})"


def three(value: float) -> str:
    """Format a number with about three significant digits."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 4 if value < 0.1 else 3
    return f"{value:.{digits}f}"
