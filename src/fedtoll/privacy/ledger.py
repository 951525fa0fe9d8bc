"""The ledger: every release of every client, and the ε that they compose to.

A run has one ledger. It composes DP-SGD steps and statistics over all rounds and never resets. The server
charges every instruction it sends, from public constants, whether or not a reply arrives. Each client records
its own releases as it makes them. The two must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from fedtoll.privacy.accounting import Event, epsilon
from fedtoll.scenarios.run import ClientPlan, Run

DP_SGD = "dp-sgd"
"""The name of the training's releases; a statistic's releases have its name."""


@dataclass(frozen=True)
class Release:
    """``count`` Gaussian releases of one kind by one client in one round."""

    client: int
    round: int
    what: str
    sampling_rate: float
    noise_multiplier: float
    count: int


COLUMNS = ("round", "what", "sampling_rate", "noise_multiplier", "count")
"""The fields that a client reports for each of its releases."""


class Ledger:
    """An append-only record of releases.

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
        """Record releases; a step with an empty batch counts too."""
        for release in releases:
            self.releases.append(release)
            self._by_client.setdefault(release.client, []).append(release)
            columns = self._columns.setdefault(release.client, {name: [] for name in COLUMNS})
            for name, values in columns.items():
                values.append(getattr(release, name))
            counts = self._counts.setdefault(release.client, {})
            kind = (release.noise_multiplier, release.sampling_rate)
            counts[kind] = counts.get(kind, 0) + release.count

    def releases_of(self, client: int) -> tuple[Release, ...]:
        """Return all releases of one client in the order they were charged."""
        return tuple(self._by_client.get(client, ()))

    def columns(self, client: int) -> dict[str, list[int | float | str]]:
        """Return all releases of one client as columns, the form in which clients report them."""
        return self._columns.get(client, {name: [] for name in COLUMNS})

    def epsilon(self, client: int) -> float:
        """Return the ε that a client has spent so far; infinity if any release has no noise."""
        events = [Event(*kind, count) for kind, count in self._counts.get(client, {}).items()]
        if self.delta is None or self.accountant is None:  # nothing is noised
            return math.inf if events else 0.0
        return epsilon(events, self.delta, self.accountant)


def owed(run: Run, client: ClientPlan, round: int) -> tuple[Release, ...]:
    """Return the releases that one training instruction causes, from public constants alone."""
    statistics = tuple(
        Release(client.id, round, s.name, 1.0, s.noise_multiplier, 1) for s in run.statistics if s.due(round)
    )
    training = Release(client.id, round, DP_SGD, client.sampling_rate, client.noise_multiplier, client.steps)
    return (*statistics, training)


def first_uncharged(reported: Sequence[Release], charged: Sequence[Release]) -> Release | None:
    """Return the first reported release that was not charged, comparing order and multiplicity.

    Examples
    --------
    >>> a, b = (Release(0, t, "dp-sgd", 0.1, 1.0, 10) for t in (1, 2))
    >>> first_uncharged([b], [a, b]) is None, first_uncharged([a, a], [a, b]) == a
    (True, True)
    """
    remaining = iter(charged)  # ``in`` consumes it up to the match
    return next((release for release in reported if release not in remaining), None)


def first_missing(
    reported: Sequence[Release], charged: Sequence[Release], skipped: Container[int]
) -> Release | None:
    """Return the first charged release that was not reported, ignoring the ``skipped`` rounds.

    ``reported`` must hold only charged releases.

    Examples
    --------
    >>> a, b = (Release(0, t, "dp-sgd", 0.1, 1.0, 10) for t in (1, 2))
    >>> first_missing([b], [a, b], {1}) is None, first_missing([b], [a, b], {}) == a
    (True, True)
    """
    known = set(reported)
    return next((r for r in charged if r.round not in skipped and r not in known), None)
