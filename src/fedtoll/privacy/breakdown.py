"""What each part of a client's releases spends: training, and every statistic.

Parts do not add up in ε. The accountant composes curves (or distributions), and the ε of the whole is less
than the sum of the parts' own. So each part has two numbers: what it would spend *alone*, and what it
*adds*: the whole's ε less that of the whole without the part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedtoll.privacy.accounting import Event, epsilon
from fedtoll.privacy.ledger import DP_SGD
from fedtoll.scenarios.run import ClientPlan, Run


@dataclass(frozen=True)
class Part:
    """One part of what a client releases.

    Parameters
    ----------
    what
        ``dp-sgd``, or the name of a statistic.
    event
        Its releases.
    alone
        Its ε if nothing else were released.
    adds
        The ε of everything less the ε without it; undefined (NaN) where something is not noised.
    """

    what: str
    event: Event
    alone: float
    adds: float


def breakdown(events: Mapping[str, Event], delta: float, accountant: str = "rdp") -> tuple[Part, ...]:
    """Return every part of one client's releases with the ε that it spends alone and that it adds.

    Parameters
    ----------
    events
        The releases of all rounds by what they are of.
    delta, accountant
        As in :func:`fedtoll.privacy.accounting.epsilon`.

    Examples
    --------
    >>> parts = breakdown({"dp-sgd": Event(1.5, 0.1, 500), "mean_loss": Event(20.0, 1.0, 50)}, 1e-5)
    >>> [(p.what, round(p.alone, 2), round(p.adds, 2)) for p in parts]
    [('dp-sgd', 9.09, 7.83), ('mean_loss', 1.48, 0.21)]
    """
    whole = epsilon(tuple(events.values()), delta, accountant)
    made = []
    for what, event in events.items():
        rest = epsilon(tuple(e for name, e in events.items() if name != what), delta, accountant)
        adds = whole - rest if math.isfinite(whole) else math.nan
        made.append(Part(what, event, epsilon([event], delta, accountant), adds))
    return tuple(made)


Spending = dict[str, Any]
"""What :func:`spending` returns: plain values, ready for JSON but for infinities."""


def spending(
    events: Mapping[str, Event], delta: float, accountant: str, target: float | None = None
) -> Spending:
    """Return what releases spend: each part alone and added, the whole, and what is left of ``target``.

    Returns
    -------
    dict
        ``parts`` (each ``what, releases, sampling_rate, noise_multiplier, alone, adds``), ``spent``,
        ``delta``, ``accountant``; with a target also ``epsilon`` and ``left``.
    """
    spent = epsilon(tuple(events.values()), delta, accountant)
    made: Spending = {
        "delta": delta,
        "accountant": accountant,
        "parts": [
            {
                "what": part.what,
                "releases": part.event.count,
                "sampling_rate": part.event.sampling_rate,
                "noise_multiplier": part.event.noise_multiplier,
                "alone": part.alone,
                "adds": part.adds,
            }
            for part in breakdown(events, delta, accountant)
        ],
        "spent": spent,
    }
    return made if target is None else {**made, "epsilon": target, "left": target - spent}


def events_of(run: Run, client: ClientPlan, sigma: float | None = None) -> dict[str, Event]:
    """Return everything that a client of a run releases in all its rounds, by what it is of."""
    noise = client.noise_multiplier if sigma is None else sigma
    events = {DP_SGD: Event(noise, client.sampling_rate, client.steps * run.rounds)}
    for s in run.statistics:
        events[s.name] = Event(s.noise_multiplier, 1.0, s.releases(run.rounds))
    return events
