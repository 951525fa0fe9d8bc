"""What every section of a scenario file is made of: a strict base, and the types of its values."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from fedtoll.scenarios.numbers import write_number

CLIP_ONLY = "clip-only"


def _number(value: object) -> object:
    """Read ``"inf"`` as infinity and refuse what is neither a number nor that word."""
    if isinstance(value, str) and value.strip().lower() in {"inf", "infinity", "∞"}:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError('must be a number greater than 0, "inf" or "clip-only"')
    return float(value)


def _epsilon(value: object) -> object:
    if value == CLIP_ONLY:
        return value
    number = _number(value)
    assert isinstance(number, float)
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
Rate = Annotated[float, Field(strict=True, gt=0, le=1)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]

OnFailure = Literal["abort", "skip"]
"""What becomes of a run when a reply is missing, failed, malformed or not finite."""


def without_default(content: dict[str, Any], key: str, default: Any) -> dict[str, Any]:
    """Return a section as it is written, without a key of a later version where it has its default."""
    return {k: v for k, v in content.items() if k != key or v != default}


class Section(BaseModel):
    """A table of the scenario file: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())
