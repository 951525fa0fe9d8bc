"""Find a client-side mechanism by its name, check its parameters and create it.

A mechanism can be one of fedtoll's, the name of an entry point in the group ``fedtoll.mechanisms``,
``path/to/file.py:Class``, or an import path ``package.module:Class``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from fedtoll.clients.clipping.base import ClientMechanism
from fedtoll.scenarios.client import PLAIN, Client, MechanismPlan
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.foreign import ForeignCodeError
from fedtoll.scenarios.plugins import Registry, refusal
from fedtoll.scenarios.run import ClientPlan

BUILT_IN = {
    "dpsgd-f": "fedtoll.clients.clipping.dpsgd_f:DPSGDF",
    "dp-sgd-global": "fedtoll.clients.clipping.global_scaling:DPSGDGlobal",
    "global-adapt": "fedtoll.clients.clipping.global_scaling:GlobalAdapt",
    "adaptive-clip": "fedtoll.clients.clipping.adaptive:AdaptiveClip",
    "bounded-adaptive-clip": "fedtoll.clients.clipping.adaptive:BoundedAdaptiveClip",
}
"""The import paths of fedtoll's own mechanisms."""

REGISTRY = Registry("mechanism", ClientMechanism, "client.mechanism", "fedtoll.mechanisms", BUILT_IN)


def names() -> tuple[str, ...]:
    """Return the names of all mechanisms, with those of installed packages."""
    return tuple(sorted({PLAIN, *REGISTRY.names()}))


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
        raise REGISTRY.refusal(
            f"{client.mechanism}: cells returned {cells!r}: must be a whole number of 0 or more"
        )
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
        raise refusal("tune.client.statistic_share", f"no effect, because {client.mechanism!r} has no counts")


def with_noise(clients: Sequence[ClientPlan], plan: MechanismPlan | None) -> tuple[ClientPlan, ...]:
    """Return clients whose noise is divided among gradient and statistic, if there is one."""
    if plan is None or not plan.statistic_share:
        return tuple(clients)
    return tuple(c.changed(noise_share=plan.gradient_noise(c.noise_multiplier)) for c in clients)


def resolve(name: str) -> tuple[str, str]:
    """Return the path of a mechanism's class and the SHA-256 of its source, as :meth:`Registry.resolve`."""
    return REGISTRY.resolve(name, [PLAIN])


def load(path: str) -> type[ClientMechanism]:
    """Return the class at ``module:Class`` or ``/file.py:Class``; raise in one line if there is none."""
    found: type[ClientMechanism] = REGISTRY.load(path)
    return found


def check(cls: type[ClientMechanism], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all parameters of a mechanism, with defaults filled in and types checked."""
    return REGISTRY.check(cls, values, Client.model_fields)


def instantiate(path: str, values: Mapping[str, Any]) -> ClientMechanism:
    """Return the mechanism at a path; whatever goes wrong raises a one-line ScenarioError."""
    found: ClientMechanism = REGISTRY.instantiate(path, values)
    return found


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
    found: ClientMechanism = REGISTRY.planned(path, digest, json.loads(values))
    return found
