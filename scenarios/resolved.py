"""Read ``resolved.json`` of a results folder of unknown origin, and check that it is what fedtoll writes.

Whoever reads the content may rely on the types. A key may be missing, since earlier versions wrote fewer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fedtoll.scenarios.errors import ScenarioError

FILE = "resolved.json"

MOST_BYTES = 2**28
"""The maximum size of the file; a sweep of a million runs needs less."""


def read(folder: Path) -> dict[str, Any]:
    """Return the content of ``resolved.json``.

    Raises
    ------
    ScenarioError
        One line with the folder or file and what is wrong.
    """
    try:
        with (folder / FILE).open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        content = json.loads(text) if len(text) <= MOST_BYTES else None
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or "runs" not in content:
        raise ScenarioError(f"{str(folder)[:200]}: holds no results of fedtoll (no readable {FILE})")
    for path, key, value, what in _wrong(content):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
        reason = f"has no {key!r}" if value is _MISSING else f"{shown} is not {what}"
        raise ScenarioError(f"{str(folder)[:200]}/{FILE}: {path}: {reason}")
    return content


def private_records(content: dict[str, Any]) -> bool:
    """Return whether the records are a user's own: of a file, or of a plug-in that does not say otherwise."""
    data = content.get("scenario", {}).get("data", {})
    if data.get("file"):
        return True
    return ":" in data.get("source", "") and content.get("data", {}).get("public") is not True


_MISSING = object()

Rule = tuple[str, Callable[[Any], bool]]


def _number(value: Any) -> bool:
    try:
        return type(value) in {int, float} and math.isfinite(value)
    except OverflowError:
        return False


def _whole(value: Any) -> bool:
    return type(value) is int and abs(value) < 2**63


TEXT: Rule = "text", lambda value: isinstance(value, str)
FLAG: Rule = "true or false", lambda value: isinstance(value, bool)
WHOLE: Rule = "a whole number", _whole
COUNT: Rule = "a count", lambda value: _whole(value) and value >= 0
NUMBER: Rule = "a number", _number
EPSILON: Rule = "an ε", lambda value: value == "inf" or (_number(value) and value > 0)
ENTRY: Rule = "an ε", lambda value: value == "clip-only" or EPSILON[1](value)
MECHANISM: Rule = "a mechanism", lambda value: value in ("none", "clip-only", "dp-sgd")
HASH: Rule = "the name of a run", lambda v: isinstance(v, str) and bool(re.fullmatch("[0-9a-f]{16}", v))
TABLE: Rule = "a table", lambda value: isinstance(value, dict)
LIST: Rule = "a list", lambda value: isinstance(value, list)


def _or_null(rule: Rule) -> Rule:
    what, fits = rule
    return f"{what} or null", lambda value: value is None or fits(value)


def _runs(key: str) -> dict[str, Rule]:
    """Return the rules of a list of runs; ``!`` marks keys that every run has."""
    row = {"hash!": HASH, "strategy!": TEXT, "mechanism!": MECHANISM, "epsilon!": EPSILON, "seed!": WHOLE}
    return {key: LIST, f"{key}[]": TABLE, **{f"{key}[].{name}": rule for name, rule in row.items()}}


RULES: dict[str, Rule] = {
    **dict.fromkeys(("fedtoll", "command", "exported"), TEXT),
    "scenario": TABLE,
    **dict.fromkeys(("scenario.name", "scenario.title", "scenario.description"), TEXT),
    **dict.fromkeys((f"scenario.{s}" for s in ("data", "split", "partition", "model", "training")), TABLE),
    **dict.fromkeys(("scenario.privacy", "scenario.statistics"), TABLE),
    **dict.fromkeys(("scenario.tune", "scenario.compare"), _or_null(TABLE)),
    "scenario.data.groups": LIST,
    "scenario.data.groups[]": TEXT,
    **dict.fromkeys(("scenario.data.file", "scenario.data.source"), TEXT),
    "scenario.data.floor": COUNT,
    "scenario.split.kind": TEXT,
    "scenario.split.folds": COUNT,
    "scenario.split.validation": NUMBER,
    "scenario.partition.kind": TEXT,
    "scenario.partition.copies": COUNT,
    "scenario.training.learning_rate": NUMBER,
    "scenario.training.clip": NUMBER,
    "scenario.training.on_failure": TEXT,
    "scenario.training.timeout": NUMBER,
    "scenario.privacy.epsilons": LIST,
    "scenario.privacy.epsilons[]": ENTRY,
    "scenario.privacy.noise_seed": _or_null(WHOLE),
    "scenario.privacy.trust": TEXT,
    "scenario.privacy.colluding": COUNT,
    "scenario.privacy.unit": TEXT,
    "scenario.privacy.adaptive_clip": _or_null(NUMBER),
    "scenario.privacy.epsilon_factor": TABLE,
    "scenario.privacy.epsilon_factor{}": NUMBER,
    "scenario.client": TABLE,
    "scenario.client.mechanism": TEXT,
    "scenario.training.start": TEXT,
    "scenario.training.pull": NUMBER,
    "scenario.participation": TABLE,
    "scenario.participation.kind": TEXT,
    "scenario.participation.fraction": _or_null(NUMBER),
    "scenario.participation.availability": TABLE,
    "scenario.participation.availability{}": NUMBER,
    "scenario.participation.rate": _or_null(NUMBER),
    "scenario.participation.seed": COUNT,
    "scenario.calibration": _or_null(TABLE),
    **dict.fromkeys((f"scenario.calibration.{k}" for k in ("noise_multiplier", "prior")), NUMBER),
    "scenario.personal": _or_null(TABLE),
    "scenario.personal.kind!": TEXT,
    **dict.fromkeys(("scenario.personal.last", "scenario.personal.steps"), _or_null(COUNT)),
    "scenario.personal.strength": _or_null(NUMBER),
    "scenario.tune.seeds": LIST,
    **dict.fromkeys(("scenario.tune.client", "scenario.tune.personal"), TABLE),
    **dict.fromkeys(("scenario.tune.client{}", "scenario.tune.personal{}"), LIST),
    "scenario.strategies": LIST,
    "scenario.strategies[]": TABLE,
    "scenario.strategies[].name!": TEXT,
    "scenario.strategies[].label": TEXT,
    "data": TABLE,
    **dict.fromkeys((f"data.{k}" for k in ("source", "title", "licence", "citation", "checksum")), TEXT),
    "data.rows": COUNT,
    "data.public": FLAG,
    "clients": LIST,
    "clients[]": TABLE,
    "clients[].id!": COUNT,
    "clients[].group": _or_null(TEXT),
    "clients[].size!": COUNT,
    "clients[].epsilon_factor": NUMBER,
    "clients[].rounds": COUNT,
    "partition": TABLE,
    "partition.groups!": LIST,
    "partition.groups[]": TEXT,
    "partition.expected!": LIST,
    "partition.expected[]": LIST,
    "partition.expected[][]": NUMBER,
    "versions": TABLE,
    "versions{}": TEXT,
    "mixed_with": LIST,
    "mixed_with[]": TABLE,
    "mixed_with[]{}": TEXT,
    **_runs("runs"),
    **_runs("recipe"),
    **_runs("probe"),
    "probe[].learning_rate!": NUMBER,
    "tuning": LIST,
    "tuning[]": TABLE,
    "tuning[].strategy!": TEXT,
    "tuning[].mechanism!": MECHANISM,
    "tuning[].epsilon!": EPSILON,
    "tuning[].constants!": TABLE,
    "tuning[].seeds!": COUNT,
    "tuning[].loss!": TABLE,
    "tuning[].loss{}": _or_null(NUMBER),
    "tuning[].chosen!": FLAG,
    "tuning[].failed": TEXT,
    "converged": _or_null(TABLE),
    "converged.seeds!": LIST,
    "converged.seeds[]": WHOLE,
    "converged.log_loss!": LIST,
    "converged.log_loss[]": NUMBER,
}
"""What every value is, in the order of checking: ``[]`` are the items of a list, ``{}`` a table's values."""


def _wrong(content: dict[str, Any]) -> Iterator[tuple[str, str, Any, str]]:
    """Yield the place of every value that breaks a rule, its key, the value, and what it should be."""
    for pattern, (what, fits) in RULES.items():
        *parents, last = re.findall(r"\[\]|\{\}|[^.\[{]+", pattern)
        places: list[tuple[str, Any]] = [("", content)]
        for step in parents:
            places = [inner for place in places for inner in _inside(*place, step)]
        for where, parent in places:
            key = last.removesuffix("!")
            if last.endswith("!") and isinstance(parent, dict) and key not in parent:
                yield where or FILE, key, _MISSING, what
            for path, value in _inside(where, parent, key):
                if not fits(value):
                    yield path, key, value, what
    if isinstance(found := content.get("converged"), dict) and len(found["seeds"]) != len(found["log_loss"]):
        yield "converged.log_loss", "log_loss", found["log_loss"], "one loss per seed"


def _inside(path: str, value: Any, step: str) -> Iterator[tuple[str, Any]]:
    """Yield what a step of a pattern leads to, with its path."""
    if step == "[]" and isinstance(value, list):
        yield from ((f"{path}[{i}]", item) for i, item in enumerate(value))
    elif step == "{}" and isinstance(value, dict):
        yield from ((f"{path}.{key}", item) for key, item in value.items())
    elif isinstance(value, dict) and step in value:
        yield (f"{path}.{step}" if path else step), value[step]
