"""Find a client-side mechanism by its name, check its parameters and create it.

A mechanism can be one of fedtoll's, the name of an entry point in the group ``fedtoll.mechanisms``,
``path/to/file.py:Class``, or an import path ``package.module:Class``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import math
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedtoll.clients.clipping.base import ClientMechanism
from fedtoll.scenarios import shipped
from fedtoll.scenarios.client import PLAIN, Client, MechanismPlan
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.foreign import OWN, contained, require
from fedtoll.scenarios.run import ClientPlan

GROUP = "fedtoll.mechanisms"

BUILT_IN = {
    "dpsgd-f": "fedtoll.clients.clipping.dpsgd_f:DPSGDF",
    "dp-sgd-global": "fedtoll.clients.clipping.global_scaling:DPSGDGlobal",
    "global-adapt": "fedtoll.clients.clipping.global_scaling:GlobalAdapt",
    "adaptive-clip": "fedtoll.clients.clipping.adaptive:AdaptiveClip",
    "bounded-adaptive-clip": "fedtoll.clients.clipping.adaptive:BoundedAdaptiveClip",
}
"""The import paths of fedtoll's own mechanisms."""


def names() -> tuple[str, ...]:
    """Return the names of all mechanisms, with those of installed packages."""
    return tuple(sorted({PLAIN, *BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))}))


def planned(client: Client, mechanism: str, groups: int) -> MechanismPlan | None:
    """Return what a run records of the section ``[client]``; ``None`` if that is plain DP-SGD.

    Parameters
    ----------
    client
        The section.
    mechanism
        That of the run: under ``none`` nothing is clipped, so only momentum is left.
    groups
        The number of groups of the scenario.

    Raises
    ------
    ScenarioError
        If the mechanism cannot be loaded, or a parameter is not valid. One line.
    """
    if client.mechanism == PLAIN or mechanism == "none":
        return MechanismPlan(name=PLAIN, momentum=client.momentum) if client.momentum else None
    path, digest = resolve(client.mechanism)
    values = check(load(path), client.parameters)
    cells = instantiate(path, values).cells(groups)
    if type(cells) is not int or cells < 0:
        raise _error(f"{client.mechanism}: cells returned {cells!r}: must be a whole number of 0 or more")
    return MechanismPlan(
        name=client.mechanism.rsplit(":", 1)[-1],
        path=path,
        parameters=values,
        digest=digest,
        statistic_share=client.statistic_share if cells else 0.0,
        momentum=client.momentum,
    )


def with_noise(clients: Sequence[ClientPlan], plan: MechanismPlan | None) -> tuple[ClientPlan, ...]:
    """Return clients whose noise is divided among gradient and statistic, if there is one."""
    if plan is None or not plan.statistic_share:
        return tuple(clients)
    return tuple(c.changed(noise_share=plan.gradient_noise(c.noise_multiplier)) for c in clients)


def resolve(name: str) -> tuple[str, str]:
    """Return the path of a mechanism's class, and the SHA-256 of its source; empty for fedtoll's own.

    Parameters
    ----------
    name
        A name, ``path/to/file.py:Class`` or ``package.module:Class``.

    Raises
    ------
    ScenarioError
        If no mechanism has the name, two packages install it, or its class cannot be loaded. One line.
    """
    module, colon, attribute = name.rpartition(":")
    if not colon:
        module, _, attribute = _named(name).rpartition(":")
    if module.endswith(".py") and not shipped.received(Path(module)):
        try:
            module = str(Path(module).expanduser().resolve())
            Path(module).is_file()
        except (OSError, RuntimeError, ValueError) as error:  # too long, a symlink loop, a NUL byte
            raise _error(f"{name[:200]!r}: not a file: {error}") from None
    path = f"{module}:{attribute}"
    cls = load(path)
    is_file = module.endswith(".py")
    if not is_file and cls.__module__.split(".")[0] in OWN:
        return path, ""
    try:
        source = shipped.read_bytes(Path(module if is_file else inspect.getfile(cls)))
    except (OSError, TypeError) as error:
        raise _error(f"{name!r}: its source cannot be read: {error}") from None
    return path, hashlib.sha256(source).hexdigest()


def _named(name: str) -> str:
    """Return the import path of a name."""
    if name.endswith(".py"):
        raise _error(f"{name!r}: write {name}:Class, with the name of its class")
    found = {entry.value for entry in entry_points(group=GROUP) if entry.name == name}
    found |= {BUILT_IN[name]} if name in BUILT_IN else set()
    if not found:
        raise _error(f"{name!r} is unknown{nearest(name, names())}")
    if len(found) > 1:
        raise _error(f"{name!r} is the name of {len(found)} mechanisms; write package.module:Class instead")
    return found.pop()


def load(path: str) -> type[ClientMechanism]:
    """Return the class at ``module:Class`` or ``/file.py:Class``.

    Raises
    ------
    ScenarioError
        If the file or module does not exist, raises when imported, or has no such mechanism. One line.
    """
    module, _, attribute = path.rpartition(":")
    if module.endswith(".py") and not (shipped.received(Path(module)) or Path(module).is_file()):
        raise _error(f"{module}: no such file")
    require(module)
    try:
        with contained():
            loaded = (
                shipped.load(Path(module), "mechanism")
                if module.endswith(".py")
                else importlib.import_module(module)
            )
    except ImportError as error:
        raise _error(f"{path!r} cannot be imported: {error}") from None
    except (Exception, SystemExit) as error:
        raise _error(f"{path!r} raises when imported: {error!r}") from None
    found = getattr(loaded, attribute, None)
    if not (inspect.isclass(found) and issubclass(found, ClientMechanism)):
        known = [k for k, v in vars(loaded).items() if inspect.isclass(v) and issubclass(v, ClientMechanism)]
        raise _error(f"{module} has no ClientMechanism {attribute!r}{nearest(attribute, known)}")
    return found


def check(cls: type[ClientMechanism], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a mechanism, with defaults filled in and types checked.

    Raises
    ------
    ScenarioError
        If a parameter is unknown, missing, of the wrong type or not finite. One line.
    """
    try:
        hints = typing.get_type_hints(cls)
        fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        raise _error(f"{cls.__name__}: the type of a parameter cannot be resolved: {error}") from None
    stated = [k for k, t in inspect.get_annotations(cls).items() if "ClassVar" not in str(t)]
    if any(name not in fields for name in stated):
        raise _error(f"{cls.__name__}: write @dataclass(frozen=True) above the class")
    for key in values:
        if key not in fields:
            known = [*fields, *Client.model_fields]
            raise _error(f"{cls.__name__}: unknown parameter {key!r}{nearest(key, known)}", "client")
    checked: dict[str, Any] = {}
    for name, field in fields.items():
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if name not in values and default is dataclasses.MISSING:
            raise _error(f"{cls.__name__}: parameter {name!r} is missing", "client")
        checked[name] = _value(f"{cls.__name__}: {name}", values.get(name, default), hints[name])
    return checked


def _value(what: str, value: Any, hint: Any) -> Any:
    """Return a parameter's value, checked against its type as if read from a scenario file."""
    if isinstance(value, float) and not math.isfinite(value):
        raise _error(f"{what} = {value!r}: must be finite", "client")
    try:
        return TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise _error(f"{what} = {value!r}: {message[0].lower()}{message[1:]}", "client") from None
    except Exception:
        form = "must be a number, a string, true or false, or a list or table of these"
        raise _error(f"{what}: {form}, as in a scenario file", "client") from None


def instantiate(path: str, values: Mapping[str, Any]) -> ClientMechanism:
    """Return the mechanism at a path; whatever goes wrong raises a one-line ScenarioError."""
    cls = load(path)
    try:
        with contained():
            return cls(**values)
    except ScenarioError:
        raise
    except (ValueError, TypeError) as error:
        raise _error(f"{cls.__name__}: {error}", "client") from None
    except (Exception, SystemExit) as error:
        raise _error(f"{cls.__name__}: cannot be created: {error!r}") from None


def built(plan: MechanismPlan) -> ClientMechanism:
    """Return the mechanism of a run.

    Raises
    ------
    ScenarioError
        If its source here is not that with which the run was planned.
    """
    return _built(plan.path, plan.digest, json.dumps(plan.parameters, sort_keys=True))


def sources(plan: MechanismPlan | None) -> list[tuple[str, str, str]]:
    """Return the path of a run's mechanism, and the digests of its source: the plan's and the one here."""
    if plan is None or not plan.path:
        return []
    return [(plan.path, plan.digest, resolve(plan.path)[1])]


@lru_cache(maxsize=16)
def _built(path: str, digest: str, values: str) -> ClientMechanism:
    if resolve(path)[1] != digest:
        raise _error(f"{path}: not the source that the run was planned with")
    return instantiate(path, json.loads(values))


def _error(message: str, key: str = "client.mechanism") -> ScenarioError:
    """Return a one-line error, even if a user's class puts line breaks into the message."""
    return ScenarioError(" ".join(f"{key}: {message}".split()))
