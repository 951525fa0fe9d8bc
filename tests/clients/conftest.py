"""Fixtures for tests of what a client computes."""

from __future__ import annotations

import pytest

from fedtoll.clients import noise


@pytest.fixture
def unrounded(monkeypatch):
    """Leave out the rounding of releases, so that the noise of two releases cancels."""
    monkeypatch.setattr(noise, "grid_step", lambda sd: 0.0)
