"""Replies that are skipped: what a ledger may lack then, what is not known of a client, and the reason kept.

A scenario says ``training.on_failure = "skip"``. What was sent is charged all the same, so the server's
account is never too small; a client that got no message may have entered nothing.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path

from fedtoll.clients.ledger import Release
from fedtoll.scenarios.run import Run

LONGEST = 200
"""How many characters are kept of the reason for a skip."""


def count(folder: Path, run: Run) -> int:
    """Return how many replies were skipped in a run that is stored in a results folder.

    Raises
    ------
    ScenarioError
        When its file cannot be read; one line, as :func:`fedtoll.server.results.load` has it.
    """
    if run.on_failure != "skip":
        return 0
    import pandas as pd

    from fedtoll.server.results import unreadable

    file = folder / "runs" / run.hash / "clients.parquet"
    try:
        reasons = pd.read_parquet(file, columns=["skipped"])["skipped"]
    except Exception as error:  # a damaged file makes its reader raise anything
        raise unreadable(folder, error) from None
    return int((reasons != "").sum())


def bounded(reason: str) -> str:
    """Return a reason of one line in at most ``LONGEST`` characters.

    Examples
    --------
    >>> bounded("the reply is missing"), len(bounded("x" * 1000))
    ('the reply is missing', 200)
    """
    return reason if len(reason) <= LONGEST else f"{reason[: LONGEST - 1]}…"


def beyond(theirs: Sequence[Release], ours: Sequence[Release]) -> Release | None:
    """Return the first release in a client's ledger that was not charged, in this order and as often.

    Examples
    --------
    >>> a, b = (Release(0, t, "dp-sgd", 0.1, 1.0, 10) for t in (1, 2))
    >>> beyond([b], [a, b]) is None, beyond([a, a], [a, b]) == a
    (True, True)
    """
    charged = iter(ours)
    return next((claimed for claimed in theirs if claimed not in charged), None)


def lacking(theirs: Sequence[Release], ours: Sequence[Release], skipped: Container[int]) -> Release | None:
    """Return the first release that is charged and not in a client's ledger, the skipped rounds' apart.

    ``theirs`` holds nothing beyond ``ours``.

    Examples
    --------
    >>> a, b = (Release(0, t, "dp-sgd", 0.1, 1.0, 10) for t in (1, 2))
    >>> lacking([b], [a, b], {1}) is None, lacking([b], [a, b], {}) == a
    (True, True)
    """
    entered = set(theirs)
    return next((r for r in ours if r.round not in skipped and r not in entered), None)


def unreleased(run: Run, round: int, skipped: Container[int]) -> str:
    """Return the name of a statistic that a client has not released up to a round; "" where there is none.

    Between two releases strategies see the last one. Of a client whose replies were skipped whenever it
    was due there is none, and nothing is made up in its place.
    """
    for statistic in run.statistics:
        if not statistic.due(round) and all(t in skipped for t in range(1, round, statistic.every)):
            return statistic.name
    return ""
