"""The ε of each part of a client's releases: training and every statistic.

The ε of the parts do not sum to the total. The accountant composes curves (or distributions), and the total
is less than the sum. Each part therefore has two numbers: the ε it would spend *alone*, and the ε it *adds*,
which is the total minus the ε of all other parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedtoll.privacy import selection
from fedtoll.privacy.accounting import Event, epsilon
from fedtoll.privacy.ledger import CHOICE, CLIENT_UPDATE, DP_SGD, OWN, joint, owed_after
from fedtoll.scenarios.run import ClientPlan, Run


@dataclass(frozen=True)
class Part:
    """One part of a client's releases.

    Parameters
    ----------
    what
        ``dp-sgd``, the name of a statistic, or ``choice of constants``.
    event
        The releases of this part; ``None`` for a choice, which is no Gaussian mechanism.
    alone
        The ε of this part if nothing else were released.
    adds
        The total ε minus the ε without this part; undefined (NaN) if any release has no noise.
    """

    what: str
    event: Event | None
    alone: float
    adds: float


def breakdown(
    events: Mapping[str, Event],
    delta: float,
    accountant: str = "rdp",
    charge: selection.Charge | None = None,
) -> tuple[Part, ...]:
    """Return the parts of one client's releases, each with the ε it spends alone and the ε it adds.

    Parameters
    ----------
    events
        The releases of all rounds, keyed by ``dp-sgd`` or the name of the statistic.
    delta, accountant
        As in :func:`fedtoll.privacy.accounting.epsilon`.
    charge
        What the client pays for a choice of constants, the first part. The training then counts with the
        largest RDP of all candidates.

    Examples
    --------
    >>> parts = breakdown({"dp-sgd": Event(1.5, 0.1, 500), "mean_loss": Event(20.0, 1.0, 50)}, 1e-5)
    >>> [(p.what, round(p.alone, 2), round(p.adds, 2)) for p in parts]
    [('dp-sgd', 9.09, 7.83), ('mean_loss', 1.48, 0.21)]
    """
    all_parts: dict[str, Event | None] = {**({CHOICE: None} if charge else {}), **events}
    total = _composed(all_parts, delta, accountant, charge)
    parts = []
    for what, event in all_parts.items():
        rest = {name: e for name, e in all_parts.items() if name != what}
        adds = total - _composed(rest, delta, accountant, charge) if math.isfinite(total) else math.nan
        parts.append(Part(what, event, _composed({what: event}, delta, accountant, charge), adds))
    return tuple(parts)


def _composed(
    parts: Mapping[str, Event | None], delta: float, accountant: str, charge: selection.Charge | None
) -> float:
    """Return the ε of some parts together."""
    events = {what: event for what, event in parts.items() if event is not None}
    if charge is None:
        return epsilon(tuple(events.values()), delta, accountant)
    training = events.pop(DP_SGD, Event(1.0, count=0))
    statistics, choices = tuple(events.values()), int(CHOICE in parts)
    return selection.epsilon(charge, delta, training.count, statistics, choices)


Spending = dict[str, Any]
"""The return type of :func:`spending`: plain values, ready for JSON except for infinities."""


def spending(
    events: Mapping[str, Event],
    delta: float,
    accountant: str,
    target: float | None = None,
    charge: selection.Charge | None = None,
) -> Spending:
    """Return the ε that releases spend: of each part, in total, and what is left of ``target``.

    Returns
    -------
    dict
        ``parts`` (each ``what, releases, sampling_rate, noise_multiplier, alone, adds``), ``spent``,
        ``delta``, ``accountant``; with a target also ``epsilon`` and ``left``. A choice of constants
        (``charge``) is a part whose sampling rate and noise multiplier are ``None``.
    """
    spent = _composed({**({CHOICE: None} if charge else {}), **events}, delta, accountant, charge)
    content: Spending = {
        "delta": delta,
        "accountant": accountant,
        "parts": [
            {
                "what": part.what,
                "releases": part.event.count if part.event else 1,
                "sampling_rate": part.event.sampling_rate if part.event else None,
                "noise_multiplier": part.event.noise_multiplier if part.event else None,
                "alone": part.alone,
                "adds": part.adds,
            }
            for part in breakdown(events, delta, accountant, charge)
        ],
        "spent": spent,
    }
    return content if target is None else {**content, "epsilon": target, "left": target - spent}


def events_of(
    run: Run, client: ClientPlan, sigma: float | None = None, joined: int | None = None
) -> dict[str, Event]:
    """Return all that a client releases over its rounds, by part; ``sigma`` replaces its noise multiplier.

    A choice of constants is no event; see :func:`fedtoll.privacy.selection.charge_of`. Where a client is the
    unit, ``joined`` is the number of its rounds with statistics, by default as if it took part in all.
    """
    noise = client.noise_multiplier if sigma is None else sigma
    rate, count = run.trained(client)
    if run.unit == "client":
        return _rounds(run, client.changed(noise_multiplier=noise), joined)
    events = {DP_SGD: Event(noise, rate, count * run.rounds_of(client))}
    if own := run.own_steps(client):
        events[OWN] = Event(noise, client.sampling_rate, own * run.rounds_of(client))
    for s in run.statistics:
        events[s.name] = Event(s.noise_multiplier, 1.0, s.releases(run.rounds_of(client)))
    for release in owed_after(run, client):
        events[release.what] = Event(release.noise_multiplier, 1.0, 1)
    return events


def _rounds(run: Run, client: ClientPlan, joined: int | None) -> dict[str, Event]:
    """Return the rounds of a client that is the unit, without and with statistics."""
    rounds, rate = run.rounds_of(client), run.trained(client)[0]
    if not run.statistics:
        return {CLIENT_UPDATE: Event(client.noise_multiplier, rate, rounds)}
    both = run.statistics[0].releases(rounds) if joined is None else joined
    release = joint(run, client, 1, run.statistics)
    events = {CLIENT_UPDATE: Event(client.noise_multiplier, rate, rounds - both)} if rounds > both else {}
    return {**events, release.what: Event(release.noise_multiplier, rate, both)}
