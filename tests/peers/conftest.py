"""Fixtures that several comparisons share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fedtoll.privacy import accounting, selection

WHOLE = tuple(float(o) for o in accounting.ORDERS if o == int(o))
"""The orders at which dp-accounting's Rényi divergence is exact."""


@pytest.fixture
def whole_orders(monkeypatch) -> Iterator[None]:
    """Restrict our accountant to whole orders."""
    monkeypatch.setattr(accounting, "ORDERS", WHOLE)
    caches: list[Any] = [accounting._compose, accounting._curve, accounting._conversion]
    caches += [selection.epsilon, selection.choice_curve, selection._base_budget]
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()
