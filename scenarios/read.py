"""Read a scenario file: find it, parse it, apply overrides, validate it.

A mistake raises a :class:`~fedtoll.scenarios.errors.ScenarioError` of one line that names the file, the key,
the value and the nearest right word.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedtoll.scenarios.compare import Compare, family, unreachable
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.overrides import assignment, override
from fedtoll.scenarios.scenario import Scenario
from fedtoll.scenarios.validation import describe_error

MOST_BYTES = 2**20
"""How large a scenario's file may be: more is refused before it is parsed."""


def library() -> dict[str, Path]:
    """Return the built-in scenarios by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "library").glob("*.toml"))}


def findings() -> dict[str, Path]:
    """Return the built-in findings by name: published results, as scenarios with claims."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "library/findings").glob("*.toml"))}


def find(name: str) -> Path:
    """Return the file of a built-in scenario's name or of a path.

    Raises
    ------
    ScenarioError
        When it is neither.
    """
    builtin = {**library(), **findings()}
    if name in builtin:
        return builtin[name]
    path = Path(name)
    if path.suffix in {".toml", ".json"}:
        try:
            if path.is_file():
                return path
        except OSError as error:
            raise ScenarioError(f"{name[:200]}: cannot be read: {error.strerror}") from None
        raise ScenarioError(f"{name}: no such file")
    raise ScenarioError(f"{name[:200]}: no built-in scenario of this name{nearest(name[:200], builtin)}")


def read(name: str, overrides: Sequence[str] = (), seeds: str | None = None) -> Scenario:
    """Read and validate a scenario by built-in name or path.

    Parameters
    ----------
    name
        A built-in name (``adult-race``) or the path of a TOML file (or of the same tables as JSON).
    overrides
        ``key=value`` pairs, the key dotted (``training.rounds=10``), the value a TOML literal.
    seeds
        A range such as ``"0:5"`` that takes the place of the scenario's seeds.

    Raises
    ------
    ScenarioError
        One line that names the file, the key, the value and the nearest right word.
    """
    path = find(name)
    try:
        with path.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ScenarioError(f"{path.name}: has more than 1 MB, and no scenario needs that")
        text = content.decode("utf-8")
        parse = json.loads if path.suffix == ".json" else tomllib.loads
        table = parse(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path.name}: cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ScenarioError(f"{path.name}: not a {path.suffix[1:].upper()} file: {why}") from None
    if not isinstance(table, dict):
        raise ScenarioError(f"{path.name}: holds no table of sections")
    for pair in overrides:
        override(table, pair)
    if seeds is not None:
        table["seeds"] = seeds
    data = table.get("data")
    if isinstance(data, dict) and isinstance(file := data.get("file"), str) and file:
        data["file"] = _absolute(file, path)
    scenario = validate(table, path.name)

    def alone() -> Scenario:
        asked = {k: v for k, v in parse(text).items() if k in {"seeds", "privacy", "strategies", "compare"}}
        return validate(table | asked, path.name)

    changed = bool(overrides) or seeds is not None
    family = checked_family(scenario, path.name, overrides, alone if changed else None)
    return scenario.model_copy(update={"compare": family})


def _absolute(file: str, scenario: Path) -> str:
    """Return the path of a file that a scenario names, relative to the scenario."""
    try:
        path = str((scenario.parent / Path(file).expanduser()).resolve())
        path.encode()  # a scenario crosses processes as UTF-8
    except (OSError, RuntimeError, ValueError) as error:
        raise ScenarioError(f"{scenario.name}: data.file = {file!r}: not a path ({error})") from None
    return path


def validate(table: Mapping[str, Any], file: str) -> Scenario:
    """Turn a parsed table into a :class:`Scenario`; mistakes become one line that begins with ``file``."""
    try:
        return Scenario.model_validate(table)
    except ValidationError as error:
        raise ScenarioError(f"{file}: {describe_error(error, Scenario)}") from None


def checked_family(
    scenario: Scenario, file: str, overrides: Sequence[str] = (), alone: Callable[[], Scenario] | None = None
) -> Compare | None:
    """Return the family that a scenario declares; refuse it where it does not fit.

    Parameters
    ----------
    scenario, file
        What was read, and how mistakes call it.
    overrides
        What the command line set.
    alone
        Reads the scenario as its file has it; ``None`` where the command line changed nothing. The family was
        declared for the file's own question. Where it fits that one and the command line asks another, it is
        dropped: the default one is reported, never refused.

    Raises
    ------
    ScenarioError
        If it names what is not there, compares nothing, or holds more comparisons than the seeds can bear.
    """
    if scenario.compare is None:
        return None
    try:
        _fits(scenario, scenario.compare)
    except ScenarioError as error:
        if alone is None or any(assignment(o, "")[0][0] == "compare" for o in overrides):
            raise ScenarioError(f"{file}: {error}") from None
        checked_family(alone(), file)  # a mistake of the file stays one, whatever the command line asks
        return None
    return scenario.compare


def _fits(scenario: Scenario, section: Compare) -> None:
    labels = {s.label: s.name for s in scenario.strategies}
    comparisons = family(section, labels, scenario.privacy.epsilons)
    if not comparisons:
        raise ScenarioError("compare: nothing to compare; it takes two strategies and a finite ε")
    if why := unreachable(len(comparisons), len(scenario.seeds)):
        raise ScenarioError(f"compare: {why}; take more seeds or a smaller family")
