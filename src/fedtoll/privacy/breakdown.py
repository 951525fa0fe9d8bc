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

from fedtoll.privacy.accounting import Event, epsilon
from fedtoll.privacy.ledger import DP_SGD
from fedtoll.scenarios.run import ClientPlan, Run


@dataclass(frozen=True)
class Part:
    """One part of a client's releases.

    Parameters
    ----------
    what
        ``dp-sgd`` or the name of a statistic.
    event
        The releases of this part.
    alone
        The ε of this part if nothing else were released.
    adds
        The total ε minus the ε without this part; undefined (NaN) if any release has no noise.
    """

    what: str
    event: Event
    alone: float
    adds: float


def breakdown(events: Mapping[str, Event], delta: float, accountant: str = "rdp") -> tuple[Part, ...]:
    """Return the parts of one client's releases, each with the ε it spends alone and the ε it adds.

    Parameters
    ----------
    events
        The releases of all rounds, keyed by ``dp-sgd`` or the name of the statistic.
    delta, accountant
        As in :func:`fedtoll.privacy.accounting.epsilon`.

    Examples
    --------
    >>> parts = breakdown({"dp-sgd": Event(1.5, 0.1, 500), "mean_loss": Event(20.0, 1.0, 50)}, 1e-5)
    >>> [(p.what, round(p.alone, 2), round(p.adds, 2)) for p in parts]
    [('dp-sgd', 9.09, 7.83), ('mean_loss', 1.48, 0.21)]
    """
    total = epsilon(tuple(events.values()), delta, accountant)
    parts = []
    for what, event in events.items():
        rest = epsilon(tuple(e for name, e in events.items() if name != what), delta, accountant)
        adds = total - rest if math.isfinite(total) else math.nan
        parts.append(Part(what, event, epsilon([event], delta, accountant), adds))
    return tuple(parts)


Spending = dict[str, Any]
"""The return type of :func:`spending`: plain values, ready for JSON except for infinities."""


def spending(
    events: Mapping[str, Event], delta: float, accountant: str, target: float | None = None
) -> Spending:
    """Return the ε that releases spend: of each part, in total, and what is left of ``target``.

    Returns
    -------
    dict
        ``parts`` (each ``what, releases, sampling_rate, noise_multiplier, alone, adds``), ``spent``,
        ``delta``, ``accountant``; with a target also ``epsilon`` and ``left``.
    """
    spent = epsilon(tuple(events.values()), delta, accountant)
    content: Spending = {
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
    return content if target is None else {**content, "epsilon": target, "left": target - spent}


def events_of(run: Run, client: ClientPlan, sigma: float | None = None) -> dict[str, Event]:
    """Return all that a client releases over all rounds, by part; ``sigma`` replaces its noise multiplier."""
    noise = client.noise_multiplier if sigma is None else sigma
    events = {DP_SGD: Event(noise, client.sampling_rate, client.steps * run.rounds)}
    for s in run.statistics:
        events[s.name] = Event(s.noise_multiplier, 1.0, s.releases(run.rounds))
    return events
