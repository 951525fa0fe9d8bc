"""Simulate federated learning with DP-SGD, and measure what privacy costs each demographic group.

``fedtoll.run("adult-race")`` runs a scenario and returns its results as tidy pandas frames;
``fedtoll.load(folder)`` reads stored results.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedtoll.server.results import load
    from fedtoll.sweep.run import run

# Disable the telemetry and update checks of Flower and Ray.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

__version__ = "0.1.0"
__all__ = ["__version__", "load", "run"]


def __getattr__(name: str) -> Any:
    """Import ``run`` and ``load`` on first use, because torch and pandas are slow to import."""
    if name == "run":
        from fedtoll.sweep.run import run

        return run
    if name == "load":
        from fedtoll.server.results import load

        return load
    raise AttributeError(f"module 'fedtoll' has no attribute {name!r}")
