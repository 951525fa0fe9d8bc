"""Find a class that a user names, of a strategy or a client-side mechanism, and check its parameters.

It is given by the name of an entry point, as ``path/to/file.py:Class`` or as ``package.module:Class``. Errors
are one line that begins with the key of the scenario that names it.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedtoll.scenarios import shipped
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.foreign import OWN, contained, require


def refusal(key: str, message: str) -> ScenarioError:
    """Return a one-line error, even if a user's class puts line breaks into the message."""
    return ScenarioError(" ".join(f"{key}: {message}".split()))


def located(name: str, key: str, installed: Callable[[str], str]) -> str:
    """Return the path of a class, ``module:Class`` or ``/absolute/file.py:Class``.

    Parameters
    ----------
    name, key
        What the user wrote, and the key under which.
    installed
        Returns the import path of an entry point, or raises.
    """
    module, colon, attribute = name.rpartition(":")
    if not colon:
        if name.endswith(".py"):
            raise refusal(key, f"{name!r}: write {name}:Class, with the name of its class")
        module, _, attribute = installed(name).rpartition(":")
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
    if is_file and not (shipped.received(Path(module)) or Path(module).is_file()):
        raise refusal(key, f"{module}: no such file")
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
        classes = [k for k, v in vars(loaded).items() if inspect.isclass(v) and issubclass(v, base)]
        what = "class" if base is object else base.__name__
        raise refusal(key, f"{module} has no {what} {attribute!r}{nearest(attribute, classes)}")
    return found


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
