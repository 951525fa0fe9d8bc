"""A cache of calibrated noise multipliers on disk, keyed by everything that determines them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fedtoll.scenarios.atomic import write_bytes
from fedtoll.scenarios.data.archive import cache_folder


def recall(key: list[Any]) -> float | None:
    """Return the noise multiplier cached under a key, or ``None``. The caller must check it."""
    try:
        return float(json.loads(_file(key).read_text())["noise_multiplier"])
    except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        return None


def remember(key: list[Any], sigma: float) -> None:
    """Cache one calibration atomically; do nothing if the cache cannot be written."""
    file = _file(key)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, json.dumps({"noise_multiplier": sigma, "key": key}).encode())
    except OSError:
        return


def _file(key: list[Any]) -> Path:
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    return cache_folder() / "budget" / f"{name}.json"
