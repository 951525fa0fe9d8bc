"""What several of the comparisons need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedtoll.clients import budget

WHOLE = tuple(float(o) for o in budget.ORDERS if o == int(o))
"""The orders at which dp-accounting's Rényi divergence is exact."""


@pytest.fixture
def whole_orders(monkeypatch) -> Iterator[None]:
    """Let our accountant look at whole orders only."""
    monkeypatch.setattr(budget, "ORDERS", WHOLE)
    caches = (budget._compose, budget._curve, budget._conversion)
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()
