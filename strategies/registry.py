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
import json
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
from fedtoll.scenarios.statistics import STATISTICS, Statistic
from fedtoll.strategies.base import Strategy

GROUP = "fedtoll.strategies"


def names() -> tuple[str, ...]:
    """Return the names of all installed strategies, of those too that cannot be loaded."""
    return tuple(_installed())


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
        ``"module:Class"`` or ``"/absolute/file.py:Class"``, and the SHA-256 of that file, or of the file
        that defines the module's class (empty for fedtoll's and Flower's own classes).

    Raises
    ------
    ScenarioError
        Nothing has the name, two packages install it, or its class cannot be loaded: one line.
    """
    module, colon, attribute = name.rpartition(":")
    if not colon:
        if name.endswith(".py"):
            raise ScenarioError(f"strategies: {name!r}: write {name}:Class, with the name of its class")
        installed = _installed()
        if name not in installed:
            raise ScenarioError(f"strategies: {name!r} is unknown{nearest(name, installed)}")
        module, _, attribute = _only(name, installed[name]).rpartition(":")
    if module.endswith(".py"):
        try:
            module = str(Path(module).expanduser().resolve())
            Path(module).is_file()
        except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a NUL
            raise _mistake(f"{name[:200]!r}: not a file: {error}") from None
    path = f"{module}:{attribute}"
    cls = load(path)
    own_file = module.endswith(".py")
    if not own_file and cls.__module__.split(".")[0] in {"fedtoll", "flwr"}:
        return path, ""
    try:
        source = Path(module if own_file else inspect.getfile(cls)).read_bytes()
    except (OSError, TypeError) as error:
        raise ScenarioError(f"strategies: {name!r}: its source cannot be read: {error}") from None
    return path, hashlib.sha256(source).hexdigest()


def load(path: str) -> type:
    """Return the class at ``module:Class`` or ``/file.py:Class``."""
    module, _, attribute = path.rpartition(":")
    if module.endswith(".py") and not Path(module).is_file():
        raise ScenarioError(f"strategies: {module}: no such file")
    try:
        loaded = _load_file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
    except ImportError as error:
        file = Path(module.replace(".", "/") + ".py")
        meant = f"; did you mean '{file}:{attribute}'?" if len(module) < 200 and file.is_file() else ""
        raise _mistake(f"{path!r} cannot be imported: {error}{meant}") from None
    except (Exception, SystemExit) as error:
        raise _mistake(f"{path!r} raises when imported: {error!r}") from None
    found = getattr(loaded, attribute, None)
    if not inspect.isclass(found):
        classes = [k for k, v in vars(loaded).items() if inspect.isclass(v)]
        raise ScenarioError(f"strategies: {module} has no class {attribute!r}{nearest(attribute, classes)}")
    return found


def _mistake(words: str) -> ScenarioError:
    """Return an error of one line, whatever a user's class has put into its words."""
    return ScenarioError(" ".join(f"strategies: {words}".split()))


def _load_file(path: Path) -> Any:
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
    try:
        made = {f.name: f.default_factory() for f in fields if f.default_factory is not dataclasses.MISSING}
    except Exception as error:
        raise _mistake(f"{cls.__name__}: the default of a parameter raises {error!r}") from None
    return {
        p.name: made.get(p.name, p.default)  # a signature shows a factory by a sentinel
        for p in inspect.signature(cls).parameters.values()
        if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}
    }


def _hints(cls: type[Strategy]) -> dict[str, Any]:
    """Return the type of every parameter; refuse a class whose parameters are not a dataclass's fields."""
    try:
        for base in cls.__mro__[: cls.__mro__.index(Strategy)]:
            own = [k for k, hint in inspect.get_annotations(base).items() if "ClassVar" not in str(hint)]
            if own and issubclass(base, Strategy) and "__dataclass_fields__" not in vars(base):
                raise _mistake(
                    f"{cls.__name__}: {own[0]!r} is no parameter yet: "
                    f"write @dataclass(frozen=True) above class {base.__name__}"
                )
        fields = {f.name for f in dataclasses.fields(cls) if f.init}
        if fields != inspect.signature(cls).parameters.keys():
            raise _mistake(
                f"{cls.__name__}: it has an __init__ of its own; parameters are the fields of the dataclass, "
                "which writes __init__ (__post_init__ is the place to check them)"
            )
        return typing.get_type_hints(cls)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise _mistake(f"{cls.__name__}: the type of a parameter cannot be resolved: {error}") from None


def check(cls: type[Strategy], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a strategy with every default filled in and every type checked.

    Raises
    ------
    ScenarioError
        Unknown, missing, of the wrong type or not finite, or a class whose parameters are not the fields
        of a dataclass: one line.
    """
    hints = _hints(cls)
    known = parameters(cls)
    who = f"strategies: {cls.__name__}"
    for key in given:
        if key not in known:
            raise ScenarioError(f"{who}: unknown parameter {key!r}{nearest(key, known)}")
    resolved = {k: given.get(k, default) for k, default in known.items()}
    for key, value in resolved.items():
        if value is inspect.Parameter.empty:
            raise ScenarioError(f"{who}: parameter {key!r} is missing")
    return {key: _value(f"{cls.__name__}: {key}", value, hints[key]) for key, value in resolved.items()}


def _value(what: str, value: Any, hint: Any) -> Any:
    """Return a parameter's value, checked against its type as a scenario would hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise _mistake(f"{what} = {value!r}: must be finite")
    try:
        return TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise _mistake(f"{what} = {value!r}: {message[0].lower()}{message[1:]}") from None
    except Exception:
        form = "must be a number, a text, true or false, or a list or table of these"
        raise _mistake(f"{what}: {form}, which is what a scenario can hold") from None


def build(path: str, given: Mapping[str, Any]) -> Strategy:
    """Return an instance of one of our strategies; a refused value is one line."""
    cls = load(path)
    if not issubclass(cls, Strategy):
        raise ScenarioError(f"strategies: {path!r} is not a fedtoll.strategies.base.Strategy")
    return make(cls, given)


def make(cls: type[Strategy], given: Mapping[str, Any]) -> Strategy:
    """Return an instance of a strategy's class; a refused parameter, or any other mistake, is one line."""
    resolved = check(cls, given)
    try:
        return cls(**resolved)
    except ScenarioError:
        raise
    except dataclasses.FrozenInstanceError as error:
        raise _mistake(
            f"{cls.__name__}: {error}: a strategy keeps nothing but its parameters; memory goes through state"
        ) from None
    except (ValueError, TypeError) as error:
        raise _mistake(f"{cls.__name__}: {error}") from None
    except Exception as error:
        raise _mistake(f"{cls.__name__}: cannot be made: {error!r}") from None


def asked(strategy: Strategy) -> tuple[Statistic, ...]:
    """Return the statistics that a strategy asks for, checked.

    Raises
    ------
    ScenarioError
        They are no tuple of declarations, one is unknown, or one stands twice: one line, which begins
        with what is wrong.
    """
    form = "requests must be a @property that returns a tuple of declarations, e.g. (MeanLoss(),)"
    try:
        given: Any = strategy.requests
    except Exception as error:
        raise ScenarioError(" ".join(f"requests raises {type(error).__name__}: {error}".split())) from None
    if not isinstance(given, tuple | list):
        raise ScenarioError(f"{form}; it is a {type(given).__name__}")
    taken: list[str] = []
    for statistic in given:
        name = getattr(statistic, "name", None)
        if isinstance(statistic, type) or not isinstance(name, str):
            what = f"the class {statistic.__name__}" if isinstance(statistic, type) else f"{statistic!r}"
            raise ScenarioError(" ".join(f"{form}; it holds {what}".split()))
        if name not in STATISTICS:
            raise ScenarioError(f"asks for {name!r}, which no client answers{nearest(name, STATISTICS)}")
        if type(statistic) is not STATISTICS[name]:
            raise ScenarioError(f"asks for a {name!r} that is not the one of fedtoll.scenarios.statistics")
        if name in taken:
            raise ScenarioError(f"asks for {name!r} twice")
        taken.append(name)
    return tuple(given)
