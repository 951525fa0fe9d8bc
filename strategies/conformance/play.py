"""A strategy driven through a cohort's rounds, as the engine does it, with every input watched."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.strategies.base import State, Strategy, pair
from fedtoll.strategies.conformance.cohorts import Cohort, Round


@dataclass(frozen=True)
class Step:
    """What a strategy did in one round: nothing here is checked yet.

    Parameters
    ----------
    told, weights, model, coefficients, output, state
        What its methods returned.
    changed
        The inputs that it changed.
    """

    told: Any
    weights: Any
    model: Any
    coefficients: Any
    output: Any
    state: Any
    changed: tuple[str, ...]

    @property
    def seen(self) -> tuple[Any, ...]:
        """All that the engine uses of it, the memory apart."""
        return self.told, self.weights, self.model, self.coefficients, self.output


@dataclass(frozen=True)
class Play:
    """A cohort and what a strategy did in each of its rounds."""

    cohort: Cohort
    start: State
    steps: tuple[Step, ...]

    def before(self, index: int) -> State:
        """Return the memory with which a round began."""
        return self.steps[index - 1].state if index else self.start


def step(strategy: Strategy, number: int, given: Round, state: State) -> Step:
    """Play one round on copies of its inputs; ``number`` counts from 1."""
    state = copy.deepcopy(state)
    before = freeze((given.reports, given.params, state))
    told = strategy.instructions(number, state)
    weights, middle = pair(strategy.weigh(given.reports, state))
    between = freeze(weights), freeze(middle)
    first = copy.deepcopy(weights)
    model, last, coefficients = strategy.combine(given.params, given.reports, weights, middle)
    after = freeze(model), freeze(last)
    output = strategy.output(model, last)
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
        *freeze((given.reports, given.params, state)),
        freeze(weights),
        freeze(middle),
        freeze(model),
        freeze(last),
    )
    then = (*before, *between, *after)
    changed = tuple(dict.fromkeys(n for n, a, b in zip(names, then, now, strict=True) if a != b))
    return Step(told, first, model, coefficients, output, last, changed)


def play(strategy: Strategy, cohort: Cohort, *, strict: bool = False, asked: list[str] | None = None) -> Play:
    """Play all rounds from a fresh memory; every round begins from its own model, whatever came before."""
    state = start = strategy.init(cohort.members)
    steps = []
    for number, given in enumerate(cohort.rounds, start=1):
        steps.append(step(strategy, number, given.copy(strict=strict, asked=asked), state))
        state = steps[-1].state
    return Play(cohort, start, tuple(steps))


def freeze(value: Any) -> Any:
    """Return what two values have in common exactly if they are equal, bit by bit; comparable with ``==``."""
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
    """Return a memory after ``numpy.savez`` and ``numpy.load(allow_pickle=False)``.

    Raises
    ------
    TypeError
        One line: it is no dict of plain arrays, numbers and texts by name.

    Examples
    --------
    >>> round_trip({"m": np.array([1.0]), "round": 2, "name": "x"})
    {'m': array([1.]), 'round': 2, 'name': 'x'}
    """
    if not isinstance(state, dict):
        raise TypeError(f"state is a {type(state).__name__} instead of a dict")
    for name, value in state.items():
        if not isinstance(name, str):
            raise TypeError(f"state has the key {name!r}, which is not a text")
        plain = isinstance(value, np.ndarray | np.generic | bool | int | float | str)
        if not plain or np.asarray(value).dtype.hasobject:
            kind = type(value).__name__
            raise TypeError(f"state[{name!r}] is a {kind}, neither a plain array nor a number nor a text")
    np.savez(file := io.BytesIO(), *state.values())  # under the names arr_0, arr_1, ...
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        return {name: _like(value, loaded[f"arr_{i}"]) for i, (name, value) in enumerate(state.items())}


def _like(value: Any, loaded: NDArray[Any]) -> Any:
    """Return what was loaded as what was saved: an array, a number of numpy's, or a plain one."""
    if isinstance(value, np.ndarray):
        return loaded
    return loaded[()] if isinstance(value, np.generic) else loaded.item()
