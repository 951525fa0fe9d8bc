"""Override keys of a scenario by keyword, as ``fedtoll.run("adult-race", epsilons=[1, 4])`` does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.fields import Section
from fedtoll.scenarios.scenario import Scenario

_OPTIONAL = ("compare", "tune")
"""Sections that would change the question if a keyword made them: their keys need a section that is there."""


def apply(table: dict[str, Any], keywords: Mapping[str, Any]) -> None:
    """Write values into a parsed scenario, in place.

    Parameters
    ----------
    table
        The scenario.
    keywords
        Values by name: a key of the file's top (``seeds``, ``name``); a section, whose keys are merged
        (``training={"rounds": 5}``); or a key that only one section has (``epsilons``, ``rounds``). Numpy's
        numbers and arrays, ranges and paths are accepted.

    Raises
    ------
    ScenarioError
        If no key has the name, or several sections have it.

    Examples
    --------
    >>> table = {"privacy": {"epsilons": [8.0], "delta": 1e-6}}
    >>> apply(table, {"epsilons": [1, 4], "training": {"rounds": 5}})
    >>> table
    {'privacy': {'epsilons': [1, 4], 'delta': 1e-06}, 'training': {'rounds': 5}}
    """
    sections = {name: _keys(name) for name in Scenario.model_fields}
    for name, given in keywords.items():
        value = plain(given)
        if name in sections:
            before = table.get(name)
            merged = isinstance(value, dict) and isinstance(before, dict)
            table[name] = {**before, **value} if merged else value  # type: ignore[dict-item]
            continue
        found = [s for s, keys in sections.items() if name in keys and (s not in _OPTIONAL or s in table)]
        owners = [s for s in found if s not in _OPTIONAL] or found  # rounds is training's, not tune's
        if not owners:
            known = {*sections, *(key for keys in sections.values() for key in keys)}
            raise ScenarioError(f"{name}: no key of a scenario has this name{nearest(name, known)}")
        if len(owners) > 1:
            raise ScenarioError(
                f"{name}: a key of several sections ({', '.join(owners)}); "
                f"write e.g. {owners[0]}={{{name!r}: {value!r}}}"
            )
        inner = table.setdefault(owners[0], {})
        if not isinstance(inner, dict):
            raise ScenarioError(f"{name}: {owners[0]!r} is not a section")
        inner[name] = value


def _keys(name: str) -> tuple[str, ...]:
    """Return the keys of a section; none of a key at the top."""
    annotation = Scenario.model_fields[name].annotation
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return tuple(kind.model_fields) if name not in {"setting", "claim", "source"} else ()
    return ()


def plain(value: Any) -> Any:
    """Return a value as TOML would hold it: Numpy's scalars as numbers, sequences as lists.

    Examples
    --------
    >>> plain({"epsilons": (1, 4), "seeds": range(2), "file": Path("a/b.csv")})
    {'epsilons': [1, 4], 'seeds': [0, 1], 'file': 'a/b.csv'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # Numpy's arrays and scalars, a pandas series
        return plain(value.tolist())
    if isinstance(value, list | tuple | range):
        return [plain(inner) for inner in value]
    return "inf" if value == math.inf else value  # as scenario files write it
