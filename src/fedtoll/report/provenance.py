"""The scenario as TOML, as the page's provenance shows it: one can copy it into a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LEFT_OUT = {"name", "title", "description"}
"""The page shows these at its top."""


def scenario_toml(scenario: Mapping[str, Any]) -> str:
    """Return a resolved scenario as TOML; what is not set is left out.

    Parameters
    ----------
    scenario
        The scenario as JSON.

    Examples
    --------
    >>> print(scenario_toml({"seeds": [0, 1], "data": {"source": "adult", "file": None, "floor": 0}}))
    seeds = [0, 1]
    <BLANKLINE>
    [data]
    source = "adult"
    floor = 0
    """
    plain, tables = [], []
    for key, value in scenario.items():
        if value is None or key in _LEFT_OUT:
            continue
        if isinstance(value, Mapping):
            tables.append(_table(f"[{_key(key)}]", value))
        elif value and isinstance(value, list) and all(isinstance(v, Mapping) for v in value):
            tables += [_table(f"[[{_key(key)}]]", v) for v in value]
        else:
            plain.append(f"{_key(key)} = {_value(value)}")
    return "\n\n".join(["\n".join(plain), *tables] if plain else tables)


def _table(head: str, values: Mapping[str, Any]) -> str:
    return "\n".join([head, *(f"{_key(k)} = {_value(v)}" for k, v in values.items() if v is not None)])


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(v) for v in value if v is not None)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _string(value) if isinstance(value, str) else repr(value)
