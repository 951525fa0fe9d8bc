"""Opacus's PRV accountant: numerical composition in one direction (Gopi, Lee and Wutschitz 2021)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

FINEST = 2**21
"""Maximum number of grid points: a few seconds and 100 MB."""


def epsilon(events: Sequence[tuple[float, float, int]], delta: float) -> float:
    """Return the upper bound of the ε of distinct (σ, q, count), or infinity where its computation fails.

    The grid is as fine as an error of .01 in ε needs. If that takes more than ``FINEST`` points, a larger
    error is allowed; the error is part of the bound.
    """
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import PoissonSubsampledGaussianPRV
    from opacus.accountants.analysis.prv.domain import compute_safe_domain_size

    accountant = PRVAccountant()
    accountant.history = list(events)
    fine, slack = 0.01, delta / 1000
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        prvs = [PoissonSubsampledGaussianPRV(rate, noise) for noise, rate, _ in events]
        counts = [count for _, _, count in events]
        try:
            half = compute_safe_domain_size(prvs, counts, fine, slack)
            points = 2 * half * math.sqrt(sum(counts) * math.log(12 / slack) / 2) / fine
            error = fine * max(1.0, points / FINEST)
            if not error < 1:  # the guarantee needs a small error
                return math.inf
            bound = float(accountant.get_epsilon(delta=delta, eps_error=error))
        except (RuntimeError, ValueError, OverflowError):
            return math.inf
    return bound if bound >= 0 else math.inf  # NaN is no bound
