"""Find a class that a user names: a strategy, a client-side mechanism or a personal model.

It is given by the name of an entry point, as ``path/to/file.py:Class`` or as ``package.module:Class``. Its
parameters are checked. Errors are one line that begins with the key of the scenario that names it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import math
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedtoll.scenarios import shipped
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.foreign import OWN, contained, require


def refusal(key: str, message: str) -> ScenarioError:
    """Return a one-line error, even if a user's class puts line breaks into the message."""
    return ScenarioError(" ".join(f"{key}: {message}".split()))


def installed(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, in alphabetical order.

    Reading the metadata of all packages takes milliseconds, and a sweep asks for each run. So they are read
    again only if a folder of ``sys.path`` changed, as it does when a package is installed or removed.
    """
    return _installed_in(group, tuple((folder, _modified(folder)) for folder in sys.path))


def _modified(folder: str) -> int:
    try:
        return Path(folder or ".").stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=8)
def _installed_in(group: str, folders: tuple[tuple[str, int], ...]) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=group), key=lambda e: (e.name, e.value)))


def located(name: str, key: str, path_of: Callable[[str], str]) -> str:
    """Return the path of a class, ``module:Class`` or ``/absolute/file.py:Class``.

    Parameters
    ----------
    name, key
        What the user wrote, and the key under which.
    path_of
        Returns the import path of an entry point, or raises.
    """
    module, colon, attribute = name.rpartition(":")
    if not colon:
        if name.endswith(".py"):
            raise refusal(key, f"{name!r}: write {name}:Class, with the name of its class")
        module, _, attribute = path_of(name).rpartition(":")
    if module.endswith(".py") and not shipped.received(Path(module)):
        try:
            module = str(Path(module).expanduser().resolve())
            Path(module).is_file()
        except (OSError, RuntimeError, ValueError) as error:  # too long, a symlink loop, a NUL byte
            raise refusal(key, f"{name[:200]!r}: not a file: {error}") from None
    return f"{module}:{attribute}"


def load(path: str, key: str, kind: str, base: type = object) -> Any:
    """Import a class.

    Parameters
    ----------
    path, key
        From :func:`located`, and the key for errors.
    kind
        ``strategy`` or ``mechanism``.
    base
        Of which it must be a subclass.

    Raises
    ------
    ScenarioError
        If the file or module does not exist, raises when imported, or has no such class.
    """
    module, _, attribute = path.rpartition(":")
    is_file = module.endswith(".py")
    if is_file and not (shipped.received(Path(module)) or _is_file(Path(module))):
        raise refusal(key, f"{module[:200]}: no such file")
    require(module)
    try:
        with contained():
            loaded = shipped.load(Path(module), kind) if is_file else importlib.import_module(module)
    except ImportError as error:
        file = Path(module.replace(".", "/") + ".py")
        hint = f"; did you mean '{file}:{attribute}'?" if len(module) < 200 and file.is_file() else ""
        raise refusal(key, f"{path!r} cannot be imported: {error}{hint}") from None
    except (Exception, SystemExit) as error:
        raise refusal(key, f"{path!r} raises when imported: {error!r}") from None
    found = getattr(loaded, attribute, None)
    if not (inspect.isclass(found) and issubclass(found, base)):
        classes = [
            name
            for name, value in vars(loaded).items()
            if inspect.isclass(value) and issubclass(value, base)
            if not is_file or value.__module__ == loaded.__name__  # not what a user's file imports
        ]
        what = "class" if base is object else base.__name__
        raise refusal(key, f"{module} has no {what} {attribute!r}{nearest(attribute, classes)}")
    return found


def path_of(cls: type) -> str:
    """Return ``file.py:Class`` for a class that was loaded from a user's file, else ``module:Class``."""
    module = cls.__module__
    if module.startswith(shipped.PREFIX) and (loaded := sys.modules.get(module)) is not None:
        return f"{loaded.__file__}:{cls.__qualname__}"
    return f"{module}:{cls.__qualname__}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def digest(name: str, key: str, path: str, cls: type) -> str:
    """Return the SHA-256 of the file that defines a class; empty for fedtoll's and Flower's own."""
    module = path.rpartition(":")[0]
    is_file = module.endswith(".py")
    if not is_file and cls.__module__.split(".")[0] in OWN:
        return ""
    try:
        source = shipped.read_bytes(Path(module if is_file else inspect.getfile(cls)))
    except (OSError, TypeError) as error:
        raise refusal(key, f"{name!r}: its source cannot be read: {error}") from None
    return hashlib.sha256(source).hexdigest()


def checked(what: str, value: Any, hint: Any, key: str) -> Any:
    """Return a parameter's value, checked against its type as if read from a scenario file."""
    if isinstance(value, float) and not math.isfinite(value):
        raise refusal(key, f"{what} = {value!r}: must be finite")
    try:
        return TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise refusal(key, f"{what} = {value!r}: {message[0].lower()}{message[1:]}") from None
    except Exception:
        form = "must be a number, a string, true or false, or a list or table of these"
        raise refusal(key, f"{what}: {form}, as in a scenario file") from None


@dataclasses.dataclass(frozen=True, eq=False)
class Registry:
    """The classes of one kind that are frozen dataclasses with their parameters as fields.

    Parameters
    ----------
    kind, base
        What they are, in a word or two, and the class of which they are subclasses.
    key
        The key of the scenario that names one; its section has the parameters.
    group
        The group of their entry points.
    built_in
        The import paths of fedtoll's own, by name.
    """

    kind: str
    base: type
    key: str
    group: str
    built_in: Mapping[str, str]

    @property
    def section(self) -> str:
        """The section of the scenario that has the parameters."""
        return self.key.partition(".")[0]

    def names(self) -> tuple[str, ...]:
        """Return the names of all, with those of installed packages."""
        return tuple(sorted({*self.built_in, *(entry.name for entry in installed(self.group))}))

    def resolve(self, name: str, known: Iterable[str] = ()) -> tuple[str, str]:
        """Return the path of a class, and the SHA-256 of its source; empty for fedtoll's own.

        Parameters
        ----------
        name
            A name, ``path/to/file.py:Class`` or ``package.module:Class``.
        known
            Names that the key takes too, for the nearest right word.

        Raises
        ------
        ScenarioError
            If nothing has the name, two packages install it, or its class cannot be loaded. One line.
        """

        def path_of(name: str) -> str:
            found = {entry.value for entry in installed(self.group) if entry.name == name}
            found |= {self.built_in[name]} if name in self.built_in else set()
            if not found:
                raise self.refusal(f"{name!r} is unknown{nearest(name, [*self.names(), *known])}")
            if len(found) > 1:
                both = f"the name of {len(found)} {self.kind}s"
                raise self.refusal(f"{name!r} is {both}; write package.module:Class instead")
            return found.pop()

        path = located(name, self.key, path_of)
        return path, digest(name, self.key, path, self.load(path))

    def load(self, path: str) -> Any:
        """Return the class at ``module:Class`` or ``/file.py:Class``, as :func:`load` does."""
        return load(path, self.key, self.kind, self.base)

    def check(self, cls: type, values: Mapping[str, Any], known: Iterable[str] = ()) -> dict[str, Any]:
        """Return all parameters of a class, with defaults filled in and types checked.

        Parameters
        ----------
        cls, values
            The class, and the parameters that the scenario states.
        known
            Keys that the section has besides, for the nearest right word.

        Raises
        ------
        ScenarioError
            If a parameter is unknown, missing, of the wrong type or not finite. One line.
        """
        try:
            hints = typing.get_type_hints(cls)
            fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
        except (NameError, TypeError, AttributeError, SyntaxError) as error:
            line = f"{cls.__name__}: the type of a parameter cannot be resolved: {error}"
            raise self.refusal(line) from None
        stated = [k for k, t in inspect.get_annotations(cls).items() if "ClassVar" not in str(t)]
        if any(name not in fields for name in stated):
            raise self.refusal(f"{cls.__name__}: write @dataclass(frozen=True) above the class")
        for key in values:
            if key not in fields:
                hint = nearest(key, [*fields, *known])
                raise refusal(self.section, f"{cls.__name__}: unknown parameter {key!r}{hint}")
        found: dict[str, Any] = {}
        for name, field in fields.items():
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            if name not in values and default is dataclasses.MISSING:
                raise refusal(self.section, f"{cls.__name__}: parameter {name!r} is missing")
            value = values.get(name, default)
            found[name] = checked(f"{cls.__name__}: {name}", value, hints[name], self.section)
        return found

    def instantiate(self, path: str, values: Mapping[str, Any]) -> Any:
        """Return an object of the class at a path; whatever goes wrong raises a one-line ScenarioError."""
        cls = self.load(path)
        try:
            with contained():
                return cls(**values)
        except ScenarioError:
            raise
        except (ValueError, TypeError) as error:
            raise refusal(self.section, f"{cls.__name__}: {error}") from None
        except (Exception, SystemExit) as error:
            raise self.refusal(f"{cls.__name__}: cannot be created: {error!r}") from None

    def planned(self, path: str, planned_digest: str, values: Mapping[str, Any]) -> Any:
        """Return an object of a class with which a run was planned.

        Raises
        ------
        ScenarioError
            If its source here is not that with which the run was planned.
        """
        if self.resolve(path)[1] != planned_digest:
            raise self.refusal(f"{path}: not the source that the run was planned with")
        return self.instantiate(path, values)

    def refusal(self, message: str) -> ScenarioError:
        """Return a one-line error about the key."""
        return refusal(self.key, message)
