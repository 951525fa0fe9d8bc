"""Errors that fedtoll reports to its user in one line.

The command line turns a :class:`ScenarioError` into exit code 2 (nothing was
written) and a :class:`RunError` into exit code 1. Any other exception is a bug
in fedtoll and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from fedtoll.scenarios.visible import escape


class FedtollError(Exception):
    """A mistake or a failure that is reported in one line, without a traceback."""


class ScenarioError(FedtollError):
    """Wrong usage, an invalid scenario or unusable data (exit code 2)."""


class RunError(FedtollError):
    """A run started and did not finish (exit code 1)."""


class DivergedError(RunError):
    """A run ended because a number of it is not finite, e.g. because its learning rate is too large."""


class NotFiniteError(ValueError):
    """An array or a number of a message is not finite."""


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Return a suggestion from ``candidates`` for the end of an error line.

    Parameters
    ----------
    word
        What the user wrote.
    candidates
        What is accepted.

    Returns
    -------
    str
        ``"; did you mean 'x'?"`` if one is close, else a list of all candidates.

    Examples
    --------
    >>> nearest("rase", ["race", "sex"])
    "; did you mean 'race'?"
    >>> nearest("zzz", ["race", "sex"])
    '; known: race, sex'
    """
    known = sorted(candidates)
    lowered = {k.lower(): k for k in reversed(known)}
    close = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    if close:
        return f"; did you mean {lowered[close[0]]!r}?"
    return f"; known: {', '.join(known)}" if known else ""


def one_line(reason: str | None) -> str:
    """Return a reason on one line, control characters escaped; a traceback is cut to its last line."""
    lines = (reason or "").strip().splitlines() or ["no reason given"]
    if lines[0].startswith("Traceback "):
        lines = lines[-1:]
    return "".join(c if c.isprintable() else escape(c) for c in " ".join(" ".join(lines).split()))
