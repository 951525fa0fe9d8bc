"""The public constants of every client: q, B and T from its declared size, and noise that spends its ε."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedtoll.privacy import accounting, selection
from fedtoll.privacy.accounting import Event
from fedtoll.scenarios import partition
from fedtoll.scenarios.by_client import by_client
from fedtoll.scenarios.choice import Choice, Distribution, Tried
from fedtoll.scenarios.client_unit import SHARE, joint_multiplier
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.participation import Attendance
from fedtoll.scenarios.run import ClientPlan, StatisticPlan
from fedtoll.scenarios.scenario import Scenario, Training

Requests = Sequence[tuple[str, Mapping[str, float]]]
"""The name and parameters of each statistic that a strategy requests."""


def constants(
    scenario: Scenario, clients: Sequence[partition.Client], requested: Requests, epsilon: float
) -> tuple[tuple[StatisticPlan, ...], tuple[ClientPlan, ...]]:
    """Return the statistics, and every client with the noise at which it spends its ε in total.

    That is ``epsilon`` times the client's factor. Statistics have the same noise for all clients, so that
    ``statistics.budget_share`` is a share of the least of their ε.
    """
    factors, rounds = factors_of(scenario, clients, epsilon), scenario.training.rounds
    statistics = statistics_of(scenario, rounds, requested, epsilon * min(factors))
    turns, joined = turns_of(scenario, clients, rounds), joined_of(scenario, clients, rounds)
    alike: dict[tuple[int, float, int | None, int], ClientPlan] = {}  # of many thousands, few differ
    planned = []
    for client, factor, turn, join in zip(clients, factors, turns, joined, strict=True):
        key = (client.size, factor, turn, join)
        if key not in alike:
            alike[key] = client_of(scenario, client, epsilon * factor, statistics, factor, turn, join)
        planned.append(alike[key].model_copy(update={"id": client.id, "group": client.group}))
    return statistics, tuple(planned)


def factors_of(scenario: Scenario, clients: Sequence[partition.Client], epsilon: float) -> list[float]:
    """Return the share of ε that each client may spend; 1 for all without a finite ε."""
    stated = scenario.privacy.epsilon_factor if epsilon < math.inf else {}
    return by_client("privacy.epsilon_factor", stated, clients)


def statistics_of(
    scenario: Scenario, rounds: int, requested: Requests, epsilon: float
) -> tuple[StatisticPlan, ...]:
    """Plan the requested statistics, all with the same noise multiplier z.

    Where a client is the unit, those of a round are one release, from the same sample of clients.
    """
    options, by_client = scenario.statistics, scenario.privacy.unit == "client"
    z, share, releases = 0.0, options.budget_share, -(-rounds // options.every)
    if by_client and options.noise_multiplier is None:
        share = share or SHARE
    if epsilon < math.inf and requested:
        z = options.noise_multiplier or 100.0
        if share is not None:
            z = accounting.calibrate(
                share * epsilon,
                sampling_rate=(by_client and scenario.participation.rate) or 1.0,
                count=releases if by_client else len(requested) * releases,
                delta=scenario.privacy.delta,
                accountant=scenario.privacy.accountant,
            )
            z *= math.sqrt(len(requested)) if by_client else 1
    return tuple(
        StatisticPlan(name=name, parameters=dict(parameters), noise_multiplier=z, every=options.every)
        for name, parameters in requested
    )


def turns_of(scenario: Scenario, clients: Sequence[partition.Client], rounds: int) -> Sequence[int | None]:
    """Return in how many of the rounds each client takes part; ``None`` if all do in all."""
    rule = scenario.participation
    if rule.kind in {"all", "poisson"}:  # all may take part in every round
        return [None] * len(clients)
    return Attendance.draw(rule, clients, rounds).counts()


def joined_of(scenario: Scenario, clients: Sequence[partition.Client], rounds: int) -> Sequence[int]:
    """Return in how many of its rounds each client releases statistics, where a client is the unit."""
    rule, every = scenario.participation, scenario.statistics.every
    if rule.kind in {"all", "poisson"} or scenario.privacy.unit == "record":
        return [-(-rounds // every)] * len(clients)
    found: list[int] = Attendance.draw(rule, clients, rounds).present_TK[::every].sum(axis=0).tolist()
    return found


def client_of(
    scenario: Scenario,
    client: partition.Client,
    epsilon: float,
    statistics: Sequence[StatisticPlan],
    factor: float = 1.0,
    turns: int | None = None,
    joined: int = 0,
) -> ClientPlan:
    """Plan one client's q, B, T and σ from its public size.

    Parameters
    ----------
    scenario, client, statistics
        The scenario, the client, and what it releases besides.
    epsilon, factor
        The client's own ε, and its share of the scenario's.
    turns
        In how many rounds it takes part, by default all. A client that never does has the noise of one
        round, which it never uses.
    joined
        In how many of them statistics are part of its release, where a client is the unit.
    """
    training = scenario.training
    rate, steps = _rate_and_steps(training, client)
    rounds = training.rounds if turns is None else max(1, turns)
    personal = scenario.personal
    all_steps = steps + (personal.extra_steps(steps) if personal else 0)
    noise = 0.0
    if epsilon < math.inf:
        charged_rate, count, together = rate, all_steps, None
        others = (*_events(statistics, rounds), *_after(scenario))
        if scenario.privacy.unit == "client":
            charged_rate, count, others = scenario.participation.rate or 1.0, 1, ()
            if statistics and joined:
                z = joint_multiplier(*(s.noise_multiplier for s in statistics))
                together = Event(z, charged_rate, joined)
        noise = accounting.calibrate(
            epsilon,
            sampling_rate=charged_rate,
            count=count * rounds,
            delta=scenario.privacy.delta,
            accountant=scenario.privacy.accountant,
            others=others,
            joined=together,
        )
    return ClientPlan(
        id=client.id,
        group=client.group,
        size=client.size,
        sampling_rate=rate,
        batch_size=rate * client.size,
        steps=steps,
        noise_multiplier=noise,
        epsilon_factor=factor,
        rounds=turns,
    )


def _rate_and_steps(training: Training, client: partition.Client) -> tuple[float, int]:
    """Return a client's q and T from its public size."""
    if training.sampling_rate is not None:
        rate = training.sampling_rate
    else:
        rate = min(1.0, (training.batch_size or 1) / client.size)
    return rate, training.local_steps or max(1, round((training.local_epochs or 1.0) / rate))


def _after(scenario: Scenario) -> tuple[Event, ...]:
    """Return what a client releases after the last round."""
    return (Event(scenario.calibration.noise_multiplier, 1.0, 1),) if scenario.calibration else ()


def _events(statistics: Sequence[StatisticPlan], rounds: int) -> tuple[Event, ...]:
    return tuple(Event(s.noise_multiplier, 1.0, s.releases(rounds)) for s in statistics)


def charged(
    scenario: Scenario,
    clients: Sequence[partition.Client],
    requested: Requests,
    epsilon: float,
    distribution: Distribution,
    trainings: int,
    grid: Sequence[tuple[Training, Requests]],
) -> tuple[tuple[StatisticPlan, ...], tuple[ClientPlan, ...], Choice]:
    """Return what :func:`constants` returns and the choice, with noise that also pays for the choice.

    All candidates of a client, the scenario's own constants among them, get the same, smaller ε.
    ``statistics.budget_share`` is a share of the least such ε of a client, found without statistics.

    Parameters
    ----------
    scenario, clients, requested, epsilon
        The scenario with the chosen constants, and the total ε of a client.
    distribution, trainings
        The distribution of the number of candidates, and the number of trainings of each.
    grid
        ``[training]`` and the requested statistics of every candidate.

    Raises
    ------
    ScenarioError
        If the accountant is not ``rdp``, several clients hold each record, or ε is too small.
    """
    _check(scenario)
    factors = factors_of(scenario, clients, epsilon)
    candidates = [(scenario.training, requested), *grid]

    turns = {n: turns_of(scenario, clients, n) for n in {training.rounds for training, _ in candidates}}

    def schedules(index: int, base: float | None) -> list[selection.Schedule]:
        """Return every candidate's schedule, the client's own first; without statistics if no base."""
        found = []
        for training, asked in candidates:
            rate, steps = _rate_and_steps(training, clients[index])
            own = turns[training.rounds][index]
            rounds = training.rounds if own is None else max(1, own)
            plans = () if base is None else statistics_of(scenario, training.rounds, asked, base)
            found.append((rate, steps * rounds, _merged(plans, rounds)))
        return found

    def budgets(base: float | None) -> list[float]:
        return [
            selection.base_budget(
                epsilon * factor,
                schedules(index, base),
                delta=scenario.privacy.delta,
                trainings=trainings,
                distribution=distribution,
            )
            for index, factor in enumerate(factors)
        ]

    shared = scenario.statistics.budget_share is not None and any(asked for _, asked in candidates)
    least = min(budgets(None)) if shared else epsilon * min(factors)
    statistics = statistics_of(scenario, scenario.training.rounds, requested, least)
    planned, others = [], []
    own_turns = turns[scenario.training.rounds]
    for index, (client, budget) in enumerate(zip(clients, budgets(least), strict=True)):
        planned.append(client_of(scenario, client, budget, statistics, factors[index], own_turns[index]))
        own, *rest = schedules(index, least)
        distinct = [schedule for schedule in dict.fromkeys(rest) if schedule != own]
        others.append(tuple(_tried(budget, schedule, scenario.privacy.delta) for schedule in distinct))
    alike = all(other == others[0] for other in others)
    listed = tuple(others[:1] if alike else others) if any(others) else ()
    choice = Choice(distribution=distribution, trainings=trainings, others=listed)
    return statistics, tuple(planned), choice


def _check(scenario: Scenario) -> None:
    """Raise unless the scenario's runs can pay for a choice."""
    if (accountant := scenario.privacy.accountant) != "rdp":
        raise ScenarioError(
            f"privacy.accountant = {accountant!r}: cannot charge a choice of constants; use 'rdp'"
        )
    if (copies := scenario.partition.copies) > 1:
        raise ScenarioError(
            f"partition.copies = {copies}: a choice of constants can be charged only with copies = 1"
        )


def _merged(statistics: Sequence[StatisticPlan], rounds: int) -> tuple[Event, ...]:
    """Return the releases of all statistics, which have one noise multiplier, as one event."""
    events = _events(statistics, rounds)
    return (Event(events[0].noise_multiplier, 1.0, sum(e.count for e in events)),) if events else ()


def _tried(base: float, schedule: selection.Schedule, delta: float) -> Tried:
    rate, count, statistics = schedule
    return Tried(
        sampling_rate=rate,
        noise_multiplier=selection.calibrated(base, schedule, delta),
        steps=count,
        statistic_noise_multiplier=statistics[0].noise_multiplier if statistics else 0.0,
        statistic_releases=statistics[0].count if statistics else 0,
    )
