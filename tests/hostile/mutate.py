"""Change well-formed inputs at random, so that something about them is wrong."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from tests.hostile.traps import ESCAPE

OBEYED = f"\u202e{ESCAPE}\u2066\x9b2J\u2028"

TEXTS = (
    *(
        "",
        " ",
        "x",
        "x" * 10_000,
        OBEYED,
        "a\nb",
        "a\0b",
        "../../elsewhere",
        "/etc/passwd",
        "\ud800",
        "é" * 50,
    ),
    *(
        "inf",
        "nan",
        "-1",
        "1e999",
        "null",
        "true",
        "=1+1",
        "<script>alert(1)</script>",
        "{{ 7 * 7 }}",
        "[red]",
    ),
    *("(all)", "clip-only", "fedavg", "term", "noise-fair", "synthetic", "adult", "__class__", "%s%n", "~"),
)
NUMBERS = (
    *(0, 1, -1, 2, 7, 0.5, 1e-300, -0.0, 1e308, -1e308, math.inf, -math.inf, math.nan),
    *(2**31, 2**63, -(2**63), 10**400),
)


def deep(depth: int = 400) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def value(rng: random.Random) -> Any:
    """Return a value that may be of any type and size."""
    kind = rng.randrange(10)
    if kind < 4:
        return rng.choice(TEXTS)
    if kind < 7:
        return rng.choice(NUMBERS)
    return rng.choice([None, True, False, [], {}, [[]], {"": ""}, [None] * 3, {"a": {"b": 1}}, deep()])


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container with each of its keys."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])


def structure(rng: random.Random, content: Any, most: int = 3) -> Any:
    """Return a copy of nested lists and tables with one to ``most`` changes."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, most)):
        places = list(_places(content))
        if not places:
            return value(rng)
        parent, key = rng.choice(places)
        change = rng.randrange(8)
        if change < 4:
            parent[key] = value(rng)
        elif change == 4:
            del parent[key]
        elif change == 5:
            parent[key] = [parent[key]]
        elif change == 6:
            other, place = rng.choice(places)
            try:
                parent[key] = copy.deepcopy(other[place])
            except (LookupError, RecursionError):
                parent[key] = None
        elif isinstance(parent, dict):
            parent[rng.choice(TEXTS)] = parent.pop(key)
        else:
            parent.insert(rng.randrange(len(parent) + 1), value(rng))
    return content


def as_json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass")


def raw(rng: random.Random, content: bytes, most: int = 4) -> bytes:
    """Return bytes with one to ``most`` changes."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(changed) + 1)
        size = rng.choice([1, 1, 2, 8, 64, 1000])
        change = rng.randrange(6)
        if change == 0:
            del changed[at:]
        elif change == 1:
            del changed[at : at + size]
        elif change == 2:
            changed[at:at] = rng.randbytes(size)
        elif change == 3:
            changed[at : at + size] = rng.randbytes(size)
        elif change == 4:
            changed[at:at] = rng.choice(TEXTS).encode("utf-8", "surrogatepass")
        else:
            start = rng.randrange(len(changed) + 1)
            changed[at:at] = changed[start : start + size]
    return bytes(changed)


_WORDS = [text for text in TEXTS if text != "\ud800"]  # pandas holds UTF-8


def frame(rng: random.Random, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with a change in its cells, rows, columns or types."""
    table = table.copy()
    if not len(table.columns):
        return table
    column = rng.choice(list(table.columns))
    rows = [rng.randrange(len(table)) for _ in range(rng.randint(1, 5))] if len(table) else []
    change = rng.randrange(12)
    if change < 4 and rows:
        numeric = pd.api.types.is_numeric_dtype(table[column])
        cell: Any = rng.choice(NUMBERS[:13] if numeric else _WORDS)
        values = table[column].astype(float if numeric else object).to_numpy(copy=True)
        values[rows] = cell
        table[column] = values
    elif change == 4 and rows:
        table = table.drop(index=table.index[rows])
    elif change == 5 and rows:
        table = pd.concat([table, table.iloc[rows]], ignore_index=True)
    elif change == 6:
        table = table.drop(columns=column)
    elif change == 7:
        table = table.rename(columns={column: rng.choice(_WORDS)})
    elif change == 8:
        table = table.iloc[:0]
    elif change == 9:
        table[column] = table[rng.choice(list(table.columns))].to_numpy()
    elif change == 10:
        kinds: list[Any] = [
            np.zeros(len(table), bool),
            np.full(len(table), np.nan),
            [None] * len(table),
            [[1, 2]] * len(table),
            [{"a": 1}] * len(table),
            [b"\xff\x00"] * len(table),
            pd.date_range("2020", periods=len(table)),
            pd.Categorical(["a"] * len(table)),
            np.full(len(table), 2**62),
        ]
        table[column] = rng.choice(kinds)
    else:
        table[column] = table[column].sample(frac=1, random_state=rng.randrange(2**32)).to_numpy()
    return table
