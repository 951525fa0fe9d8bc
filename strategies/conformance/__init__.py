"""The conformance kit: whether the engine, and those who read its results, can rely on a strategy.

``fedtoll check-strategy X`` prints what ``conform`` finds. In a test of your own:

    from fedtoll.strategies.conformance import assert_conforms

    def test_mine():
        assert_conforms(Mine(a=2.0))

A strategy is shown synthetic cohorts of every kind (few and many clients, one-group and mixed, exact
and noisy answers) and is driven through three rounds of each. It passes or fails every property; what
becomes of a NaN, what a lying client gains and how long a round takes are shown, not judged.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from fedtoll.scenarios.statistics import Estimate
from fedtoll.strategies.base import Strategy
from fedtoll.strategies.conformance import properties
from fedtoll.strategies.conformance.cohorts import Answers, Cohort, Round, cohort, many
from fedtoll.strategies.conformance.play import Play, play
from fedtoll.strategies.conformance.properties import WORDS, Complaints, Kit

__all__ = ["PROPERTIES", "WORDS", "Verdict", "assert_conforms", "conform"]

Outcome = Literal["passed", "failed", "shown"]


@dataclass(frozen=True)
class Verdict:
    """What the kit says about one property.

    Parameters
    ----------
    property
        Its name.
    outcome
        ``"passed"``, ``"failed"``, or ``"shown"`` where nothing is judged.
    words
        One line: what the property demands, the first thing that is wrong, or what was measured.
    """

    property: str
    outcome: Outcome
    words: str


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
"""Every property that is judged once all rounds run, by name."""

_NEEDS = {"order irrelevant": PURE, "state round-trips": PURE, "a missing client": WEIGHTS}
"""Properties that say nothing of a strategy that fails another one."""


def conform(strategy: Strategy, *, seed: int = 0) -> list[Verdict]:
    """Judge a strategy by every property.

    Parameters
    ----------
    strategy
        An instance, with the parameters that it will have.
    seed
        Of the synthetic cohorts.

    Returns
    -------
    list
        One verdict a property. A strategy that asks for what nobody answers, or raises in an ordinary
        round, gets no further than that.

    Examples
    --------
    >>> from fedtoll.strategies.fedavg import FedAvg
    >>> [v.property for v in conform(FedAvg()) if v.outcome == "failed"]
    []
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        verdicts, plays = [], list[Play]()
        for name, complain, property_ in (
            (STATISTICS, partial(properties.statistics, strategy), properties.statistics),
            (ROUNDS, partial(_rounds, strategy, seed, plays), _rounds),
        ):
            verdicts.append(verdict := _judge(name, complain, property_))
            if verdict.outcome == "failed":
                return verdicts
        kit = Kit(strategy, tuple(plays), seed)
        failed: set[str] = set()
        for name, judged in PROPERTIES.items():
            if (need := _NEEDS.get(name)) in failed:
                verdict = Verdict(name, "shown", f"not judged, for it fails {need!r}")
            else:
                verdict = _judge(name, partial(judged, kit), judged)
            verdicts.append(verdict)
            failed |= {name} if verdict.outcome == "failed" else set()
        return [*verdicts, _nan(kit), _lying(strategy, seed), _speed(strategy, seed)]


def assert_conforms(strategy: Strategy, *, seed: int = 0) -> None:
    """Raise an AssertionError that lists every property that the strategy fails."""
    failed = [v for v in conform(strategy, seed=seed) if v.outcome == "failed"]
    if failed:
        lines = "\n".join(f"  {v.property}: {v.words}" for v in failed)
        raise AssertionError(f"{strategy!r} fails\n{lines}")


def _judge(name: str, complain: Callable[[], Complaints], property_: Callable[..., Complaints]) -> Verdict:
    try:
        complaint = next(complain(), "")
    except Exception as error:
        complaint = f"raises {_line(error)}"
    if complaint:
        return Verdict(name, "failed", " ".join(complaint.split()))
    return Verdict(name, "passed", (property_.__doc__ or "").split("\n")[0].removesuffix("."))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _rounds(strategy: Strategy, seed: int, plays: list[Play]) -> Complaints:
    """No round of any cohort raises."""
    for each in many(strategy.requests, seed):
        try:
            plays.append(play(strategy, each))
        except Exception as error:
            yield f"{each.title}: raises {_line(error)}"


def _nan(kit: Kit) -> Verdict:
    """Show whether a NaN would become a finite model or weights unseen (the engine lets none arrive)."""
    unseen = sorted(set(properties.nan(kit)))
    words = (
        f"in {' or '.join(unseen)} would go unseen" if unseen else "would be seen in the weights or the model"
    )
    return Verdict("a NaN", "shown", f"{words}; the engine refuses a reply that has one")


def _lying(strategy: Strategy, seed: int) -> Verdict:
    """Show what a client gains that answers ten times the truth."""
    name = "a lying client"
    if not strategy.requests:
        return Verdict(name, "shown", "is asked for nothing, so it can lie in its update only")
    honest = cohort(strategy.requests, seed=seed, clients=10, mixed=True, noise=1.0)
    middle = int(np.argsort([m.size for m in honest.members])[5])
    lied = replace(honest, rounds=tuple(_ten_times(r, middle) for r in honest.rounds))
    try:
        before, after = (play(strategy, of).steps[-1] for of in (honest, lied))
        words = (
            f"that answers ten times its {' and '.join(s.name for s in strategy.requests)} for 3 rounds "
            f"has {after.weights[middle]:.2f} of the weight; honest {before.weights[middle]:.2f}"
        )
        for word, value in before.told.items():
            if np.any(moved := np.abs(np.asarray(after.told[word]) - np.asarray(value))):
                words += f"; {word} moves by up to {moved.max():.2f}"
    except Exception as error:
        words = f"makes it raise {_line(error)}"
    return Verdict(name, "shown", " ".join(words.split()))


def _ten_times(given: Round, k: int) -> Round:
    told = {name: Estimate(10 * e.value, e.sd) for name, e in given.reports[k].statistics.items()}
    return replace(given, reports=properties.replaced(given, k, statistics=Answers(told)))


def _speed(strategy: Strategy, seed: int) -> Verdict:
    """Show how long a round takes."""
    large = cohort(
        strategy.requests, seed=seed, clients=20, mixed=True, noise=1.0, rounds=1, shapes=[(100, 100)]
    )
    try:
        words = f"{1000 * min(_seconds(strategy, large) for _ in range(3)):.2f}"
    except Exception as error:
        words = f"raises {_line(error)}"
    words += " for 20 clients of 10,000 parameters"
    return Verdict("milliseconds a round", "shown", words)


def _seconds(strategy: Strategy, of: Cohort) -> float:
    params, reports = of.rounds[0].params, of.rounds[0].reports
    state = strategy.init(of.members)
    began = time.perf_counter()
    weights, state = strategy.weigh(reports, state)
    strategy.combine(params, reports, weights, state)
    return time.perf_counter() - began
