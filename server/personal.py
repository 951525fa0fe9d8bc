"""Personal models as the server sees them: which strategies go with them, and the models to score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from numpy.typing import NDArray

from fedtoll.clients import model, wire
from fedtoll.clients.personal import RECORD
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.personal import NAMES, Personal
from fedtoll.scenarios.run import Run, StrategyPlan
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server import sums
from fedtoll.strategies import registry
from fedtoll.strategies.base import Strategy

OwnModels = dict[int, list[NDArray[np.floating]]]
"""The own model of every client that has one, by the client's id."""


def refusal(personal: Personal, plan: StrategyPlan, requested: Sequence[str]) -> str:
    """Return why a strategy cannot run with personal models, or an empty string.

    Ditto's server is that of any strategy, because what clients send does not depend on their own models.
    With MR-MTL and FedPer, weights must follow from public facts.

    Parameters
    ----------
    personal, plan
        The section ``[personal]``, and the resolved strategy.
    requested
        The names of the statistics that the strategy requests.
    """
    if personal.kind == "ditto":
        return ""
    if requested:
        return f"clients release their {requested[0]} at the server's model, which no client uses"
    cls = registry.load(plan.path)
    if issubclass(cls, Strategy) and cls.instructions is not Strategy.instructions:
        return (
            f"{NAMES[personal.kind]} fixes what clients train, and the strategy may instruct them otherwise"
        )
    return sums.refusal(plan, requested)


def check(personal: Personal | None, plan: StrategyPlan, requested: Sequence[tuple[str, Any]]) -> None:
    """Raise ``ScenarioError`` in one line if a strategy cannot run with the personal models of a scenario."""
    if personal is not None and (reason := refusal(personal, plan, [name for name, _ in requested])):
        raise ScenarioError(f"personal.kind = {personal.kind!r}: not with strategy {plan.name!r}: {reason}")


def check_federation(scenario: Scenario, federation: Federation) -> None:
    """Raise ``ScenarioError`` in one line if personal models do not fit the model or the clients."""
    personal = scenario.personal
    if personal is None:
        return
    features, classes = federation.table.features.shape[1], len(federation.table.classes)
    lists = scenario.tune.personal if scenario.tune else {}
    for key, last in [("", personal.last), *(("tune.", value) for value in lists.get("last", ()))]:
        arrays = len(list(model.build(scenario.model, features, classes).parameters())) if last else 0
        if last and last > arrays:
            raise ScenarioError(f"{key}personal.last = {last}: the model has {arrays} parameter arrays")
    holders = {holder.group for holder in scenario.partition.holders}
    if scenario.partition.kind == "declared" and (missing := set(federation.groups.names) - holders):
        raise ScenarioError(
            f"partition.holders: no client holds records of {min(missing)!r}, so no model scores its records"
        )


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
            raise ValueError(f"own parameter {name} is not finite")
        found.append(values.copy())
    return found
