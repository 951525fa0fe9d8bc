"""Find a strategy's class by its name, check its parameters and create an instance.

A strategy can be given in three ways: by the name of an entry point in the
group ``fedtoll.strategies`` (as fedtoll's own are), as
``path/to/file.py:Class``, or by an import path ``package.module:Class``, which
also reaches Flower's strategies.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

from fedtoll.scenarios import plugins
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.foreign import contained
from fedtoll.scenarios.statistics import STATISTICS, Statistic
from fedtoll.strategies.base import Strategy
from fedtoll.strategies.interactive import has_no_file, main_digest

GROUP, KEY = "fedtoll.strategies", "strategies"


def names() -> tuple[str, ...]:
    """Return the names of all installed strategies, including those that cannot be loaded."""
    return tuple(_installed())


def installed_path(name: str) -> str:
    """Return the import path of an installed strategy; empty if several packages install its name."""
    paths = {entry.value for entry in _installed()[name]}
    return paths.pop() if len(paths) == 1 else ""


def _installed() -> dict[str, list[EntryPoint]]:
    """Return the entry points of every name, in alphabetical order."""
    installed: dict[str, list[EntryPoint]] = {}
    for entry in plugins.installed(GROUP):
        installed.setdefault(entry.name, []).append(entry)
    return installed


def _unique(name: str, entries: Sequence[EntryPoint]) -> str:
    """Return the import path of a name; raise if several packages install it."""
    owners = sorted({f"{e.dist.name} {e.dist.version}" if e.dist else e.value for e in entries})
    if len(owners) > 1:
        raise ScenarioError(
            f"strategies: {name!r} is the name of a strategy in {' and in '.join(owners)}; uninstall one, "
            "or write package.module:Class instead of the name"
        )
    return entries[0].value


def resolve(name: str) -> tuple[str, str]:
    """Return the path of a strategy's class, and a digest of its source unless fedtoll or Flower versions it.

    Parameters
    ----------
    name
        A name, ``path/to/file.py:Class`` or ``package.module:Class``.

    Returns
    -------
    tuple
        ``"module:Class"`` or ``"/absolute/file.py:Class"``, and the SHA-256 of that file or, for a module,
        of the file that defines the class. The digest is empty for fedtoll's and Flower's own classes.

    Raises
    ------
    ScenarioError
        If no strategy has the name, two packages install it, or its class cannot be loaded. One line.
    """
    path = plugins.located(name, KEY, _installed_once)
    cls = load(path)
    if has_no_file(cls):
        return path, main_digest(cls)
    return path, plugins.digest(name, KEY, path, cls)


def _installed_once(name: str) -> str:
    """Return the import path of an installed strategy's class."""
    if name not in (installed := _installed()):
        raise _error(f"{name!r} is unknown{nearest(name, installed)}")
    return _unique(name, installed[name])


def load(path: str) -> type:
    """Return the class at ``module:Class`` or ``/file.py:Class``.

    Raises
    ------
    ScenarioError
        If the file or module does not exist, raises when imported, or has no such class. One line.
    """
    found: type = plugins.load(path, KEY, "strategy")
    return found


def _error(message: str) -> ScenarioError:
    """Return a one-line error, even if a user's class puts line breaks into the message."""
    return plugins.refusal(KEY, message)


def parameters(cls: type) -> dict[str, Any]:
    """Return a strategy's parameters by name with their defaults; ``inspect.Parameter.empty`` if required."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    try:
        defaults = {
            f.name: f.default_factory() for f in fields if f.default_factory is not dataclasses.MISSING
        }
    except (Exception, SystemExit) as error:
        raise _error(f"{cls.__name__}: the default of a parameter raises {error!r}") from None
    return {
        p.name: defaults.get(p.name, p.default)  # a signature shows a sentinel in place of a factory's value
        for p in inspect.signature(cls).parameters.values()
        if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}
    }


def _hints(cls: type[Strategy]) -> dict[str, Any]:
    """Return the type of every parameter; raise if the parameters are not the fields of a dataclass."""
    try:
        for base in cls.__mro__[: cls.__mro__.index(Strategy)]:
            annotated = [k for k, t in inspect.get_annotations(base).items() if "ClassVar" not in str(t)]
            if annotated and issubclass(base, Strategy) and "__dataclass_fields__" not in vars(base):
                raise _error(
                    f"{cls.__name__}: {annotated[0]!r} is not a parameter yet: "
                    f"write @dataclass(frozen=True) above class {base.__name__}"
                )
        fields = {f.name for f in dataclasses.fields(cls) if f.init}
        if fields != inspect.signature(cls).parameters.keys():
            raise _error(
                f"{cls.__name__}: defines its own __init__; parameters are the fields of the dataclass, "
                "which generates __init__ (check them in __post_init__)"
            )
        return typing.get_type_hints(cls)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise _error(f"{cls.__name__}: the type of a parameter cannot be resolved: {error}") from None


def check(cls: type[Strategy], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a strategy, with defaults filled in and types checked.

    Raises
    ------
    ScenarioError
        If a parameter is unknown, missing, of the wrong type or not finite, or if the parameters of the
        class are not the fields of a dataclass. One line.
    """
    hints = _hints(cls)
    known = parameters(cls)
    prefix = f"strategies: {cls.__name__}"
    for key in values:
        if key not in known:
            raise ScenarioError(f"{prefix}: unknown parameter {key!r}{nearest(key, known)}")
    resolved = {k: values.get(k, default) for k, default in known.items()}
    for key, value in resolved.items():
        if value is inspect.Parameter.empty:
            raise ScenarioError(f"{prefix}: parameter {key!r} is missing")
    return {
        key: plugins.checked(f"{cls.__name__}: {key}", value, hints[key], KEY)
        for key, value in resolved.items()
    }


def build(path: str, values: Mapping[str, Any]) -> Strategy:
    """Return an instance of the strategy at a path; an invalid parameter raises a one-line ScenarioError."""
    cls = load(path)
    if not issubclass(cls, Strategy):
        raise ScenarioError(f"strategies: {path!r} is not a fedtoll.strategies.base.Strategy")
    return instantiate(cls, values)


def instantiate(cls: type[Strategy], values: Mapping[str, Any]) -> Strategy:
    """Return an instance of a strategy's class; whatever goes wrong raises a one-line ScenarioError."""
    resolved = check(cls, values)
    try:
        with contained():
            return cls(**resolved)
    except ScenarioError:
        raise
    except dataclasses.FrozenInstanceError as error:
        raise _error(
            f"{cls.__name__}: {error}: a strategy holds only its parameters; everything else belongs in state"
        ) from None
    except (ValueError, TypeError) as error:
        raise _error(f"{cls.__name__}: {error}") from None
    except (Exception, SystemExit) as error:
        raise _error(f"{cls.__name__}: cannot be created: {error!r}") from None


def revision(strategy: Strategy) -> int:
    """Return how often fedtoll changed what a strategy computes, plus 1; with its target's changes.

    A wrapper's number is the sum of its own changes and those of the strategy it wraps, plus 1. Neither ever
    falls, so a change of either gives a new number.

    Raises
    ------
    ScenarioError
        If a user's class raises when it is asked. One line.
    """
    try:
        with contained():
            changes, inner = type(strategy)._revision - 1, getattr(strategy, "wrapped", None)
            return 1 + changes + (revision(inner) - 1 if isinstance(inner, Strategy) else 0)
    except ScenarioError:
        raise
    except (Exception, SystemExit) as error:
        raise _error(f"{type(strategy).__name__}: raises {error!r}") from None


def asked(strategy: Strategy, method: str, *arguments: Any) -> Any:
    """Return what a method of a strategy returns; whatever it raises is a one-line ScenarioError."""
    try:
        with contained():
            return getattr(strategy, method)(*arguments)
    except ScenarioError:
        raise
    except (Exception, SystemExit) as error:
        raise _error(f"{type(strategy).__name__}: {method} raises {error!r}") from None


def stored(cls: type[Strategy], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a run stores: all but those added later that have their default."""
    defaults = parameters(cls)
    return {k: v for k, v in values.items() if k not in cls._later or v != defaults[k]}


def requested_statistics(strategy: Strategy) -> tuple[Statistic, ...]:
    """Return the statistics that a strategy requests, after checking them.

    Raises
    ------
    ScenarioError
        If ``requests`` is not a tuple of declarations, or one is unknown or requested twice. One line,
        without the strategy's name.
    """
    form = "requests must be a @property that returns a tuple of declarations, e.g. (MeanLoss(),)"
    try:
        with contained():
            requests: Any = strategy.requests
    except (Exception, SystemExit) as error:
        raise ScenarioError(" ".join(f"requests raises {type(error).__name__}: {error}".split())) from None
    if not isinstance(requests, tuple | list):
        raise ScenarioError(f"{form}; it is a {type(requests).__name__}")
    seen: list[str] = []
    for statistic in requests:
        name = getattr(statistic, "name", None)
        if isinstance(statistic, type) or not isinstance(name, str):
            what = f"the class {statistic.__name__}" if isinstance(statistic, type) else f"{statistic!r}"
            raise ScenarioError(" ".join(f"{form}; it holds {what}".split()))
        if name not in STATISTICS:
            raise ScenarioError(f"requests {name!r}, which clients cannot compute{nearest(name, STATISTICS)}")
        if type(statistic) is not STATISTICS[name]:
            raise ScenarioError(f"requests a {name!r} that is not the one of fedtoll.scenarios.statistics")
        if name in seen:
            raise ScenarioError(f"requests {name!r} twice")
        seen.append(name)
    return tuple(requests)
