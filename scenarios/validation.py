"""Describe what pydantic finds wrong with a scenario file, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedtoll.scenarios.errors import nearest
from fedtoll.scenarios.fields import NUMBER, TABLE

STRATEGIES = 'must be a list of tables, e.g. [{name="fedavg"}]'
_BRANCHES = {"float", "literal['clip-only']", "[key]", NUMBER, TABLE}  # parts of a location that no file has
_EVERYBODY = 'who trains in a round is stated in a section of its own: [participation] with kind = "fraction"'
_PLAIN = "clients take SGD steps, so that the noise of an update is known; see [client]"
HINTS = {
    "participation": _EVERYBODY,
    "client_fraction": _EVERYBODY,
    "fraction_fit": _EVERYBODY,
    "optimizer": _PLAIN,
    "optimiser": _PLAIN,
    "momentum": "write client.momentum for local steps; a server with momentum is the strategy fedavgm",
    "weight_decay": _PLAIN,
    "noise_multiplier": "σ follows from ε; state privacy.epsilons, and fedtoll budget shows σ",
    "sigma": "σ follows from ε; state privacy.epsilons, and fedtoll budget shows σ",
    "max_grad_norm": "write training.clip",
    "lr": "write training.learning_rate",
    "epochs": "write training.local_epochs, and training.rounds",
    "num_clients": "write partition.clients",
    "aggregation": "write strategies, a list of tables with a name",
    "strategy": "write strategies, a list of tables with a name",
    "epsilon": "write privacy.epsilons, a list",
    "seed": 'write seeds at the top of the file, a list or a range such as "0:5"',
    "target": "the label's column is data.own.label",
    "sensitive": "sensitive attributes are declared in data.own.attributes",
}
"""Where the answer is to what people write by habit, by key."""

_TOML_TYPES = {"model_type": "a table", "dict_type": "a table", "tuple_type": "a list"}


def describe_error(error: ValidationError, model: type[BaseModel]) -> str:
    """Describe the first error and count the others; an unknown key comes first, as others follow from it.

    Parameters
    ----------
    error
        What pydantic raised.
    model
        The type of the whole file, whose sections know the right keys.
    """
    details = [d for d in error.errors() if not _is_consequence(d, error.errors())]
    details.sort(key=lambda d: d["type"] != "extra_forbidden")
    first, others = details[0], len(details) - 1
    return _describe(first, model) + (f" (and {others} more)" if others else "")


def _is_consequence(detail: ErrorDetails, details: Sequence[ErrorDetails]) -> bool:
    """Return whether a list is reported as too short only because of an error inside it."""
    place = detail["loc"]
    inside = (d for d in details if len(d["loc"]) > len(place) and d["loc"][: len(place)] == place)
    return detail["type"] == "too_short" and next(inside, None) is not None


def _describe(detail: ErrorDetails, model: type[BaseModel]) -> str:
    location = [part for part in detail["loc"] if part not in _BRANCHES]
    shown = location[:2] + location[3:] if location[:2] == ["tune", "stopping"] else location  # no kind
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{_printable(p)}" for p in shown).lstrip(".")
    value, kind = detail["input"], detail["type"]
    if kind == "extra_forbidden":
        if hint := HINTS.get(str(location[-1]).lower().replace("-", "_")):
            return f"{key}: unknown key; {hint}"
        return f"{key}: unknown key{nearest(str(location[-1]), _known_keys(location[:-1], model))}"
    if kind == "missing":
        other = next((k for k in value if str(k).lower() == location[-1]), None)
        return f"{key}: missing" + (f"; found {other!r} instead" if other else "")
    message = detail["msg"].removeprefix("Value error, ")
    if location[:1] == ["strategies"] and kind in {"tuple_type", "model_type"}:
        message = STRATEGIES if key == "strategies" else f"strategies {STRATEGIES}"
    elif kind in _TOML_TYPES:
        message = f"must be {_TOML_TYPES[kind]}"
    elif kind == "literal_error":
        words = str(detail.get("ctx", {}).get("expected", "")).replace("'", "")
        message = f"unknown{nearest(str(value), [w for w in words.replace(' or ', ', ').split(', ') if w])}"
    elif kind == "union_tag_not_found":
        return f"{key}.kind: missing"
    elif kind == "union_tag_invalid":
        tag, known = detail["ctx"]["tag"], detail["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"{key}.kind = {_shorten(repr(tag))}: unknown{nearest(str(tag), known)}"
    elif kind == "too_short":
        message = "must have at least one value"
    elif kind == "string_pattern_mismatch":
        message = "must consist of lower-case letters, digits and hyphens"
    return f"{key}{_assigned(value)}: {message[:1].lower()}{message[1:]}" if key else message


def _assigned(value: Any) -> str:
    return "" if isinstance(value, dict | BaseModel) else f" = {_shorten(repr(value))}"


def _shorten(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _printable(name: str) -> str:
    """Return a user's name on one line of bounded length."""
    return _shorten(name if name.isprintable() else repr(name))


def _known_keys(location: Sequence[int | str], model: type[BaseModel]) -> list[str]:
    """Return the keys of the section at a location in the file."""
    section, user_named = model, False
    kinds: dict[str, type[BaseModel]] = {}
    for part in location:
        if isinstance(part, int) or user_named:  # an index of a list, or a name that the user chose
            user_named = False
            continue
        if part in kinds:  # the kind of a section of several kinds
            section, kinds = kinds[part], {}
            continue
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        user_named = any(get_origin(c) is dict for c in candidates)
        models = _models(annotation)
        section, kinds = models[0], {m.model_fields["kind"].default: m for m in models if len(models) > 1}
    return list(section.model_fields)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
