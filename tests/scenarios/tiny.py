"""A source of four records, for tests of errors."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from fedtoll.scenarios.data import Categorical, Numeric, Source, archive
from fedtoll.scenarios.data.source import Archive
from fedtoll.scenarios.errors import ScenarioError

TINY_FRAME = pd.DataFrame(
    {
        "age": [17, 29, 30, 90],
        "gain": [0.0, 10.0, 0.0, 99.0],
        "race": ["a", "b", "?", "a"],
        "paid": ["no", "yes", "yes", "no"],
    }
)


def tiny(**changes: Any) -> Source:
    """Return a source of four records in a wheel that is on no index."""
    facts: dict[str, Any] = {
        "name": "tiny",
        "title": "Four records",
        "archive": Archive("fedtoll-tiny-records", "1.0", "0" * 64),
        "read": lambda folder: pd.read_csv(folder / "tiny_records" / "tiny.csv", keep_default_na=False),
        "version": 1,
        "fingerprint": archive.fingerprint(TINY_FRAME),
        "licence": "none",
        "citation": "none",
        "rows": 4,
        "label": "paid",
        "positive": "yes",
        "classes": ("no", "yes"),
        "columns": (
            Numeric.bounded("age", 17, 90),
            Numeric("gain", centre=1.0, scale=2.0, transform="log1p", low=0, high=99),
            Categorical("race", ("a", "b", "?")),
        ),
        "counts": {"race": {"b": 1, "a": 2, "?": 1}, "age": {"young": 2, "old": 2}},
        "bins": {"age": (29,)},
    }
    return Source(**{**facts, **changes})


def told(caught: pytest.ExceptionInfo[ScenarioError]) -> str:
    """Return the message of an error, which must be one line."""
    text = str(caught.value)
    assert "\n" not in text
    return text
