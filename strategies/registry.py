"""From a strategy's name to its class, and from parameters to an instance.

Three ways in: a name (an entry point of the group ``fedtoll.strategies``,
which is how ours are found too), ``path/to/file.py:Class``, and an import
path ``package.module:Class``, of Flower's strategies as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.strategies.base import Strategy

GROUP = "fedtoll.strategies"


def names() -> dict[str, str]:
    """Return every installed strategy: its name and its import path.

    Raises
    ------
    ScenarioError
        Two packages install one name: one line that names both.
    """
    return {name: _only(name, entries) for name, entries in _installed().items()}


def _installed() -> dict[str, list[EntryPoint]]:
    """Return the entry points of every name, in the order of the alphabet."""
    installed: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        installed.setdefault(entry.name, []).append(entry)
    return installed


def _only(name: str, entries: Sequence[EntryPoint]) -> str:
    """Return the one import path of a name."""
    owners = sorted({f"{e.dist.name} {e.dist.version}" if e.dist else e.value for e in entries})
    if len(owners) > 1:
        raise ScenarioError(
            f"strategies: {name!r} is the name of a strategy in {' and in '.join(owners)}; uninstall one, "
            "or write package.module:Class in the place of the name"
        )
    return entries[0].value


def resolve(name: str) -> tuple[str, str]:
    """Return the path of a strategy's class, and a digest of its source if it is not ours to version.

    Parameters
    ----------
    name
        A name, ``path/to/file.py:Class`` or ``package.module:Class``.

    Returns
    -------
    tuple
        ``"module:Class"`` or ``"/absolute/file.py:Class"``, and the SHA-256 of a file of the user's
        (empty for fedtoll's and Flower's own classes).
    """
    module, colon, attribute = name.rpartition(":")
    if not colon:
        installed = _installed()
        if name not in installed:
            raise ScenarioError(f"strategies: {name!r} is unknown{nearest(name, installed)}")
        module, _, attribute = _only(name, installed[name]).rpartition(":")
    if module.endswith(".py"):
        module = str(Path(module).expanduser().resolve())
    path = f"{module}:{attribute}"
    cls = load(path)
    package = cls.__module__.split(".")[0]
    if package in {"fedtoll", "flwr"}:
        return path, ""
    try:
        source = Path(inspect.getfile(cls)).read_bytes()
    except (OSError, TypeError) as error:
        raise ScenarioError(f"strategies: {name!r}: its source cannot be read: {error}") from None
    return path, hashlib.sha256(source).hexdigest()


def load(path: str) -> type:
    """Return the class at ``module:Class`` or ``/file.py:Class``."""
    module, _, attribute = path.rpartition(":")
    try:
        loaded = _load_file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
    except FileNotFoundError:
        raise ScenarioError(f"strategies: {module}: no such file") from None
    except ImportError as error:
        raise ScenarioError(f"strategies: {path!r} cannot be imported: {error}") from None
    except Exception as error:
        raise ScenarioError(f"strategies: {path!r} raises when imported: {error!r}") from None
    found = getattr(loaded, attribute, None)
    if not inspect.isclass(found):
        classes = [k for k, v in vars(loaded).items() if inspect.isclass(v)]
        raise ScenarioError(f"strategies: {module} has no class {attribute!r}{nearest(attribute, classes)}")
    return found


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(path)
    return _execute(path, path.read_bytes())


@lru_cache(maxsize=64)
def _execute(path: Path, source: bytes) -> Any:
    """Run a strategy's file once for each content that it has."""
    name = f"_fedtoll_strategy_{hashlib.sha256(str(path).encode() + source).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while the class body runs.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def parameters(cls: type) -> dict[str, Any]:
    """Return the names and defaults of a strategy's parameters (``inspect.Parameter.empty``: none)."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    made = {f.name: f.default_factory() for f in fields if f.default_factory is not dataclasses.MISSING}
    return {
        p.name: made.get(p.name, p.default)  # a signature shows a factory by a sentinel
        for p in inspect.signature(cls).parameters.values()
        if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}
    }


def check(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a class with every default filled in and every type checked.

    Raises
    ------
    ScenarioError
        Unknown, missing, of the wrong type, or out of range: one line.
    """
    known = parameters(cls)
    who = f"strategies: {cls.__name__}"
    for key in given:
        if key not in known:
            raise ScenarioError(f"{who}: unknown parameter {key!r}{nearest(key, known)}")
    resolved = {k: given.get(k, default) for k, default in known.items()}
    for key, value in resolved.items():
        if value is inspect.Parameter.empty:
            raise ScenarioError(f"{who}: parameter {key!r} is missing")
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        for key, value in resolved.items():
            try:
                resolved[key] = TypeAdapter(hints[key]).validate_python(value, strict=True)
            except ValidationError as error:
                message = error.errors()[0]["msg"]
                raise ScenarioError(f"{who}: {key} = {value!r}: {message[0].lower()}{message[1:]}") from None
            if isinstance(value, float) and not math.isfinite(value):
                raise ScenarioError(f"{who}: {key} = {value!r}: must be finite")
    return resolved


def build(path: str, given: Mapping[str, Any]) -> Strategy:
    """Return an instance of one of our strategies; a refused value is one line."""
    cls = load(path)
    if not issubclass(cls, Strategy):
        raise ScenarioError(f"strategies: {path!r} is not a fedtoll.strategies.base.Strategy")
    return make(cls, given)


def make(cls: type[Strategy], given: Mapping[str, Any]) -> Strategy:
    """Return an instance of a strategy's class; a refused parameter is one line."""
    resolved = check(cls, given)
    try:
        return cls(**resolved)
    except (ValueError, TypeError) as error:
        raise ScenarioError(f"strategies: {cls.__name__}: {error}") from None
