"""Tables for the tests of this folder: Adult, and small ones built to order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from fedtoll.scenarios.data import Attribute, Table, load

MakeTable = Callable[..., Table]


@pytest.fixture(scope="session")
def adult() -> Table:
    """All of Adult, from the user's cache folder (fetched if it is not there)."""
    return load("adult")


@pytest.fixture(scope="session")
def make_table() -> MakeTable:
    def make(
        codes: Sequence[int],
        label: Sequence[int] | None = None,
        test: Sequence[bool] | None = None,
        names: Sequence[str] = ("a", "b", "c", "d"),
    ) -> Table:
        """Return a table with one feature, the row number, and the attribute "group" with the given codes."""
        n = len(codes)
        return Table(
            source="made",
            features=np.arange(n, dtype=np.float32)[:, None],
            feature_names=("row",),
            feature_columns=("row",),
            label=np.zeros(n, np.int64) if label is None else np.asarray(label, dtype=np.int64),
            classes=("no", "yes"),
            attributes={"group": Attribute("group", np.asarray(codes, dtype=np.int64), tuple(names))},
            canonical_test=None if test is None else np.asarray(test, dtype=np.bool_),
        )

    return make
