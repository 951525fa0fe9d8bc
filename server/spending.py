"""How a scenario's runs would spend their ε: by client, training and each statistic apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedtoll.clients.breakdown import breakdown
from fedtoll.clients.budget import Event, epsilon
from fedtoll.clients.ledger import DP_SGD
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.run import ClientPlan, Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.plan import plan

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


def of_scenario(scenario: Scenario, file: str, sigma: float | None = None) -> list[Spending]:
    """Return what the clients of every strategy and finite ε would spend; clients that spend alike together.

    Parameters
    ----------
    scenario, file
        What to account for, and how mistakes call it.
    sigma
        A noise multiplier for every client's training in place of the calibrated one.

    Returns
    -------
    list
        As :func:`spending` returns, and ``strategy``, ``clients`` (ids), ``groups``, ``public_sizes``.

    Raises
    ------
    ScenarioError
        When the scenario has no finite ε.
    """
    finite = tuple(e for e in scenario.privacy.epsilons if isinstance(e, float) and math.isfinite(e))
    if not finite:
        raise ScenarioError(f"{file}: privacy.epsilons: no finite ε to account for; give one with --epsilon")
    privacy = scenario.privacy.model_copy(update={"epsilons": finite})
    narrowed = scenario.model_copy(update={"privacy": privacy, "seeds": scenario.seeds[:1]})
    made = []
    for run in plan(narrowed, file).runs:
        alike: dict[tuple[float, int, float], list[ClientPlan]] = {}
        for client in run.clients:
            key = (client.sampling_rate, client.steps, client.noise_multiplier)
            alike.setdefault(key, []).append(client)
        made += [_of_clients(run, clients, sigma) for clients in alike.values()]
    return made


def _of_clients(run: Run, clients: Sequence[ClientPlan], sigma: float | None) -> Spending:
    events = of_client(run, clients[0], sigma)
    return {
        "strategy": run.strategy.name,
        "clients": [c.id for c in clients],
        "groups": sorted({c.group for c in clients if c.group}),
        "public_sizes": [c.size for c in clients],
        **spending(events, run.delta or math.nan, run.accountant or "rdp", run.epsilon),
    }


def of_client(run: Run, client: ClientPlan, sigma: float | None = None) -> dict[str, Event]:
    """Return everything that a client of a run releases in all its rounds, by what it is of."""
    noise = client.noise_multiplier if sigma is None else sigma
    events = {DP_SGD: Event(noise, client.sampling_rate, client.steps * run.rounds)}
    for s in run.statistics:
        events[s.name] = Event(s.noise_multiplier, 1.0, s.releases(run.rounds))
    return events
