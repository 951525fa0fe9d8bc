"""Strategies given as Python objects: as a scenario file would state them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedtoll.scenarios import plugins
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.keywords import plain
from fedtoll.strategies import registry
from fedtoll.strategies.base import Strategy


def described(given: Any) -> dict[str, Any]:
    """Return a strategy as a scenario file states it: its name and its parameters.

    Parameters
    ----------
    given
        A name, a table with ``name`` and parameters, a class of strategies, or an instance. Of an instance,
        the parameters that differ from their defaults are stated.

    Raises
    ------
    ScenarioError
        If it is none of these, or its class cannot be found by its name.

    Examples
    --------
    >>> from fedtoll.strategies.term import Term
    >>> described(Term(t=5.0))
    {'name': 'term', 't': 5.0}
    """
    if isinstance(given, str):
        return {"name": given}
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, type):
        return {"name": _name(given)}
    if not isinstance(given, Strategy):
        raise ScenarioError(
            f"strategies: {given!r:.200}: must be a name, a table with a name, a strategy or its class"
        )
    cls = type(given)
    stated = {}
    for name, default in registry.parameters(cls).items():
        value = getattr(given, name)
        if value != default:
            stated[name] = plain(value)
    return {"name": _name(cls), **stated}


def _name(cls: type) -> str:
    """Return the name with which :func:`fedtoll.strategies.registry.resolve` finds a class."""
    if "." in cls.__qualname__:
        raise ScenarioError(f"strategies: {cls.__qualname__}: define the class at the top of its module")
    path = f"{cls.__module__}:{cls.__qualname__}"
    for name in registry.names():
        if registry.installed_path(name) == path:
            return name
    return plugins.path_of(cls)
