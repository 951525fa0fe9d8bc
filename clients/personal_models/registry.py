"""Find a personal model by its name, check its parameters and create it.

It can be one of fedtoll's, the name of an entry point in the group ``fedtoll.personal_models``,
``path/to/file.py:Class``, or an import path ``package.module:Class``.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from fedtoll.clients.personal_models.base import PersonalModel
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.foreign import ForeignCodeError, contained
from fedtoll.scenarios.personal import Personal, PersonalPlan
from fedtoll.scenarios.plugins import Registry, refusal

_METHODS = "fedtoll.clients.personal_models.methods"
BUILT_IN = {"mr-mtl": f"{_METHODS}:MRMTL", "fedper": f"{_METHODS}:FedPer", "ditto": f"{_METHODS}:Ditto"}
"""The import paths of fedtoll's own."""

REGISTRY = Registry("personal model", PersonalModel, "personal.kind", "fedtoll.personal_models", BUILT_IN)


def planned(personal: Personal | None) -> PersonalPlan | None:
    """Return what a run records of the section ``[personal]``.

    Raises
    ------
    ScenarioError
        If a class cannot be loaded, or a parameter is not valid. One line.
    """
    if personal is None:
        return None
    if personal.built_in:
        return PersonalPlan(**personal.model_dump())
    path, digest = REGISTRY.resolve(personal.kind)
    values = REGISTRY.check(REGISTRY.load(path), personal.parameters, ["kind"])
    steps, usual = declared(REGISTRY.instantiate(path, values))
    return PersonalPlan(
        kind=personal.kind.rsplit("/", 1)[-1],
        path=path,
        digest=digest,
        values=values,
        own_steps=steps,
        usual=usual,
    )


def check_section(personal: Personal | None, lists: Mapping[str, Sequence[Any]]) -> PersonalPlan | None:
    """Return :func:`planned`, and check each combination of the values that ``[tune]`` has for its keys."""
    found = planned(personal)
    if personal is None or personal.built_in:  # checked with the scenario
        return found
    for values in itertools.product(*lists.values()) if lists else ():
        try:
            planned(personal.changed(**dict(zip(lists, values, strict=True))))
        except ForeignCodeError:
            raise
        except ScenarioError as error:
            raise ScenarioError(f"tune.{error}") from None
    return found


def declared(method: PersonalModel) -> tuple[int | None, bool]:
    """Return the own steps that a class declares, and whether its clients send what they usually would.

    Raises
    ------
    ScenarioError
        If it declares steps or pulls that are no numbers of 0 or more. One line.
    """
    name = type(method).__name__
    try:
        with contained():
            steps, pulls, usual = method.own_steps, (method.pull, method.own_pull), method.usual
    except (Exception, SystemExit) as error:
        raise REGISTRY.refusal(f"{name}: own_steps, pull or own_pull raises {error!r}") from None
    if steps is not None and (type(steps) is not int or steps < 0):
        raise refusal("personal", f"{name}: own_steps = {steps!r}: must be None or a count of 0 or more")
    for key, pull in zip(("pull", "own_pull"), pulls, strict=True):
        number = isinstance(pull, int | float) and not isinstance(pull, bool)
        if not (number and 0 <= pull < math.inf):
            raise refusal("personal", f"{name}: {key} = {pull!r}: must be a finite number of 0 or more")
    return steps, bool(usual)


def built(plan: PersonalPlan) -> PersonalModel:
    """Return the personal model of a run.

    Raises
    ------
    ScenarioError
        If its source here is not that with which the run was planned.
    """
    path = BUILT_IN[plan.kind] if plan.built_in else plan.path
    return _built(path, plan.digest, json.dumps(plan.parameters, sort_keys=True))


def sources(plan: PersonalPlan | None) -> list[tuple[str, str, str]]:
    """Return the path of a run's personal model, and the digests of its source, planned and here."""
    if plan is None or plan.built_in:
        return []
    return [(plan.path, plan.digest, REGISTRY.resolve(plan.path)[1])]


@lru_cache(maxsize=16)
def _built(path: str, digest: str, values: str) -> PersonalModel:
    found: PersonalModel = REGISTRY.planned(path, digest, json.loads(values))
    return found
