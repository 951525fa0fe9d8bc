"""What a conformance kit says of a plug-in, property by property."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["passed", "failed", "shown"]


@dataclass(frozen=True)
class Verdict:
    """The kit's verdict on one property.

    Parameters
    ----------
    property
        The property's name.
    outcome
        ``"passed"``, ``"failed"``, or ``"shown"`` if it is not judged.
    words
        One line: what the property requires, the first violation found, or what was measured.
    """

    property: str
    outcome: Outcome
    words: str


def assert_none_failed(who: object, verdicts: Iterable[Verdict]) -> None:
    """Raise an AssertionError that lists every property that a plug-in fails."""
    failed = [v for v in verdicts if v.outcome == "failed"]
    if failed:
        lines = "\n".join(f"  {v.property}: {v.words}" for v in failed)
        raise AssertionError(f"{who!r} fails\n{lines}")
