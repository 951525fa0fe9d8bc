"""Numbers that a scenario states by group or by client, such as personal budgets.

A table of them has names of groups, clients as ``"client 3"``, and ``"*"`` for all others. The most specific
entry applies.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from fedtoll.scenarios.errors import ScenarioError, nearest

OTHERS = "*"
"""The name of all clients that no other entry names."""

_CLIENT = re.compile(r"client (0|[1-9][0-9]{0,8})")


class Named(Protocol):
    """A client's number, and its group, which is empty if it may hold records of several."""

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def group(self) -> str:
        """The group of all its records."""


def check_names(key: str, stated: Mapping[str, float], groups: Sequence[str]) -> None:
    """Raise a ``ScenarioError`` unless every name is a group, a client or ``"*"``."""
    for name in stated:
        if name != OTHERS and name not in groups and not _CLIENT.fullmatch(name):
            hint = nearest(name, groups)
            raise ScenarioError(
                f"{key}: {name!r} is neither a group nor a client, as in 'client 0', nor {OTHERS!r}{hint}"
            )


def by_client(
    key: str, stated: Mapping[str, float], clients: Sequence[Named], default: float = 1.0
) -> list[float]:
    """Return the number of each client.

    Parameters
    ----------
    key
        The key of the scenario, for errors.
    stated
        The table of the scenario, whose names have passed :func:`check_names`.
    clients
        All clients, in the order of the plan.
    default
        The number of clients that no entry names.

    Raises
    ------
    ScenarioError
        In one line: there is no such client; no client holds records of that group alone; or an entry names
        a group, and a client that holds records of several groups has no entry of its own.

    Examples
    --------
    >>> from fedtoll.scenarios.run import ClientPlan
    >>> facts = dict(size=9, sampling_rate=0.1, batch_size=0.9, steps=1, noise_multiplier=1.0)
    >>> two = [ClientPlan(id=k, group=group, **facts) for k, group in enumerate(("a", "b"))]
    >>> by_client("privacy.epsilon_factor", {"b": 0.5}, two)
    [1.0, 0.5]
    >>> by_client("privacy.epsilon_factor", {"b": 0.5, "client 1": 0.2, "*": 0.9}, two)
    [0.9, 0.2]
    """
    if not stated:
        return [default] * len(clients)
    own = {int(match[1]): x for name, x in stated.items() if (match := _CLIENT.fullmatch(name))}
    by_group = {name: x for name, x in stated.items() if name != OTHERS and not _CLIENT.fullmatch(name)}
    _check_clients(key, own, by_group, clients)
    rest = stated.get(OTHERS, default)
    return [own.get(c.id, by_group.get(c.group, rest)) for c in clients]


def _check_clients(
    key: str, own: Collection[int], by_group: Collection[str], clients: Sequence[Named]
) -> None:
    known = {c.id for c in clients}
    for client in own:
        if client not in known:
            raise ScenarioError(f"{key}: no client {client}; there are clients 0 to {len(clients) - 1}")
    if not by_group:
        return
    for c in clients:
        if not c.group and c.id not in own:
            raise ScenarioError(
                f"{key}: client {c.id} may hold records of several groups, so that a number by group does "
                f"not say which is its own; name it, as in 'client {c.id}', or use partition.kind = 'group'"
            )
    held = {c.group for c in clients}
    for name in by_group:
        if name not in held:
            raise ScenarioError(f"{key}: no client holds records of group {name!r} alone")


def crossing(names: Sequence[Sequence[str]]) -> list[str]:
    """Return the names of all combinations of groups, one of each attribute, such as ``a/b``."""
    crossed = [""]
    for level in names:
        crossed = [f"{a}/{b}" if a else b for a in crossed for b in level]
    return crossed
