"""Find a client-side mechanism by its name, check its parameters and create it.

A mechanism can be one of fedtoll's, the name of an entry point in the group ``fedtoll.mechanisms``,
``path/to/file.py:Class``, or an import path ``package.module:Class``.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import typing
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

from fedtoll.clients.clipping.base import ClientMechanism
from fedtoll.scenarios import plugins
from fedtoll.scenarios.client import PLAIN, Client, MechanismPlan
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.foreign import ForeignCodeError, contained
from fedtoll.scenarios.run import ClientPlan

GROUP, KEY = "fedtoll.mechanisms", "client.mechanism"

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


def check_section(client: Client, lists: Mapping[str, Sequence[Any]]) -> None:
    """Check ``[client]``, and each combination of the values that ``[tune]`` has for its keys.

    Raises
    ------
    ScenarioError
        As :func:`planned`; or if no mechanism that is tried has counts to share a step's privacy with.
    """
    planned(client, "dp-sgd", 1)
    shared = False
    for values in itertools.product(*lists.values()):
        changed = client.changed(**dict(zip(lists, values, strict=True)))
        try:
            found = planned(changed, "dp-sgd", 1)
        except ForeignCodeError:
            raise
        except ScenarioError as error:
            raise ScenarioError(f"tune.{error}") from None
        shared = shared or bool(found and found.statistic_share)
    if "statistic_share" in lists and not shared:
        raise _error(f"no effect, because {client.mechanism!r} has no counts", "tune.client.statistic_share")


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
    path = plugins.located(name, KEY, _named)
    return path, plugins.digest(name, KEY, path, load(path))


def _named(name: str) -> str:
    """Return the import path of a name."""
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
    found: type[ClientMechanism] = plugins.load(path, KEY, "mechanism", ClientMechanism)
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
        checked[name] = plugins.checked(
            f"{cls.__name__}: {name}", values.get(name, default), hints[name], "client"
        )
    return checked


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


def _error(message: str, key: str = KEY) -> ScenarioError:
    return plugins.refusal(key, message)
