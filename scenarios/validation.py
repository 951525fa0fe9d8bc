"""What pydantic finds wrong with a scenario's file, told in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedtoll.scenarios.errors import nearest

STRATEGIES = 'must be a list of tables, e.g. [{name="fedavg"}]'


def describe_error(error: ValidationError, whole: type[BaseModel]) -> str:
    """Tell the first mistake, an unknown key before its consequences, and count the others.

    Parameters
    ----------
    error
        What was found.
    whole
        The type of the whole file: its sections have the right words.
    """
    details = [d for d in error.errors() if not _follows(d, error.errors())]
    details.sort(key=lambda d: d["type"] != "extra_forbidden")
    first, others = details[0], len(details) - 1
    return _told(first, whole) + (f" (and {others} more)" if others else "")


def _follows(detail: ErrorDetails, every: Sequence[ErrorDetails]) -> bool:
    """Whether it only follows from another mistake: a list with one in it is called too short as well."""
    place = detail["loc"]
    inside = (d for d in every if len(d["loc"]) > len(place) and d["loc"][: len(place)] == place)
    return detail["type"] == "too_short" and next(inside, None) is not None


def _told(mistake: ErrorDetails, whole: type[BaseModel]) -> str:
    location = [part for part in mistake["loc"] if part not in {"float", "literal['clip-only']", "[key]"}]
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{_plain(p)}" for p in location).lstrip(".")
    value, kind = mistake["input"], mistake["type"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key{nearest(str(location[-1]), _known(location[:-1], whole))}"
    if kind == "missing":
        other = next((k for k in value if str(k).lower() == location[-1]), None)
        return f"{key}: missing" + (f"; {other!r} stands in its place" if other else "")
    message = mistake["msg"].removeprefix("Value error, ")
    if location[:1] == ["strategies"] and kind in {"tuple_type", "model_type"}:
        message = STRATEGIES if key == "strategies" else f"strategies {STRATEGIES}"
    elif kind == "literal_error":
        words = str(mistake.get("ctx", {}).get("expected", "")).replace("'", "")
        message = f"unknown{nearest(str(value), [w for w in words.replace(' or ', ', ').split(', ') if w])}"
    elif kind == "string_pattern_mismatch":
        message = "must be small letters, digits and hyphens only"
    return f"{key}{_shown(value)}: {message[:1].lower()}{message[1:]}" if key else message


def _shown(value: Any) -> str:
    return "" if isinstance(value, dict | BaseModel) else f" = {_cut(repr(value))}"


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _plain(word: str) -> str:
    """Return a name of the user's as a line can show it."""
    return _cut(word if word.isprintable() else repr(word))


def _known(location: Sequence[int | str], whole: type[BaseModel]) -> list[str]:
    """Return the keys that a section at this place of the file has."""
    section, named = whole, False
    for part in location:
        if isinstance(part, int) or named:  # a place in a list, or a name of the user's
            named = False
            continue
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        named = any(get_origin(c) is dict for c in candidates)
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)
