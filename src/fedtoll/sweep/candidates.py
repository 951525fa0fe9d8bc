"""The candidates of ``[tune]``: which constants each strategy tries at each ε, and the runs that try them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedtoll.scenarios.budgets import mechanism_of
from fedtoll.scenarios.choice import seeds_of
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import Scenario, StrategySpec, Training
from fedtoll.scenarios.streams import Purpose, stream
from fedtoll.scenarios.tune import ALTERNATIVES, AXES, SECTIONS, Tune, in_force
from fedtoll.server.plan import Candidates, Plan, plan

Values = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Constants:
    """One combination of the values of ``[tune]``.

    Parameters
    ----------
    training
        Keys of ``[training]`` with their values, in the order of :data:`AXES`.
    strategy
        The strategy's parameters with their values, in the order of the file.
    client, personal
        Keys of these sections with their values, in the order of the file.
    """

    training: Values = ()
    strategy: Values = ()
    client: Values = ()
    personal: Values = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the constants by name; a strategy's parameters come after those of training.

        A parameter that is called like a key of ``[training]``, as TERM's ``clip``, is ``strategy_clip``.
        Keys of other sections come last, with their section.

        Examples
        --------
        >>> own = ("clip", 1.0), ("t", 5.0)
        >>> Constants((("clip", 2.0),), own, client=(("momentum", 0.9),)).to_dict()
        {'clip': 2.0, 'strategy_clip': 1.0, 't': 5.0, 'client.momentum': 0.9}
        """
        known = AXES.values()
        own = {f"strategy_{name}" if name in known else name: value for name, value in self.strategy}
        others = {f"{s}.{name}": value for s in SECTIONS for name, value in getattr(self, s)}
        return {**dict(self.training), **own, **others}


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
        One run for each seed of ``[tune]``, in that order. None if nothing is tried: the number of candidates
        was drawn, and is 0.
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
    if tune.distribution is not None:
        return [
            candidate
            for spec in planned.scenario.strategies
            for epsilon in epsilons
            for candidate in _drawn(planned, tune, spec, epsilon)
        ]
    tried = {epsilon: constants_at(planned.scenario, tune, epsilon) for epsilon in epsilons}
    return [
        Candidate(spec.label, epsilon, c, with_constants(planned, spec.label, epsilon, c, tune.seeds))
        for spec in planned.scenario.strategies
        for epsilon in epsilons
        for c in tried[epsilon][spec.label]
    ]


def _drawn(planned: Plan, tune: Tune, spec: StrategySpec, epsilon: float | str) -> list[Candidate]:
    """Return a random number of candidates, each drawn uniformly from the grid.

    At ε = ∞ nothing is charged, so the candidates are those of :func:`constants_at`. The number is the same
    for every strategy. Each draw has seeds of its own, because the price of the choice
    holds for independent trainings, even of one candidate that is drawn twice.
    """
    if mechanism_of(epsilon) != "dp-sgd":
        return [
            Candidate(spec.label, epsilon, c, with_constants(planned, spec.label, epsilon, c, tune.seeds))
            for c in constants_at(planned.scenario, tune, epsilon)[spec.label]
        ]
    combinations = grid(tune, spec, epsilon)
    assert tune.distribution is not None
    rng = stream(tune.seeds[0], Purpose.CHOICE, planned.scenario.privacy.epsilons.index(epsilon))
    count = tune.distribution.draw(rng)
    if count == 0:  # the constants must then not depend on any record
        return [Candidate(spec.label, epsilon, combinations[0], ())]
    picks = rng.integers(len(combinations), size=count)
    return [
        Candidate(
            spec.label,
            epsilon,
            combinations[pick],
            with_constants(planned, spec.label, epsilon, combinations[pick], seeds_of(tune.seeds, draw)),
        )
        for draw, pick in enumerate(picks)
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

    Constants of ``[training]`` come first, then those of ``[client]``, ``[personal]`` and the strategy.

    Examples
    --------
    >>> spec, tune = StrategySpec(name="term"), Tune(learning_rates=(0.5, 2.0), clips=(1.0, 3.0))
    >>> [list(c.to_dict().values()) for c in grid(tune, spec, 1.0)]
    [[0.5, 1.0], [0.5, 3.0], [2.0, 1.0], [2.0, 3.0]]
    >>> [c.to_dict() for c in grid(tune, spec, float("inf"))]
    [{'learning_rate': 0.5}, {'learning_rate': 2.0}]
    """
    lists = {("training", key): getattr(tune, name) for name, key in AXES.items() if getattr(tune, name)}
    lists |= {(name, key): values for name in SECTIONS for key, values in getattr(tune, name).items()}
    lists = {(name, key): values for (name, key), values in lists.items() if in_force(name, key, epsilon)}
    lists |= {("strategy", key): values for key, values in tune.parameters(spec.label, spec.name).items()}
    return [
        Constants(
            **{
                part: tuple((key, v) for (name, key), v in zip(lists, values, strict=True) if name == part)
                for part in ("training", "strategy", *SECTIONS)
            }
        )
        for values in itertools.product(*lists.values())
    ]


def _sample(combinations: Sequence[Constants], count: int) -> list[Constants]:
    if count == len(combinations):
        return list(combinations)
    rest = np.random.default_rng(0).permutation(len(combinations) - 1)[: count - 1] + 1
    return [combinations[i] for i in (0, *sorted(rest))]


def budgeted(planned: Plan) -> tuple[Run, ...]:
    """Return runs that show what clients spend: the recipe's or, if a choice is charged, a candidate's."""
    scenario = planned.scenario
    tune = scenario.tune
    if tune is None or tune.distribution is None:
        return planned.runs
    return tuple(
        run
        for spec in scenario.strategies
        for epsilon in scenario.privacy.epsilons
        for run in with_constants(
            planned, spec.label, epsilon, grid(tune, spec, epsilon)[0], scenario.seeds[:1]
        )
    )


def with_constants(
    planned: Plan, label: str, epsilon: float | str, constants: Constants, seeds: Sequence[int]
) -> tuple[Run, ...]:
    """Return the runs of one strategy and ε with other constants and seeds, under the strategy's label.

    If the choice is charged, their noise pays for it.
    """
    scenario = planned.scenario
    (spec,) = (s for s in scenario.strategies if s.label == label)
    training, other = _sections(scenario, spec, constants)
    narrowed = scenario.model_copy(
        update={
            "seeds": tuple(seeds),
            "training": training,
            **other_sections(scenario, constants),
            "privacy": scenario.privacy.model_copy(update={"epsilons": (epsilon,)}),
            "strategies": (other,),
        }
    )
    where = f"{scenario.name}: [tune]"
    choice = _choice(scenario, spec, epsilon)
    found = plan(narrowed, where, separate=planned.separate, like=planned.federation, choice=choice).runs
    return tuple(run.changed(strategy=run.strategy.changed(name=label)) for run in found)


def _sections(scenario: Scenario, spec: StrategySpec, constants: Constants) -> tuple[Training, StrategySpec]:
    """Return ``[training]`` and the strategy with other constants."""
    training = scenario.training.model_dump()
    for key, value in constants.training:
        training[key] = value
        if (other := ALTERNATIVES.get(key)) is not None:
            training[other] = None
    parameters = {**spec.parameters, **dict(constants.strategy)}
    return Training(**training), StrategySpec(name=spec.name, **parameters)


def other_sections(scenario: Scenario, constants: Constants) -> dict[str, Any]:
    """Return ``[client]`` and ``[personal]`` with other constants, if these have any."""
    tried = {name: dict(getattr(constants, name)) for name in SECTIONS}
    return {name: getattr(scenario, name).changed(**values) for name, values in tried.items() if values}


def _choice(scenario: Scenario, spec: StrategySpec, epsilon: float | str) -> Candidates | None:
    """Return the grid whose choice the noise pays for; ``None`` if the choice is not charged."""
    tune = scenario.tune
    if tune is None or tune.distribution is None or mechanism_of(epsilon) != "dp-sgd":
        return None
    sections = tuple(_sections(scenario, spec, constants) for constants in grid(tune, spec, epsilon))
    return Candidates(tune.distribution, len(tune.seeds), sections)
