"""The candidates of ``[tune]``: which constants each strategy tries at each ε, and the runs that try them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Scenario, StrategySpec
from fedtoll.scenarios.tune import AXES, Tune
from fedtoll.server.plan import Plan, plan

ALTERNATIVES = {"sampling_rate": "batch_size", "local_steps": "local_epochs"}
"""Keys of ``[training]`` that state the same thing: exactly one of each pair is given."""
ALTERNATIVES |= {b: a for a, b in ALTERNATIVES.items()}


@dataclass(frozen=True)
class Constants:
    """One combination of the values of ``[tune]``.

    Parameters
    ----------
    training
        Keys of ``[training]`` with their values, in the order of :data:`AXES`.
    strategy
        The strategy's parameters with their values, in the order of the file.
    """

    training: tuple[tuple[str, Any], ...] = ()
    strategy: tuple[tuple[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the constants by name; a strategy's parameters come after those of training."""
        return {**dict(self.training), **dict(self.strategy)}


@dataclass(frozen=True)
class Candidate:
    """The constants that one strategy tries at one ε, and the runs that try them.

    Parameters
    ----------
    strategy
        The strategy's label.
    epsilon
        The privacy budget, as the scenario states it.
    constants
        What is tried.
    runs
        One run for each seed of ``[tune]``, in that order.
    """

    strategy: str
    epsilon: float | str
    constants: Constants
    runs: tuple[Run, ...]


def candidates(planned: Plan, tune: Tune) -> list[Candidate]:
    """Return the candidates of every strategy and ε, in the order of the scenario.

    Parameters
    ----------
    planned
        The scenario before tuning.
    tune
        Its section ``[tune]``.

    Raises
    ------
    ScenarioError
        In one line, if a value is not valid for the strategy or the data.
    """
    epsilons = planned.scenario.privacy.epsilons
    tried = {epsilon: constants_at(planned.scenario, tune, epsilon) for epsilon in epsilons}
    return [
        Candidate(spec.label, epsilon, c, with_constants(planned, spec.label, epsilon, c, tune.seeds))
        for spec in planned.scenario.strategies
        for epsilon in epsilons
        for c in tried[epsilon][spec.label]
    ]


def constants_at(scenario: Scenario, tune: Tune, epsilon: float | str) -> dict[str, list[Constants]]:
    """Return the constants that each strategy, by its label, tries at one ε: the same number for each.

    A strategy with more combinations than it may try takes a sample, drawn without replacement. The first
    combination, of the first value of every list, is always in it.
    """
    grids = {spec.label: grid(tune, spec, epsilon) for spec in scenario.strategies}
    count = min(len(combinations) for combinations in grids.values())
    count = min(count, tune.candidates or count)
    return {label: _sample(combinations, count) for label, combinations in grids.items()}


def grid(tune: Tune, spec: StrategySpec, epsilon: float | str) -> list[Constants]:
    """Return every combination for one strategy and ε, in the order of the file; ε = ∞ has no clip.

    Examples
    --------
    >>> spec, tune = StrategySpec(name="term"), Tune(learning_rates=(0.5, 2.0), clips=(1.0, 3.0))
    >>> [list(c.to_dict().values()) for c in grid(tune, spec, 1.0)]
    [[0.5, 1.0], [0.5, 3.0], [2.0, 1.0], [2.0, 3.0]]
    >>> [c.to_dict() for c in grid(tune, spec, math.inf)]
    [{'learning_rate': 0.5}, {'learning_rate': 2.0}]
    """
    training = {key: getattr(tune, name) for name, key in AXES.items() if getattr(tune, name)}
    if epsilon == math.inf:
        training.pop("clip", None)
    parameters = tune.parameters(spec.label, spec.name)
    return [
        Constants(
            tuple(zip(training, values[: len(training)], strict=True)),
            tuple(zip(parameters, values[len(training) :], strict=True)),
        )
        for values in itertools.product(*training.values(), *parameters.values())
    ]


def _sample(combinations: Sequence[Constants], count: int) -> list[Constants]:
    if count == len(combinations):
        return list(combinations)
    rest = np.random.default_rng(0).permutation(len(combinations) - 1)[: count - 1] + 1
    return [combinations[i] for i in (0, *sorted(rest))]


def with_constants(
    planned: Plan, label: str, epsilon: float | str, constants: Constants, seeds: Sequence[int]
) -> tuple[Run, ...]:
    """Return the runs of one strategy and ε with other constants and seeds, under the strategy's label."""
    scenario = planned.scenario
    (spec,) = (s for s in scenario.strategies if s.label == label)
    training = scenario.training.model_dump()
    for key, value in constants.training:
        training[key] = value
        if (other := ALTERNATIVES.get(key)) is not None:
            training[other] = None
    parameters = {**spec.parameters, **dict(constants.strategy)}
    narrowed = scenario.model_copy(
        update={
            "seeds": tuple(seeds),
            "training": type(scenario.training)(**training),
            "privacy": scenario.privacy.model_copy(update={"epsilons": (epsilon,)}),
            "strategies": (StrategySpec(name=spec.name, **parameters),),
        }
    )
    found = plan(
        narrowed, f"{scenario.name}: [tune]", separate=planned.separate, like=planned.federation
    ).runs
    return tuple(
        run.model_copy(update={"strategy": run.strategy.model_copy(update={"name": label})}) for run in found
    )
