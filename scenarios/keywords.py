"""Override keys of a scenario by keyword, as ``fedtoll.run("adult-race", epsilons=[1, 4])`` does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.fields import Section
from fedtoll.scenarios.overrides import assignment
from fedtoll.scenarios.scenario import Scenario

_OPTIONAL = ("compare", "tune")
"""Sections that would change the question if a keyword made them: their keys need a section that is there."""


_ABSENT = object()

Key = tuple[str, ...]


def apply(table: dict[str, Any], keywords: Mapping[str, Any], overrides: Sequence[str] = ()) -> None:
    """Write values into a parsed scenario, in place.

    Parameters
    ----------
    table
        The scenario.
    keywords
        Values by name: a key of the file's top (``seeds``, ``name``); a section, whose keys are merged
        (``training={"rounds": 5}``); or a key that only one section has (``epsilons``, ``rounds``). Numpy's
        numbers and arrays, ranges and paths are accepted.
    overrides
        The ``key=value`` pairs that were applied to the scenario before.

    Raises
    ------
    ScenarioError
        If no key has the name, or several sections have it; or if a key is stated twice, by keywords or by a
        keyword and an override, and not with the same value.

    Examples
    --------
    >>> table = {"privacy": {"epsilons": [8.0], "delta": 1e-6}}
    >>> apply(table, {"epsilons": [1, 4], "training": {"rounds": 5}})
    >>> table
    {'privacy': {'epsilons': [1, 4], 'delta': 1e-06}, 'training': {'rounds': 5}}
    """
    stated: list[tuple[Key, Any]] = [assignment(text, "training.rounds=10") for text in overrides]
    for name, given in keywords.items():
        value = plain(given)
        new: dict[Key, Any]
        if name in Scenario.model_fields:
            before = table.get(name)
            if isinstance(value, dict) and isinstance(before, dict):
                new = {(name, key): inner for key, inner in value.items()}
            else:
                new = {(name,): value}
        else:
            owner = _owner(name, value, table)
            if not isinstance(table.setdefault(owner, {}), dict):
                raise ScenarioError(f"{name}: {owner!r} is not a section")
            new = {(owner, name): value}
        for key, value in new.items():
            _check_once(key, value, stated)
            *section, last = key
            (table[section[0]] if section else table)[last] = value
        stated += new.items()


def _owner(name: str, value: Any, table: Mapping[str, Any]) -> str:
    """Return the one section that a key belongs to."""
    sections = {section: _keys(section) for section in Scenario.model_fields}
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
    return owners[0]


def _check_once(key: Key, value: Any, stated: Sequence[tuple[Key, Any]]) -> None:
    """Raise if a value changes or drops what was stated before; either key may lie inside the other."""
    for other, earlier in stated:
        shared = min(len(key), len(other))
        if key[:shared] != other[:shared]:
            continue
        before, now = _inside(plain(earlier), key[shared:]), _inside(value, other[shared:])
        if before is not _ABSENT and before != now:
            longer = ".".join(key if len(key) > len(other) else other)
            lost = "left out" if now is _ABSENT else f"as {_shown(now)}"
            raise ScenarioError(f"{longer}: stated twice, as {_shown(before)} and {lost}; state it once")


def _inside(value: Any, key: Key) -> Any:
    """Return what a table has at a key, if it has the key."""
    for part in key:
        value = value.get(part, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


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
