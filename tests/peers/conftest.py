"""What several of the comparisons need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedtoll.privacy import accounting

WHOLE = tuple(float(o) for o in accounting.ORDERS if o == int(o))
"""The orders at which dp-accounting's Rényi divergence is exact."""


@pytest.fixture
def whole_orders(monkeypatch) -> Iterator[None]:
    """Let our accountant look at whole orders only."""
    monkeypatch.setattr(accounting, "ORDERS", WHOLE)
    caches = (accounting._compose, accounting._curve, accounting._conversion)
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()
