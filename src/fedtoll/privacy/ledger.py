"""The ledger: every release of every client, and the ε that they compose to.

A run has one ledger. It composes DP-SGD steps and statistics over all rounds and never resets. The server
charges every instruction it sends, from public constants, whether or not a reply arrives. Each client records
its own releases as it makes them. The two must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fedtoll.privacy import selection
from fedtoll.privacy.accounting import Event, epsilon
from fedtoll.scenarios.calibration import GroupResidual
from fedtoll.scenarios.client_unit import joint_multiplier
from fedtoll.scenarios.participation import Attendance
from fedtoll.scenarios.run import ClientPlan, Run, StatisticPlan

DP_SGD = "dp-sgd"
"""The name of the training's releases; a statistic's releases have its name."""

CLIENT_UPDATE = "client-update"
"""The name of the training's releases where a client is the unit: its clipped update in a noised sum.

In rounds with statistics, their names follow: ``client-update + group_loss`` is one release of all of them.
"""

OWN = "own model"
"""The name of the steps that train only the model that a client keeps."""

TRAINING = (DP_SGD, CLIENT_UPDATE, OWN)
"""The releases that are steps or rounds of training."""

_PLUS = " + "

ALL_CLIENTS = -1
"""The client number of what all clients are charged alike, since nobody sees who takes part."""

CHOICE = "choice of constants"
"""The name of the release of chosen constants, in round 0. It is no Gaussian release, so its noise is 0."""


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

    Parameters
    ----------
    delta, accountant
        As in :func:`fedtoll.privacy.accounting.epsilon`; ``None`` if nothing is noised.
    charges
        By client, what it pays for a choice of constants, once that is charged.

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

    def __init__(
        self,
        delta: float | None,
        accountant: str | None,
        charges: Mapping[int, selection.Charge] | None = None,
    ) -> None:
        self.delta = delta
        self.accountant = accountant
        self._charges = charges or {}
        self.releases: list[Release] = []
        self._by_client: dict[int, list[Release]] = {}
        self._columns: dict[int, dict[str, list[int | float | str]]] = {}
        self._counts: dict[int, dict[tuple[str, float, float], int]] = {}

    @staticmethod
    def of(run: Run) -> Ledger:
        """Return the empty ledger of a run."""
        charges = {client.id: selection.charge_of(run, client) for client in run.clients}
        return Ledger(run.delta, run.accountant, {i: c for i, c in charges.items() if c is not None})

    def charge(self, releases: Iterable[Release]) -> None:
        """Record releases; a step with an empty batch counts too."""
        for release in releases:
            self.releases.append(release)
            self._by_client.setdefault(release.client, []).append(release)
            columns = self._columns.setdefault(release.client, {name: [] for name in COLUMNS})
            for name, values in columns.items():
                values.append(getattr(release, name))
            counts = self._counts.setdefault(release.client, {})
            kind = (release.what, release.noise_multiplier, release.sampling_rate)
            counts[kind] = counts.get(kind, 0) + release.count

    def releases_of(self, client: int) -> tuple[Release, ...]:
        """Return all releases of one client in the order they were charged."""
        return tuple(self._by_client.get(client, ()))

    def columns(self, client: int) -> dict[str, list[int | float | str]]:
        """Return all releases of one client as columns, the form in which clients report them."""
        return self._columns.get(client, {name: [] for name in COLUMNS})

    def epsilon(self, client: int) -> float:
        """Return the ε that a client has spent so far; infinity if any release has no noise."""
        counts = self._counts.get(client, {})
        if self.delta is None or self.accountant is None:  # nothing is noised
            return math.inf if counts else 0.0
        by_name: dict[str, list[Event]] = {}
        for (what, noise, rate), count in counts.items():
            by_name.setdefault(what, []).append(Event(noise, rate, count))
        if CHOICE in by_name and client in self._charges:
            choices = sum(event.count for event in by_name.pop(CHOICE))
            steps = sum(event.count for event in by_name.pop(DP_SGD, []))
            statistics = tuple(event for events in by_name.values() for event in events)
            return selection.epsilon(self._charges[client], self.delta, steps, statistics, choices)
        return epsilon([e for events in by_name.values() for e in events], self.delta, self.accountant)


def is_training(what: str) -> bool:
    """Return whether a release is a step or a round of training, perhaps with statistics.

    Examples
    --------
    >>> [is_training(what) for what in ("dp-sgd", "client-update + group_loss", "group_loss")]
    [True, True, False]
    """
    return what.partition(_PLUS)[0] in TRAINING


def statistics_in(what: str) -> tuple[str, ...]:
    """Return the names of the statistics that are part of a round's release.

    Examples
    --------
    >>> statistics_in("client-update + group_loss"), statistics_in("client-update")
    (('group_loss',), ())
    """
    return tuple(what.split(_PLUS)[1:]) if is_training(what) else ()


def joint(run: Run, client: ClientPlan, round: int, statistics: Sequence[StatisticPlan]) -> Release:
    """Return the one release of a round where a client is the unit: of its update and of statistics."""
    rate, count = run.trained(client)
    what = _PLUS.join([CLIENT_UPDATE, *(s.name for s in statistics)])
    z = joint_multiplier(client.noise_multiplier, *(s.noise_multiplier for s in statistics))
    return Release(client.id, round, what, rate, z, count)


def chosen(run: Run, client: ClientPlan) -> tuple[Release, ...]:
    """Return what a client has released before round 1: the choice of constants, if one was made."""
    return () if run.choice is None else (Release(client.id, 0, CHOICE, 1.0, 0.0, 1),)


def owed(run: Run, client: ClientPlan, round: int, turn: int | None = None) -> tuple[Release, ...]:
    """Return the releases that one training instruction causes, from public constants alone.

    The first instruction carries the chosen constants.

    Parameters
    ----------
    run, client, round
        The run, the client and the round.
    turn
        The how-manieth of the client's rounds this is, from 1; by default all rounds are.
    """
    turn = round if turn is None else turn
    due = [s for _, s in run.due(round, turn)]
    if run.unit == "client":
        return (joint(run, client, round, due),)
    statistics = tuple(Release(client.id, round, s.name, 1.0, s.noise_multiplier, 1) for s in due)
    rate, count = run.trained(client)
    training = Release(client.id, round, DP_SGD, rate, client.noise_multiplier, count)
    return (
        *(chosen(run, client) if turn == 1 else ()),
        *statistics,
        training,
        *owed_for_own(run, client, round),
    )


def owed_after(run: Run, client: ClientPlan) -> tuple[Release, ...]:
    """Return what a client releases after the last round: its residuals by group, if the run has them."""
    if run.calibration is None:
        return ()
    z = run.calibration.noise_multiplier
    return (Release(client.id, run.rounds + 1, GroupResidual.name, 1.0, z, 1),)


def owed_for_own(run: Run, client: ClientPlan, round: int) -> tuple[Release, ...]:
    """Return the steps of a round that train only the model that a client keeps; none in most runs."""
    steps = run.own_steps(client)
    owed = Release(client.id, round, OWN, client.sampling_rate, client.noise_multiplier, steps)
    return (owed,) if steps else ()


def hidden(run: Run, round: int) -> tuple[Release, ...]:
    """Return what a round releases about every client alike, whether or not it takes part.

    Nothing, if who takes part is seen: then each client is charged what it is asked for.
    """
    if not run.hides_clients:
        return ()
    (release,) = owed(run, run.clients[0], round)
    return (replace(release, client=ALL_CLIENTS),)


def all_owed(run: Run, index: int, attendance: Attendance) -> list[Release]:
    """Return all that the client at a position of the plan is charged in a run."""
    client = run.clients[index]
    asked = range(1, run.rounds + 1) if run.hides_clients else attendance.rounds(index)
    rounds = enumerate(asked, start=1)
    trained = [release for turn, round in rounds for release in owed(run, client, round, turn)]
    return [*trained, *owed_after(run, client)]


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
