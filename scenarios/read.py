"""Read a scenario file: find it, parse it, apply overrides, validate it.

A mistake raises a :class:`~fedtoll.scenarios.errors.ScenarioError` of one line that names the file, the key
and the value, and suggests the nearest right word.
"""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedtoll.scenarios.compare import Compare, family, unreachable
from fedtoll.scenarios.data import SOURCES, plugin
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.keywords import apply
from fedtoll.scenarios.overrides import assignment, override
from fedtoll.scenarios.scenario import Scenario
from fedtoll.scenarios.validation import describe_error

MOST_BYTES = 2**20
"""The size limit of a scenario file, checked before it is parsed."""


def library() -> dict[str, Path]:
    """Return the built-in scenarios by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "library").glob("*.toml"))}


def findings() -> dict[str, Path]:
    """Return the built-in findings by name: published results, as scenarios with claims."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "library/findings").glob("*.toml"))}


def find(name: str) -> Path:
    """Return the file of a scenario, given by built-in name or by path.

    Raises
    ------
    ScenarioError
        If there is no such scenario or file.
    """
    builtin = {**library(), **findings()}
    if name in builtin:
        return builtin[name]
    path = Path(name)
    if path.suffix in {".toml", ".json"}:
        try:
            if path.is_file():
                return path
            folder = path.is_dir()
        except OSError as error:
            raise ScenarioError(f"{name[:200]}: cannot be read: {error.strerror}") from None
        raise ScenarioError(f"{name}: {'a folder, not a file' if folder else 'no such file'}")
    raise ScenarioError(f"{name[:200]}: no built-in scenario of this name{nearest(name[:200], builtin)}")


def read(name: str, overrides: Sequence[str] = (), seeds: str | None = None) -> Scenario:
    """Read and validate a scenario by built-in name or path.

    Parameters
    ----------
    name
        A built-in name (``adult-race``) or the path of a TOML file (or of the same tables as JSON).
    overrides
        ``key=value`` pairs: the key dotted (``training.rounds=10``), the value a TOML literal.
    seeds
        A range such as ``"0:5"`` that replaces the scenario's seeds.

    Raises
    ------
    ScenarioError
        In one line that names the file, the key and the value, and suggests the nearest right word.
    """
    path = find(name)
    return build(parse(path), path.name, path.parent, overrides, seeds)


def parse(path: Path) -> dict[str, Any]:
    """Return the tables of a scenario file, unchecked.

    Raises
    ------
    ScenarioError
        If the file cannot be read, is too large, or is not TOML (or JSON).
    """
    try:
        with path.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ScenarioError(f"{path.name}: larger than 1 MB, the limit for a scenario")
        text = content.decode("utf-8-sig")  # some editors begin a file with a byte-order mark
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path.name}: cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ScenarioError(f"{path.name}: not a {path.suffix[1:].upper()} file: {reason}") from None
    if not isinstance(table, dict):
        raise ScenarioError(f"{path.name}: must be a table of sections")
    return table


def build(
    table: Mapping[str, Any],
    file: str,
    folder: Path,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    keywords: Mapping[str, Any] | None = None,
) -> Scenario:
    """Return the scenario of parsed tables, which stay as they are.

    Parameters
    ----------
    table
        The tables of a scenario file.
    file, folder
        The name that error lines begin with, and where relative paths of ``[data]`` start.
    overrides, seeds
        As in :func:`read`.
    keywords
        Values by the name of their key, as in :func:`fedtoll.scenarios.keywords.apply`.
    """
    try:
        tables = copy.deepcopy(dict(table))
    except RecursionError:
        raise ScenarioError(f"{file}: nested too deeply") from None
    for pair in overrides:
        override(tables, pair)
    if seeds is not None:
        tables["seeds"] = seeds
    apply(tables, keywords or {}, overrides)
    if isinstance(data := tables.get("data"), dict):
        if isinstance(name := data.get("file"), str) and name:
            data["file"] = _absolute(name, "file", file, folder)
        if isinstance(name := data.get("source"), str) and name:
            data["source"] = _source(name, file, folder)
    scenario = validate(tables, file)

    def as_written() -> Scenario:
        kept = {k: v for k, v in table.items() if k in {"seeds", "privacy", "strategies", "compare"}}
        return validate({k: v for k, v in tables.items() if k != "tune"} | kept, file)

    changed = bool(overrides or keywords) or seeds is not None
    family = checked_family(scenario, file, overrides, as_written if changed else None)
    return scenario.model_copy(update={"compare": family})


def _source(name: str, scenario: str, folder: Path) -> str:
    """Return the name of a source, or the path of the class of a plug-in; nothing is imported."""
    module, _, cls = name.rpartition(":")
    if module.endswith(".py"):
        return f"{_absolute(module, 'source', scenario, folder)}:{cls}"
    if name in {*SOURCES, "synthetic"} or not (name.endswith(".py") or name in plugin.names()):
        return name
    try:
        return plugin.located(name)
    except ScenarioError as error:
        raise ScenarioError(f"{scenario}: {error}") from None


def _absolute(file: str, key: str, scenario: str, folder: Path) -> str:
    """Return the absolute path of a file of ``[data]``; a relative one starts at the scenario's folder."""
    try:
        path = str((folder / Path(file).expanduser()).resolve())
        path.encode()  # scenarios are sent to other processes as UTF-8
    except (OSError, RuntimeError, ValueError) as error:
        raise ScenarioError(f"{scenario}: data.{key} = {file!r}: not a path ({error})") from None
    return path


def validate(table: Mapping[str, Any], file: str) -> Scenario:
    """Turn a parsed table into a :class:`Scenario`; the line of an error begins with ``file``."""
    try:
        return Scenario.model_validate(table)
    except ValidationError as error:
        raise ScenarioError(f"{file}: {describe_error(error, Scenario)}") from None


def checked_family(
    scenario: Scenario,
    file: str,
    overrides: Sequence[str] = (),
    as_written: Callable[[], Scenario] | None = None,
) -> Compare | None:
    """Return the family that a scenario declares, or ``None`` if the default family applies.

    A family is declared for the scenario in the file. If it fits the file but not the scenario that the
    command line made of it, the default family takes its place.

    Parameters
    ----------
    scenario, file
        The scenario, overrides applied, and the name of its file for error lines.
    overrides
        The overrides of the command line.
    as_written
        Returns the scenario of the file; ``None`` if the command line changed nothing.

    Raises
    ------
    ScenarioError
        If the file or an override declares a family that names an unknown strategy or ε, has no comparison,
        or has more than the seeds support.
    """
    if scenario.compare is None:
        return None
    try:
        _check_family(scenario, scenario.compare)
    except ScenarioError as error:
        if as_written is None or any(assignment(o, "")[0][0] == "compare" for o in overrides):
            raise ScenarioError(f"{file}: {error}") from None
        checked_family(
            as_written(), file
        )  # an error in the file stays one, whatever the command line changes
        return None
    return scenario.compare


def _check_family(scenario: Scenario, section: Compare) -> None:
    labels = {s.label: s.name for s in scenario.strategies}
    comparisons = family(section, labels, scenario.privacy.epsilons)
    if not comparisons:
        raise ScenarioError("compare: nothing to compare; needs two strategies and a finite ε")
    if reason := unreachable(len(comparisons), len(scenario.seeds)):
        raise ScenarioError(f"compare: {reason}; take more seeds or a smaller family")
