"""What a conformance kit says of a plug-in, property by property."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fedtoll.scenarios.errors import one_line
from fedtoll.scenarios.foreign import contained

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


def judge(name: str, property_: Callable[..., Iterator[str]], *given: Any) -> Verdict:
    """Return the verdict on one property.

    Parameters
    ----------
    name
        The property's name.
    property_
        Yields what is wrong; only the first complaint is asked for. The first line of its docstring says what
        is required.
    given
        Its arguments.
    """
    try:
        with contained():
            complaint = next(property_(*given), "")
    except (Exception, SystemExit) as error:
        complaint = f"raises {raised(error)}"
    if complaint:
        return Verdict(name, "failed", one_line(complaint))
    return Verdict(name, "passed", (property_.__doc__ or "").split("\n")[0].removesuffix("."))


def raised(error: BaseException) -> str:
    """Return the class and the message of an error; the class alone if there is no message."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def assert_none_failed(who: object, verdicts: Iterable[Verdict]) -> None:
    """Raise an AssertionError that lists every property that a plug-in fails."""
    failed = [v for v in verdicts if v.outcome == "failed"]
    if failed:
        lines = "\n".join(f"  {v.property}: {v.words}" for v in failed)
        raise AssertionError(f"{who!r} fails\n{lines}")
