"""Broken privacy loss distributions. The ledger is right, but its ε is not what was spent."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np

from fedtoll.privacy import accounting, loss_distribution
from tests.gate.mutants import mutant
from tests.gate.mutants_outside_engines import no_memory


def _forgetful(*patches: Any) -> list[Any]:
    """Add patches that remember no ε and no calibration."""
    return [*patches, patch.object(accounting, "_compose", accounting._compose.__wrapped__), *no_memory()]


@mutant("ε covers adding a record, but not removing one")
def removal_not_accounted() -> list[Any]:
    original = loss_distribution.distributions

    def distributions(*args: Any, **options: Any) -> Any:
        return original(*args, **options)[1:]

    return _forgetful(patch.object(loss_distribution, "distributions", distributions))


@mutant("privacy losses are rounded down to the grid instead of up")
def losses_rounded_down() -> list[Any]:
    original = loss_distribution._spread

    def spread(upper_N: Any, *rest: Any) -> Any:
        return np.zeros_like(original(upper_N, *rest))

    return _forgetful(patch.object(loss_distribution, "_spread", spread))


@mutant("of several statistics with equal noise, ε covers one")
def equal_releases_counted_once() -> list[Any]:
    def merged(events: Any) -> Any:
        kinds = {(e.noise_multiplier, e.sampling_rate): e.count for e in events}
        return tuple(sorted((*kind, n) for kind, n in kinds.items() if n > 0 and kind[1] > 0))

    return _forgetful(patch.object(accounting, "kinds", merged))
