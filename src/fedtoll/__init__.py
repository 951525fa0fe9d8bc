"""Simulate federated learning with DP-SGD, and measure what privacy costs each demographic group.

``fedtoll.run("adult-race")`` runs a scenario and returns its results as tidy pandas frames;
``fedtoll.load(folder)`` reads stored results.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedtoll.api import run
    from fedtoll.results import Results, load
    from fedtoll.scenarios.errors import FedtollError, RunError, ScenarioError
    from fedtoll.sklearn import DPClassifier
    from fedtoll.strategies.base import Strategy

# Disable the telemetry and update checks of Flower and Ray.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

__version__ = "0.1.0"

_HOMES = {
    "run": "fedtoll.api",
    "load": "fedtoll.results",
    "Results": "fedtoll.results",
    "Strategy": "fedtoll.strategies.base",
    "DPClassifier": "fedtoll.sklearn",
    "FedtollError": "fedtoll.scenarios.errors",
    "RunError": "fedtoll.scenarios.errors",
    "ScenarioError": "fedtoll.scenarios.errors",
}
"""The module of every public name, imported at its first use: torch and pandas are slow to import."""

__all__ = [
    "DPClassifier",
    "FedtollError",
    "Results",
    "RunError",
    "ScenarioError",
    "Strategy",
    "__version__",
    "load",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fedtoll' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return sorted(__all__)
