"""Check the names of columns and groups in a scenario against what its data declares."""

from __future__ import annotations

from collections.abc import Sequence

from fedtoll.scenarios.by_client import check_names, crossing
from fedtoll.scenarios.data import Source
from fedtoll.scenarios.data.table import REST
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.participation import KEY
from fedtoll.scenarios.scenario import Scenario


def check_groups(scenario: Scenario, source: Source) -> None:
    """Check every name of a column or group in a scenario; no record is read.

    Raises
    ------
    ScenarioError
        If the source declares no such column or group. One line that begins with the key.
    """
    for key, names, known in (
        ("data.groups", scenario.data.groups, source.attributes),
        ("data.exclude", scenario.data.exclude, [c.name for c in source.columns]),
    ):
        for name in names:
            if name not in known:
                hint = nearest(name, known)
                raise ScenarioError(f"{key} = {name!r}: not a column of {source.name}{hint}")
    groups = _holders(scenario, source)
    check_names("privacy.epsilon_factor", scenario.privacy.epsilon_factor, _groups(scenario, source))
    check_names(KEY, scenario.participation.availability, _groups(scenario, source))
    per_group = scenario.partition.clients
    for name in per_group if isinstance(per_group, dict) else ():
        if name != "*" and name not in groups:
            raise ScenarioError(f"partition.clients: group {name!r} has no record{nearest(name, groups)}")
    for holder in scenario.partition.holders:
        if holder.group and holder.group not in groups:
            hint = nearest(holder.group, groups)
            raise ScenarioError(f"partition.holders: no group {holder.group!r}{hint}")


def _holders(scenario: Scenario, source: Source) -> Sequence[str]:
    """Return the names that ``partition.clients`` may use: groups, or values of the partition column."""
    column, known = scenario.partition.column, source.attributes
    if column and column not in known:
        raise ScenarioError(
            f"partition.column = {column!r}: no attribute of {source.name}{nearest(column, known)}"
        )
    return known[column] if column else _groups(scenario, source)


def _groups(scenario: Scenario, source: Source) -> Sequence[str]:
    """Return the names of all groups that the scenario may have."""
    groups = crossing([source.attributes[g] for g in scenario.data.groups])
    return [*groups, REST] if scenario.data.floor else groups
