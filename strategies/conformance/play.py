"""Run a strategy through a cohort's rounds, as the engine does, and detect changes to its inputs."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.foreign import contained
from fedtoll.strategies.base import State, Strategy, weights_and_state
from fedtoll.strategies.conformance.cohorts import Cohort, Round


@dataclass(frozen=True)
class Step:
    """What a strategy returned in one round, unchecked.

    Parameters
    ----------
    instructions, weights, model, coefficients, output, state
        What the strategy's methods returned.
    changed
        The inputs that the strategy changed.
    """

    instructions: Any
    weights: Any
    model: Any
    coefficients: Any
    output: Any
    state: Any
    changed: tuple[str, ...]

    @property
    def visible(self) -> tuple[Any, ...]:
        """Everything that the engine uses, except the state."""
        return self.instructions, self.weights, self.model, self.coefficients, self.output


@dataclass(frozen=True)
class Play:
    """A cohort and what a strategy did in each of its rounds."""

    cohort: Cohort
    start: State
    steps: tuple[Step, ...]

    def before(self, index: int) -> State:
        """Return the state at the start of a round, counted from 0."""
        return self.steps[index - 1].state if index else self.start


@contained()
def step(strategy: Strategy, number: int, inputs: Round, state: State) -> Step:
    """Run one round on a copy of the state; ``number`` counts from 1. Pass a copy of the inputs."""
    state = copy.deepcopy(state)
    before = freeze((inputs.reports, inputs.params, state))
    instructions = strategy.instructions(number, state)
    weights, weighed = weights_and_state(strategy.weigh(inputs.reports, state))
    between = freeze(weights), freeze(weighed)
    returned = copy.deepcopy(weights)
    model, combined, coefficients = strategy.combine(inputs.params, inputs.reports, weights, weighed)
    after = freeze(model), freeze(combined)
    output = strategy.output(model, combined)
    names = (
        "the reports",
        "the parameters",
        "the state",
        "its weights",
        "its state",
        "its model",
        "its state",
    )
    now = (
        *freeze((inputs.reports, inputs.params, state)),
        freeze(weights),
        freeze(weighed),
        freeze(model),
        freeze(combined),
    )
    then = (*before, *between, *after)
    changed = tuple(dict.fromkeys(n for n, a, b in zip(names, then, now, strict=True) if a != b))
    return Step(instructions, returned, model, coefficients, output, combined, changed)


@contained()
def play(
    strategy: Strategy, cohort: Cohort, *, strict: bool = False, undeclared: list[str] | None = None
) -> Play:
    """Run all rounds from the initial state. Each round starts from its own model, not the previous one's."""
    state = start = strategy.init(cohort.members)
    steps = []
    for number, inputs in enumerate(cohort.rounds, start=1):
        steps.append(step(strategy, number, inputs.copy(strict=strict, undeclared=undeclared), state))
        state = steps[-1].state
    return Play(cohort, start, tuple(steps))


def freeze(value: Any) -> Any:
    """Return a key for comparing values with ``==``: equal only if the values are equal bit by bit."""
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        return array.dtype.str, array.shape, array.tobytes()
    if isinstance(value, dict):
        return tuple((freeze(k), freeze(v)) for k, v in sorted(value.items(), key=lambda item: repr(item[0])))
    if isinstance(value, list | tuple):
        return tuple(freeze(v) for v in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, *(freeze(getattr(value, f.name)) for f in fields(value))
    return repr(value) if isinstance(value, bool | int | float | str | None) else type(value).__name__


def round_trip(state: Any) -> State:
    """Return a state after ``numpy.savez`` and ``numpy.load(allow_pickle=False)``.

    Raises
    ------
    TypeError
        If the state is not a dict of plain arrays, numbers and strings by name. One line.

    Examples
    --------
    >>> round_trip({"m": np.array([1.0]), "round": 2, "name": "x"})
    {'m': array([1.]), 'round': 2, 'name': 'x'}
    """
    if not isinstance(state, dict):
        raise TypeError(f"state is a {type(state).__name__} instead of a dict")
    for name, value in state.items():
        if not isinstance(name, str):
            raise TypeError(f"state has the key {name!r}, which is not a string")
        plain = isinstance(value, np.ndarray | np.generic | bool | int | float | str)
        if not plain or np.asarray(value).dtype.hasobject:
            kind = type(value).__name__
            raise TypeError(f"state[{name!r}] is a {kind}, not a plain array, number or string")
    np.savez(file := io.BytesIO(), *state.values())  # under the names arr_0, arr_1, ...
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return {name: _like(value, loaded[f"arr_{i}"]) for i, (name, value) in enumerate(state.items())}


def _like(value: Any, loaded: NDArray[Any]) -> Any:
    """Return a loaded value in the type it was saved from: an array, a numpy scalar or a plain one."""
    if isinstance(value, np.ndarray):
        return loaded
    return loaded[()] if isinstance(value, np.generic) else loaded.item()
