"""``--set key=value``: what overrides one key of a scenario's file."""

from __future__ import annotations

import tomllib
from typing import Any

from fedtoll.scenarios.errors import ScenarioError


def assignment(text: str, example: str) -> tuple[str, Any]:
    """Return the key and the value of ``key=value``, the value a TOML literal.

    Raises
    ------
    ScenarioError
        It is something else: one line, with the example where it is no ``key=value``.

    Examples
    --------
    >>> assignment("t = 5.0", "t=5.0")
    ('t', 5.0)
    """
    key, equals, literal = text.partition("=")
    key, literal = key.strip(), literal.strip()
    if not equals or not key:
        raise ScenarioError(f"--set {text}: must be key=value, e.g. {example}")
    try:
        return key, tomllib.loads(f"x = {literal}")["x"]
    except RecursionError:
        raise ScenarioError(f"--set {key[:200]}: is nested too deeply") from None
    except ValueError as error:  # not TOML, or a number of thousands of digits
        bare = all(c.isalnum() or c in " _-./:" for c in literal)
        why = " (a text needs quotes)" if bare else f": {error}"
        raise ScenarioError(f"--set {text}: {literal!r} is not a TOML literal{why}") from None


def override(table: dict[str, Any], text: str) -> None:
    """Set what ``section.key=value`` says in a parsed scenario, in place."""
    key, value = assignment(text, "training.rounds=10")
    if key.startswith(("strategies[", "strategies.")):
        raise ScenarioError(
            f"--set {text}: one strategy's parameter cannot be overridden; write all of them, "
            'e.g. strategies=[{name="term", t=5.0}]'
        )
    *sections, last = key.split(".")
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ScenarioError(f"--set {text}: {section!r} is not a section")
        table = inner
    table[last] = value
