"""``--set key=value``: override one key of a scenario file."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from fedtoll.scenarios.errors import ScenarioError

_PART = r"""(?:\s*"(?:\\.|[^"\\])*"\s*|\s*'[^']*'\s*|[^.="']+)"""  # of a dotted key: quoted, or bare
_ASSIGNMENT = re.compile(rf"({_PART}(?:\.{_PART})*)=(.*)", re.DOTALL)


def assignment(text: str, example: str) -> tuple[tuple[str, ...], Any]:
    """Parse ``key=value``.

    Parameters
    ----------
    text
        A dotted key and a TOML literal. Parts of the key that hold ``=``, ``.`` or a quotation mark must be
        quoted as in TOML; all others may be bare, even where TOML wants quotes (``partition.clients.*=2``).
    example
        An assignment to show to a user who wrote something else.

    Returns
    -------
    path, value
        The parts of the key and the parsed literal.

    Raises
    ------
    ScenarioError
        If it is no assignment, or its value is not a TOML literal.

    Examples
    --------
    >>> assignment("t = 5.0", "t=5.0")
    (('t',), 5.0)
    >>> assignment('partition.keep."<=29"=0.5', "t=5.0")
    (('partition', 'keep', '<=29'), 0.5)
    """
    match = _ASSIGNMENT.fullmatch(text)
    text = text if text.isprintable() else repr(text)
    parts = [part.strip() for part in re.findall(_PART, match[1])] if match else []
    if match is None or not all(parts):
        raise ScenarioError(f"--set {text}: must be key=value, e.g. {example}")
    key, literal = match[1].strip(), match[2].strip()
    try:
        path = tuple(_literal(part) if part[0] in "\"'" else part for part in parts)
    except ValueError as error:
        raise ScenarioError(f"--set {text}: {key!r} is not a TOML key: {error}") from None
    try:
        return path, _literal(literal)
    except RecursionError:
        raise ScenarioError(f"--set {key[:200]}: is nested too deeply") from None
    except ValueError as error:  # not TOML, or a number of thousands of digits
        if all(c.isalnum() or c in " _-./:" for c in literal):
            hint = " (a string needs quotes)"
        elif "=" in literal.splitlines()[0] and literal[0] not in "\"'[{":
            hint = """ (a key that holds "=" needs quotes, e.g. 'partition.keep."<=29"=0.5')"""
        else:
            hint = f": {error}"
        raise ScenarioError(f"--set {text}: {literal!r} is not a TOML literal{hint}") from None


def _literal(text: str) -> Any:
    """Parse one TOML value; raise a ``ValueError`` if more than that follows."""
    document = tomllib.loads(f"x = {text}")
    if document.keys() != {"x"}:
        raise ValueError("it holds more than one value")
    return document["x"]


def override(table: dict[str, Any], text: str) -> None:
    """Apply ``section.key=value`` to a parsed scenario, in place."""
    (*sections, last), value = assignment(text, "training.rounds=10")
    first = (*sections, last)[0]
    if first.startswith("strategies[") or (first == "strategies" and sections):
        raise ScenarioError(
            f"--set {text}: one strategy's parameter cannot be overridden; write all of them, "
            'e.g. strategies=[{name="term", t=5.0}]'
        )
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ScenarioError(f"--set {text}: {section!r} is not a section")
        table = inner
    table[last] = value
