"""The ledger: every release of every client, and the ε it adds up to.

One ledger serves a whole run: it composes over all rounds, DP-SGD steps and
statistics alike, and never resets. The server charges every instruction that
it sends, from public constants, whether or not the reply arrives; each client
keeps its own from what it did. The two must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from fedtoll.privacy.accounting import Event, epsilon
from fedtoll.scenarios.run import ClientPlan, Run

DP_SGD = "dp-sgd"
"""The name of the training's releases; statistics go by their own names."""


@dataclass(frozen=True)
class Release:
    """What one client let out in one round: ``count`` Gaussian releases of one kind."""

    client: int
    round: int
    what: str
    sampling_rate: float
    noise_multiplier: float
    count: int


COLUMNS = ("round", "what", "sampling_rate", "noise_multiplier", "count")
"""What a client reports of each of its releases."""


class Ledger:
    """An append-only account of releases.

    Examples
    --------
    >>> ledger = Ledger(delta=1e-5, accountant="rdp")
    >>> for t in range(1, 101):
    ...     ledger.charge([Release(0, t, DP_SGD, 0.1, 1.0, 10)])
    >>> round(ledger.epsilon(0), 2)
    27.16
    >>> ledger.epsilon(1)
    0.0
    """

    def __init__(self, delta: float | None, accountant: str | None) -> None:
        self.delta = delta
        self.accountant = accountant
        self.releases: list[Release] = []
        self._by_client: dict[int, list[Release]] = {}
        self._columns: dict[int, dict[str, list[int | float | str]]] = {}
        self._counts: dict[int, dict[tuple[float, float], int]] = {}

    def charge(self, releases: Iterable[Release]) -> None:
        """Enter releases; an empty batch was released too."""
        for release in releases:
            self.releases.append(release)
            self._by_client.setdefault(release.client, []).append(release)
            columns = self._columns.setdefault(release.client, {name: [] for name in COLUMNS})
            for name, values in columns.items():
                values.append(getattr(release, name))
            counts = self._counts.setdefault(release.client, {})
            kind = (release.noise_multiplier, release.sampling_rate)
            counts[kind] = counts.get(kind, 0) + release.count

    def of(self, client: int) -> tuple[Release, ...]:
        """Return all releases of one client, in their order."""
        return tuple(self._by_client.get(client, ()))

    def columns(self, client: int) -> dict[str, list[int | float | str]]:
        """Return all releases of one client as columns: the form in which clients report theirs."""
        return self._columns.get(client, {name: [] for name in COLUMNS})

    def epsilon(self, client: int) -> float:
        """Return the ε that a client has spent so far; infinity where nothing is noised."""
        events = [Event(*kind, count) for kind, count in self._counts.get(client, {}).items()]
        if self.delta is None or self.accountant is None:  # nothing is noised
            return math.inf if events else 0.0
        return epsilon(events, self.delta, self.accountant)


def owed(run: Run, client: ClientPlan, round: int) -> tuple[Release, ...]:
    """Return what an instruction to train will release, from public constants alone."""
    statistics = tuple(
        Release(client.id, round, s.name, 1.0, s.noise_multiplier, 1) for s in run.statistics if s.due(round)
    )
    training = Release(client.id, round, DP_SGD, client.sampling_rate, client.noise_multiplier, client.steps)
    return (*statistics, training)


def first_uncharged(theirs: Sequence[Release], ours: Sequence[Release]) -> Release | None:
    """Return the first release in a client's ledger that was not charged, in this order and as often.

    Examples
    --------
    >>> a, b = (Release(0, t, "dp-sgd", 0.1, 1.0, 10) for t in (1, 2))
    >>> first_uncharged([b], [a, b]) is None, first_uncharged([a, a], [a, b]) == a
    (True, True)
    """
    charged = iter(ours)
    return next((claimed for claimed in theirs if claimed not in charged), None)


def first_missing(
    theirs: Sequence[Release], ours: Sequence[Release], skipped: Container[int]
) -> Release | None:
    """Return the first release that is charged and not in a client's ledger, the skipped rounds' apart.

    ``theirs`` holds nothing beyond ``ours``.

    Examples
    --------
    >>> a, b = (Release(0, t, "dp-sgd", 0.1, 1.0, 10) for t in (1, 2))
    >>> first_missing([b], [a, b], {1}) is None, first_missing([b], [a, b], {}) == a
    (True, True)
    """
    entered = set(theirs)
    return next((r for r in ours if r.round not in skipped and r not in entered), None)
