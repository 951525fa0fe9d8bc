"""fedtoll: who pays the toll of privacy in federated learning, and which strategy makes it fairer?"""

from __future__ import annotations

import os

# No entry point of ours tells anybody that it runs.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

__version__ = "0.1.0"
