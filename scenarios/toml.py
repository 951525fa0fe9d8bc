"""Write a scenario as a TOML file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any


def dumps(content: Mapping[str, Any]) -> str:
    """Return tables of texts, numbers, booleans and lists as TOML; keys without a value are left out.

    Examples
    --------
    >>> print(dumps({"a": 1, "b": {"c": [0.5, "x"], "d": None}, "e": [{"f": True}]}))
    a = 1
    <BLANKLINE>
    [b]
    c = [0.5, "x"]
    <BLANKLINE>
    [[e]]
    f = true
    <BLANKLINE>
    """
    return "\n".join(_lines(content, ""))


def _lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    below = {}
    for key, value in table.items():
        if isinstance(value, Mapping) or (
            isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value)
        ):
            below[key] = value
        elif value is not None:
            yield f"{_key(key)} = {_value(value)}"
    yield ""
    for key, value in below.items():
        name = f"{path}{_key(key)}"
        for inner in [value] if isinstance(value, Mapping) else value:
            yield f"[{name}]" if isinstance(value, Mapping) else f"[[{name}]]"
            yield from _lines(inner, f"{name}.")


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf and nan are TOML, json.dumps has other words for them
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
