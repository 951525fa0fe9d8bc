"""Strategies that a notebook, a script or an interactive session defines itself."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

MAIN = "__main__"
"""The module of what a script, a notebook or an interactive session defines; only its process has it."""


def has_no_file(cls: type) -> bool:
    """Return whether a class was typed into a session or came through a pipe."""
    file = getattr(sys.modules[MAIN], "__file__", None)
    return cls.__module__ == MAIN and (file is None or not Path(file).is_file())


def main_digest(cls: type) -> str:
    """Return a SHA-256 of a class that has no file, in hex, so that a changed class gives another run.

    It covers the code of the class, and of the functions, classes and plain values of its session that it
    uses by name. Modules that it imports are not covered.
    """
    digest = hashlib.sha256()
    for text in _content(cls, set()):
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()


def _content(value: Any, seen: set[int]) -> Iterator[str]:
    """Yield what defines a class, a function or a plain value, and all that it uses of its session."""
    if isinstance(value, bool | int | float | str | bytes | tuple | None):
        yield repr(value)
    elif isinstance(value, property):
        for part in (value.fget, value.fset):
            yield from _content(part, seen)
    elif isinstance(value, classmethod | staticmethod):
        yield from _content(value.__func__, seen)
    elif id(value) in seen or getattr(value, "__module__", None) != MAIN:
        yield getattr(value, "__qualname__", type(value).__qualname__)
    elif isinstance(value, FunctionType):
        seen.add(id(value))
        yield repr((value.__defaults__, value.__kwdefaults__))
        yield from _code(value.__code__, seen)
    elif inspect.isclass(value):
        seen.add(id(value))
        yield value.__qualname__
        for base in value.__bases__:
            yield from _content(base, seen)
        for name, part in sorted(vars(value).items()):
            if not name.startswith("__") or name in {"__init__", "__post_init__", "__annotations__"}:
                yield name
                yield from _content(part, seen)


def _code(code: CodeType, seen: set[int]) -> Iterator[str]:
    """Yield the instructions and constants of a function, and what its names mean in the session."""
    yield code.co_code.hex()
    for constant in code.co_consts:
        yield from _code(constant, seen) if isinstance(constant, CodeType) else (repr(constant),)
    session = vars(sys.modules[MAIN])
    for name in code.co_names:
        yield name
        if name in session:
            yield from _content(session[name], seen)
