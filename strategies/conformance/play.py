"""A strategy driven through a cohort's rounds, as the engine does it, with every input watched."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from fedtoll.strategies.base import State, Strategy
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
    weights, middle = strategy.weigh(given.reports, state)
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


def round_trip(state: Any) -> Any:
    """Return a memory after ``numpy.savez`` and ``numpy.load(allow_pickle=False)``.

    Dicts with texts for keys, tuples and lists may hold plain arrays, numbers and texts, and each other.

    Raises
    ------
    TypeError
        One line: where the memory holds something else.

    Examples
    --------
    >>> round_trip({"m": (np.array([1.0]), 2), "name": "x"})
    {'m': (array([1.]), 2), 'name': 'x'}
    """
    arrays: list[np.ndarray[Any, Any]] = []
    form = json.dumps(_form(state, "state", arrays))
    np.savez(file := io.BytesIO(), np.array(form), *arrays)  # under the names arr_0, arr_1, ...
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        saved = [loaded[f"arr_{i}"] for i in range(len(arrays) + 1)]
    return _restore(json.loads(str(saved[0])), saved[1:])


def _form(value: Any, where: str, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{where} has the key {odd[0]!r}, which is not a text")
        return {"dict": {k: _form(v, f"{where}[{k!r}]", arrays) for k, v in value.items()}}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_form(v, f"{where}[{i}]", arrays) for i, v in enumerate(value)]}
    kind = (
        "array" if isinstance(value, np.ndarray) else "generic" if isinstance(value, np.generic) else "plain"
    )
    array = np.asarray(value)
    if array.dtype.hasobject or (kind == "plain" and not isinstance(value, bool | int | float | str)):
        raise TypeError(f"{where} is a {type(value).__name__}, neither a plain array nor a number nor a text")
    arrays.append(array)
    return {kind: len(arrays) - 1}


def _restore(form: Any, arrays: Sequence[np.ndarray[Any, Any]]) -> Any:
    ((kind, inner),) = form.items()
    if kind == "dict":
        return {k: _restore(v, arrays) for k, v in inner.items()}
    if kind in {"list", "tuple"}:
        restored = [_restore(v, arrays) for v in inner]
        return restored if kind == "list" else tuple(restored)
    array = arrays[inner]
    return array if kind == "array" else array[()] if kind == "generic" else array.item()
