"""The conformance kit: check that a strategy behaves as the engine and its results require.

``fedtoll check-strategy X`` prints what ``conform`` returns. In your own tests:

    from fedtoll.strategies.conformance import assert_conforms

    def test_mine():
        assert_conforms(Mine(a=2.0))

The kit runs a strategy for three rounds on each of many synthetic cohorts: few and many clients,
one-group and mixed, with exact and noisy statistics. The strategy passes or fails each property. What
happens to a NaN, what a lying client gains and how long a round takes are reported but not judged.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedtoll.scenarios.foreign import contained
from fedtoll.scenarios.statistics import Estimate
from fedtoll.scenarios.verdicts import Verdict, assert_none_failed, judge, raised
from fedtoll.strategies.base import Strategy
from fedtoll.strategies.conformance import properties
from fedtoll.strategies.conformance.cohorts import Answers, Cohort, Round, all_kinds, cohort
from fedtoll.strategies.conformance.play import Play, play
from fedtoll.strategies.conformance.properties import INSTRUCTIONS, Complaints, Kit

__all__ = ["INSTRUCTIONS", "PROPERTIES", "Verdict", "assert_conforms", "conform"]

STATISTICS, ROUNDS = "statistics are known", "rounds run"
WEIGHTS, PURE = "weights on the simplex", "same inputs, same outputs"

PROPERTIES: dict[str, Callable[[Kit], Complaints]] = {
    WEIGHTS: properties.weights,
    "model keeps its form": properties.model,
    "inputs unchanged": properties.inputs,
    PURE: properties.pure,
    "order irrelevant": properties.order,
    "one client": properties.one_client,
    "zero update": properties.zero_update,
    "a missing client": properties.missing,
    "state round-trips": properties.state,
    "undeclared untouched": properties.undeclared,
    "instructions known": properties.instructions,
    "parameters checked": properties.parameters,
}
"""The properties that are judged after all rounds have run, by name."""

_NEEDS = {"order irrelevant": PURE, "state round-trips": PURE, "a missing client": WEIGHTS}
"""Properties that can be judged only if another property holds."""


def conform(strategy: Strategy, *, seed: int = 0) -> list[Verdict]:
    """Judge a strategy by every property.

    Parameters
    ----------
    strategy
        An instance, with the parameters to check it with.
    seed
        Seed of the synthetic cohorts.

    Returns
    -------
    list
        One verdict per property. The list ends early if the strategy requests an unknown statistic or
        raises in an ordinary round.

    Examples
    --------
    >>> from fedtoll.strategies.fedavg import FedAvg
    >>> [v.property for v in conform(FedAvg()) if v.outcome == "failed"]
    []
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        verdicts, plays = list[Verdict](), list[Play]()
        verdicts.append(judge(STATISTICS, properties.statistics, strategy))
        if verdicts[-1].outcome != "failed":
            verdicts.append(judge(ROUNDS, _rounds, strategy, seed, plays))
        if verdicts[-1].outcome == "failed":
            return verdicts
        kit = Kit(strategy, tuple(plays), seed)
        failed: set[str] = set()
        for name, property_ in PROPERTIES.items():
            if (need := _NEEDS.get(name)) in failed:
                verdict = Verdict(name, "shown", f"not judged, because it fails {need!r}")
            else:
                verdict = judge(name, property_, kit)
            verdicts.append(verdict)
            failed |= {name} if verdict.outcome == "failed" else set()
        return [*verdicts, _nan(kit), _lying(strategy, seed), _speed(strategy, seed)]


def assert_conforms(strategy: Strategy, *, seed: int = 0) -> None:
    """Raise an AssertionError that lists every property the strategy fails."""
    assert_none_failed(strategy, conform(strategy, seed=seed))


def _rounds(strategy: Strategy, seed: int, plays: list[Play]) -> Complaints:
    """No round of any cohort raises."""
    for synthetic in all_kinds(strategy.requests, seed):
        try:
            plays.append(play(strategy, synthetic))
        except (Exception, SystemExit) as error:
            yield f"{synthetic.title}: raises {raised(error)}"


def _nan(kit: Kit) -> Verdict:
    """Report whether a NaN would disappear in finite weights and a finite model.

    The engine rejects such replies, so a strategy never receives one.
    """
    hidden = sorted(set(properties.nan(kit)))
    message = (
        f"in {' or '.join(hidden)} would go unnoticed" if hidden else "would show in the weights or the model"
    )
    return Verdict("a NaN", "shown", f"{message}; the engine rejects replies that contain one")


def _lying(strategy: Strategy, seed: int) -> Verdict:
    """Report what a client gains by sending ten times its true statistics."""
    name = "a lying client"
    if not strategy.requests:
        return Verdict(name, "shown", "sends no statistics, so it can lie only in its update")
    honest = cohort(strategy.requests, seed=seed, clients=10, mixed=True, noise=1.0)
    middle = int(np.argsort([m.size for m in honest.members])[5])
    lied = replace(honest, rounds=tuple(_ten_times(r, middle) for r in honest.rounds))
    try:
        before, after = (play(strategy, each).steps[-1] for each in (honest, lied))
        message = (
            f"that reports ten times its {' and '.join(s.name for s in strategy.requests)} for 3 rounds "
            f"has {after.weights[middle]:.2f} of the weight; honest {before.weights[middle]:.2f}"
        )
        for instruction, value in before.instructions.items():
            if np.any(change := np.abs(np.asarray(after.instructions[instruction]) - np.asarray(value))):
                message += f"; {instruction} changes by up to {change.max():.2f}"
    except (Exception, SystemExit) as error:
        message = f"makes it raise {raised(error)}"
    return Verdict(name, "shown", " ".join(message.split()))


def _ten_times(honest: Round, k: int) -> Round:
    lies = {name: Estimate(10 * e.value, e.sd) for name, e in honest.reports[k].statistics.items()}
    return replace(honest, reports=properties.replaced(honest, k, statistics=Answers(lies)))


def _speed(strategy: Strategy, seed: int) -> Verdict:
    """Report how long a round takes."""
    large = cohort(
        strategy.requests, seed=seed, clients=20, mixed=True, noise=1.0, rounds=1, shapes=[(100, 100)]
    )
    try:
        with contained():
            message = f"{1000 * min(_seconds(strategy, large) for _ in range(3)):.2f}"
    except (Exception, SystemExit) as error:
        message = f"raises {raised(error)}"
    message += " for 20 clients of 10,000 parameters"
    return Verdict("milliseconds a round", "shown", message)


def _seconds(strategy: Strategy, synthetic: Cohort) -> float:
    params, reports = synthetic.rounds[0].params, synthetic.rounds[0].reports
    state = strategy.init(synthetic.members)
    start = time.perf_counter()
    weights, state = strategy.weigh(reports, state)
    strategy.combine(params, reports, weights, state)
    return time.perf_counter() - start
