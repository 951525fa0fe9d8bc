"""Synthetic client reports for the tests of strategies."""

from __future__ import annotations

import math

import numpy as np

from fedtoll.scenarios.statistics import Estimate
from fedtoll.strategies.base import Report


def report(client, size=1, update=(), loss=0.5, sd=0.0, **more):
    """Return the report of one client with a mean loss."""
    return Report(client, size, "g", update, {"mean_loss": Estimate(loss, sd)}, **more)


def cohort(sizes, losses=None, sds=None, *, variances=None, epsilons=None, shapes=((2, 3), (2,))):
    """Return reports with a mean loss and random updates of a model with these shapes."""
    rng = np.random.default_rng(0)
    return [
        report(
            k,
            n,
            tuple(rng.normal(size=shape) for shape in shapes),
            0.5 if losses is None else losses[k],
            0.0 if sds is None else sds[k],
            noise_variance=0.0 if variances is None else variances[k],
            epsilon=math.inf if epsilons is None else epsilons[k],
        )
        for k, n in enumerate(sizes)
    ]


def answering(name, sizes, cells_K, groups=None, sd=0.0, variances=None):
    """Return reports with one statistic by group; clients are mixed unless ``groups`` names their groups."""
    return [
        Report(
            k,
            int(n),
            groups[k] if groups else "",
            (),
            {name: Estimate(cells, np.full(cells.shape, float(sd)))},
            noise_variance=0.0 if variances is None else variances[k],
        )
        for k, (n, cells) in enumerate(zip(sizes, np.asarray(cells_K, dtype=float), strict=True))
    ]
