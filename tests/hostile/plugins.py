"""Strategies that misbehave: their source, made at random."""

from __future__ import annotations

import random

from tests.hostile.mutate import OBEYED, TEXTS, raw

PRINTED = "noise"
"""What some of the strategies print."""

VALUES = (
    *(
        "None",
        "True",
        "0",
        "-1",
        "1e308",
        "float('nan')",
        "float('inf')",
        "'x'",
        "b'x'",
        "[]",
        "{}",
        "()",
        "object()",
    ),
    *(
        "np.zeros(3)",
        "np.zeros((3, 3))",
        "np.full(3, np.nan)",
        "np.array([1, 'a'], dtype=object)",
        "np.zeros(0)",
    ),
    *(
        "[1.0, 2.0, 3.0]",
        "[1.0]",
        "['a'] * 3",
        "(x for x in [1])",
        "lambda: 1",
        "type",
        "int",
        "Liar()",
        "range(10**9)",
    ),
    *(
        "([1.0] * 3, {})",
        "([1.0] * 3, None)",
        "([1.0] * 3, {'a': object()})",
        "(np.ones(3), {}, 1)",
        "10**400",
    ),
    *(
        "(np.full(3, -1.0), state)",
        "(np.full(3, 1e308), state)",
        "(np.ones(2), state)",
        "({}, state)",
        "state",
        "self",
    ),
)

ERRORS = (
    *(
        "ValueError('x')",
        f"KeyError({OBEYED!r})",
        "Mute()",
        "SystemExit(0)",
        "SystemExit('bye')",
        "StopIteration()",
    ),
    *("GeneratorExit()", "Base('x')", "RecursionError()", "MemoryError()", "OSError(28, 'full', 'file')"),
    *("ExceptionGroup('g', [ValueError('a\\nb')])", "UnicodeDecodeError('utf-8', b'x', 0, 1, 'y')"),
    *(
        "Exception('x' * 100000)",
        "ImportError('a\\nb')",
        "AssertionError()",
        "Exception(Liar())",
        "Warning('w')",
    ),
)

METHODS = {
    "requests": ("@property\n    def requests(self):",),
    "init": ("def init(self, cohort):", "def init(self):", "init ="),
    "instructions": ("def instructions(self, round, state):", "def instructions(self, *a, **k):"),
    "weigh": (
        "def weigh(self, reports, state):",
        "def weigh(self):",
        "async def weigh(self, reports, state):",
    ),
    "combine": ("def combine(self, params, reports, weights, state):", "def combine(self, *a):"),
    "output": ("def output(self, params, state):",),
    "__post_init__": ("def __post_init__(self):",),
    "__repr__": ("def __repr__(self):",),
    "__eq__": ("def __eq__(self, other):",),
    "__getattr__": ("def __getattr__(self, name):",),
    "__init_subclass__": ("def __init_subclass__(cls):",),
    "__new__": ("def __new__(cls, *a, **k):",),
}

HEAD = """
from __future__ import annotations
from dataclasses import dataclass, field
import numpy as np
from fedtoll.strategies.base import Strategy, Weights
from fedtoll.strategies.fedavg import FedAvg

class Mute(Exception):
    def __str__(self):
        raise ValueError("no words")

class Base(BaseException):
    pass

class Liar:
    def __repr__(self):
        raise ValueError("no words")
    __str__ = __repr__
    def __len__(self):
        return -1
    def __iter__(self):
        raise KeyError("no items")
    def __array__(self, *a, **k):
        raise TypeError("no array")
"""

FIELDS = (
    *(
        "a: float = 1.0",
        "a: int = 'x'",
        "a: 'Nowhere' = 1",
        "a: list = field(default_factory=list)",
        "a: float",
    ),
    *("a: object = Liar()", "a: float = float('nan')", "a: dict[str, float] = field(default_factory=dict)"),
    *(
        "a: int = field(default_factory=lambda: 1 / 0)",
        "name: str = 'x'",
        "a = 1",
        "a: float = 1.0; b: str = 'c'",
    ),
)

BASES = (
    "Strategy",
    "FedAvg",
    "FedAvg",
    "FedAvg",
    "object",
    "FedAvg, Strategy",
    "dict",
    "int",
    "Exception",
    "Liar",
)


def source(rng: random.Random) -> bytes:
    """Return the source of a file ``mine.py`` with a class ``Mine``."""
    lines = [HEAD]
    if rng.random() < 0.08:
        lines.append(_body(rng, "").strip())  # at import
    decorator = rng.choice(
        ["@dataclass(frozen=True)"] * 4 + ["@dataclass", "", "@property", "@(lambda cls: None)"]
    )
    lines.append(decorator)
    lines.append(f"class Mine({rng.choice(BASES)}):")
    doc = rng.choice([*TEXTS[:8], "Mine."]).replace("\0", "").encode("utf-8", "replace").decode()
    lines.append(f"    {doc!r}")
    if rng.random() < 0.4:
        lines.append(f"    {rng.choice(FIELDS)}")
    for name in rng.sample(sorted(METHODS), rng.randint(1, 3)):
        head = rng.choice(METHODS[name])
        if head.endswith("="):
            lines.append(f"    {head} {rng.choice(VALUES).replace('state', 'None').replace('self', 'None')}")
        else:
            lines.append(f"    {head}\n{_body(rng, '        ')}")
    text = "\n".join(lines).encode("utf-8", "replace")
    return raw(rng, text, most=2) if rng.random() < 0.1 else text


def _body(rng: random.Random, indent: str) -> str:
    """Return statements that return something strange, or raise."""
    if rng.random() < 0.35 or not indent:
        return f"{indent}raise {rng.choice(ERRORS)}"
    before = rng.choice(
        [
            "",
            "",
            "",
            "self.a = 1\n",
            f"print({PRINTED!r})\n",
            "reports = list(reports) * 2\n",
        ]
    )
    lines = f"{before}return {rng.choice(VALUES)}"
    return "\n".join(indent + line for line in lines.splitlines())
