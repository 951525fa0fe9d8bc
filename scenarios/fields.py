"""The base class of every section of a scenario file, and the types of its values."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainSerializer, Tag

from fedtoll.scenarios.numbers import write_number

CLIP_ONLY = "clip-only"


def as_float(value: float) -> float:
    """Return a number as a float; raise a ``ValueError`` for an integer beyond the largest float."""
    try:
        return float(value)
    except OverflowError:
        raise ValueError("must be less than 1.8e308") from None


def _number(value: object) -> float:
    """Read ``"inf"`` as infinity; reject anything else that is not a number."""
    if isinstance(value, str) and value.strip().lower() in {"inf", "infinity", "∞"}:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError('must be a number greater than 0, "inf" or "clip-only"')
    return as_float(value)


def _epsilon(value: object) -> object:
    if value == CLIP_ONLY:
        return value
    number = _number(value)
    if math.isnan(number) or number <= 0:
        raise ValueError("must be greater than 0")
    return number


Epsilon = Annotated[
    float | Literal["clip-only"],
    BeforeValidator(_epsilon),
    PlainSerializer(write_number, when_used="json"),
]
"""A privacy budget: a number > 0, infinity (the non-private reference) or ``"clip-only"``."""

Count = Annotated[int, Field(strict=True, ge=1)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Noise = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
"""The standard deviation of noise, in units of a sensitivity; 0 without noise."""
Rate = Annotated[float, Field(strict=True, gt=0, le=1)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]

NUMBER, TABLE = "(number)", "(table)"
"""How pydantic tags the two forms of :data:`Counts` in the location of an error."""

Counts = Annotated[
    Annotated[Count, Tag(NUMBER)] | Annotated[dict[str, Count], Tag(TABLE)],
    Discriminator(lambda value: TABLE if isinstance(value, dict) else NUMBER),
]
"""A count, or a table of counts by name."""

OnFailure = Literal["abort", "skip"]
"""What happens to a run when a reply is missing, failed, malformed or not finite."""


def without_default(content: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Return a serialized section without the keys that were added later and have their default."""
    return {k: v for k, v in content.items() if k not in defaults or v != defaults[k]}


class Section(BaseModel):
    """A table of the scenario file: frozen, with unknown keys as errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def changed(self, **values: Any) -> Self:
        """Return a copy with other values, checked like a new one; pydantic's ``model_copy`` checks nothing.

        Raises
        ------
        pydantic.ValidationError
            If the copy is not valid.
        """
        return type(self).model_validate({**dict(self), **values})

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


def only_with(key: str, given: bool, needed: bool, condition: str, example: str = "") -> None:
    """Raise ``ValueError`` in one line unless a key is given exactly where it is needed.

    Examples
    --------
    >>> only_with("hidden", True, False, "kind = 'mlp'")
    Traceback (most recent call last):
    ValueError: hidden: only with kind = 'mlp'
    """
    if needed and not given:
        raise ValueError(f"{key}: required by {condition}{example and f', e.g. {example}'}")
    if given and not needed:
        raise ValueError(f"{key}: only with {condition}")


def listed_seeds(value: object) -> object:
    """Read a range such as ``"0:5"``."""
    if isinstance(value, str):
        first, colon, last = value.partition(":")
        if not (colon and first.isdigit() and last.isdigit()):
            raise ValueError('must be a list such as [0, 1, 2] or a range such as "0:5"')
        if int(first) >= int(last):
            raise ValueError('the range is empty: the first number is included, the last is not, as in "0:5"')
        if int(last) - int(first) > 10_000:
            raise ValueError("more than 10,000 seeds")
        return list(range(int(first), int(last)))
    return value


Seeds = Annotated[tuple[Seed, ...], BeforeValidator(listed_seeds), Field(min_length=1)]
"""Seeds as a list, or as a range such as ``"0:5"``."""
