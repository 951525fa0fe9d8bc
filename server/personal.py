"""Personal models as the server sees them: which strategies go with them, and the models to score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from numpy.typing import NDArray

from fedtoll.clients import model, wire
from fedtoll.clients.personal import RECORD, asked
from fedtoll.clients.personal_models import registry as personal_models
from fedtoll.clients.personal_models.base import PersonalModel
from fedtoll.scenarios.errors import NotFiniteError, ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.personal import PersonalPlan, title
from fedtoll.scenarios.run import Run, StrategyPlan
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server import sums
from fedtoll.strategies import registry
from fedtoll.strategies.base import Strategy

OwnModel = list[NDArray[np.floating]]
OwnModels = dict[int, OwnModel]
"""The own model of every client that has one, by the client's id."""


def refusal(personal: PersonalPlan, plan: StrategyPlan, requested: Sequence[str]) -> str:
    """Return why a strategy cannot run with personal models, or an empty string.

    Ditto's server is that of any strategy, because what clients send does not depend on their own models.
    With MR-MTL and FedPer, weights must follow from public facts.

    Parameters
    ----------
    personal, plan
        The section ``[personal]``, resolved, and the resolved strategy.
    requested
        The names of the statistics that the strategy requests.
    """
    if personal_models.built(personal).usual:
        return ""
    if requested:
        return f"clients release their {requested[0]} at the server's model, which no client uses"
    cls = registry.load(plan.path)
    if issubclass(cls, Strategy) and cls.instructions is not Strategy.instructions:
        return (
            f"{title(personal.kind)} fixes what clients train, and the strategy may instruct them otherwise"
        )
    return sums.refusal(plan, requested)


def check(personal: PersonalPlan | None, plan: StrategyPlan, requested: Sequence[tuple[str, Any]]) -> None:
    """Raise ``ScenarioError`` in one line if a strategy cannot run with the personal models of a scenario."""
    if personal is not None and (reason := refusal(personal, plan, [name for name, _ in requested])):
        raise ScenarioError(f"personal.kind = {personal.kind!r}: not with strategy {plan.name!r}: {reason}")


def check_federation(scenario: Scenario, federation: Federation) -> None:
    """Raise ``ScenarioError`` in one line if personal models do not fit the model or the clients."""
    personal = scenario.personal
    if personal is None:
        return
    features, classes = federation.table.features.shape[1], len(federation.table.classes)
    arrays = [p.detach().numpy() for p in model.build(scenario.model, features, classes).parameters()]
    lists = scenario.tune.personal if scenario.tune and personal.kind == "fedper" else {}
    for key, last in [("", personal.last), *(("tune.", value) for value in lists.get("last", ()))]:
        if personal.built_in and last and last > len(arrays):
            raise ScenarioError(f"{key}personal.last = {last}: the model has {len(arrays)} parameter arrays")
    if (plan := personal_models.planned(personal)) is not None and not plan.built_in:
        _check_models(personal_models.built(plan), arrays)
    holders = {holder.group for holder in scenario.partition.holders}
    if scenario.partition.kind == "declared" and (missing := set(federation.groups.names) - holders):
        raise ScenarioError(
            f"partition.holders: no client holds records of {min(missing)!r}, so no model scores its records"
        )


def _check_models(method: PersonalModel, arrays: OwnModel) -> None:
    """Raise ``ScenarioError`` in one line if a class of the user's returns no models for the initial one."""
    own = None if method.own_steps == 0 else arrays
    calls = (("begin", (arrays, arrays)), ("send", (arrays, arrays)), ("own_begin", (arrays, arrays)))
    for name, given in (*calls, ("keep", (arrays, own, arrays)), ("score", (arrays, arrays))):
        try:
            asked(method, name, *given, like=arrays)
        except (Exception, SystemExit) as error:
            words = error if isinstance(error, ValueError) else f"{name} raises {error!r}"
            raise personal_models.REGISTRY.refusal(f"{type(method).__name__}: {words}") from None


def taken(run: Run, sent: ArrayRecord, content: RecordDict) -> list[NDArray[np.floating]] | None:
    """Take a client's own model out of its reply, so that no strategy sees it; ``None`` if it has none.

    Raises
    ------
    ValueError
        If it is missing, or another model than the one that was sent, or not finite.
    """
    if run.personal is None:
        return None
    if RECORD not in content.array_records:
        raise ValueError(f"it has no {RECORD!r}")
    record = content.array_records[RECORD]
    del content[RECORD]
    if list(record.keys()) != list(sent.keys()):
        raise ValueError(f"own parameters {list(record.keys())} instead of {list(sent.keys())}")
    found = []
    for name, array in record.items():
        try:
            values = wire.decoded(array, tuple(sent[name].shape), np.dtype(run.precision))
        except ValueError as error:
            raise ValueError(f"own parameter {name}: {error}") from None
        if not np.isfinite(values).all():
            raise NotFiniteError(f"own parameter {name} is not finite")
        found.append(values.copy())
    return found
