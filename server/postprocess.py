"""Released statistics as strategies see them: for all groups, carried over, and post-processed.

A moving average and shrinkage are post-processing of numbers that are private already: they cost
nothing. Debiasing belongs to the strategy whose transform biases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedtoll.scenarios.run import ClientPlan, Run, StatisticPlan
from fedtoll.scenarios.statistics import Estimate


class Released:
    """What every client has released last."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._last: dict[tuple[str, int], Estimate] = {}

    def update(self, round: int, metrics: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Estimate]]:
        """Read what is due in a round and return each client's statistics by name.

        Parameters
        ----------
        round
            From 1.
        metrics
            The metrics of every reply, in the order of the plan's clients; ``None`` where it was skipped.
            Such a client's statistics are undefined (NaN) in this round and draw nobody's towards them;
            what it releases next goes on from what it released last.
        """
        run = self._run
        seen: list[dict[str, Estimate]] = [{} for _ in run.clients]
        there = [
            (client, told, of)
            for client, told, of in zip(run.clients, metrics, seen, strict=True)
            if told is not None
        ]
        for statistic in run.statistics:
            if statistic.due(round):
                for client, told, _ in there:
                    key = statistic.name, client.id
                    new = self._read(statistic, client, told)
                    self._last[key] = smooth(self._last.get(key), new, run.smoothing)
            estimates = [self._last[statistic.name, client.id] for client, _, _ in there]
            if run.shrinkage and np.ndim(estimates[0].value) == 0:
                estimates = shrink(estimates)
            for (_, _, of), estimate in zip(there, estimates, strict=True):
                of[statistic.name] = estimate
            for of in seen:
                of.setdefault(statistic.name, self._undefined(statistic))
        return seen

    def _undefined(self, statistic: StatisticPlan) -> Estimate:
        """Return what stands in a statistic's place where it is undefined."""
        shape = statistic.declaration.shape(len(self._run.groups), self._run.classes)
        nowhere = np.full(shape, math.nan) if shape else math.nan
        return Estimate(nowhere, nowhere)

    def _read(self, statistic: StatisticPlan, client: ClientPlan, told: Mapping[str, Any]) -> Estimate:
        """Return a released statistic in full shape; the cells that the plan says are empty are exactly 0."""
        value, sd = told[statistic.name], float(told[f"{statistic.name}.sd"])
        shape = statistic.declaration.shape(len(self._run.groups), self._run.classes)
        if not shape:
            return Estimate(float(value), sd)
        own: Any = self._run.groups.index(client.group) if client.group else slice(None)
        values, noise = np.zeros(shape), np.zeros(shape)
        values[own] = np.reshape(value, self._run.released(client, statistic))
        noise[own] = sd
        return Estimate(values, noise)


def smooth(before: Estimate | None, new: Estimate, memory: float) -> Estimate:
    """Return the exponential moving average of two releases of independent noise.

    F ← s F + (1 − s) F̃ with s = ``memory``, and sd² ← s² sd² + (1 − s)² sd̃²; the first release is taken
    as it is. The loss of earlier models lingers: less noise for some lag.

    Examples
    --------
    >>> smooth(Estimate(1.0, 0.6), Estimate(2.0, 0.8), 0.5)
    Estimate(value=1.5, sd=0.5)
    """
    if before is None or memory == 0:
        return new
    sd = np.sqrt((memory * before.sd) ** 2 + ((1 - memory) * new.sd) ** 2)
    return Estimate(memory * before.value + (1 - memory) * new.value, sd if np.ndim(sd) else float(sd))


def shrink(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Draw noisy numbers towards their mean, each by as much as it is noisy (empirical Bayes).

    F̂_k = F̄ + τ² / (τ² + s_k²) (F̃_k − F̄), with F̄ the mean weighted by 1 / (τ² + s_k²) and τ² =
    max(0, S² − mean s_k²) the variance between clients by moments (Hedges and Olkin 1985). The standard
    deviation becomes that of the noise left in F̂_k, the weights taken as known.

    Examples
    --------
    >>> [round(float(e.value), 2) for e in shrink([Estimate(0.0, 1.0), Estimate(4.0, 1.0)])]
    [0.25, 3.75]
    """
    value = np.array([e.value for e in estimates], dtype=np.float64)
    variance = np.array([e.sd for e in estimates], dtype=np.float64) ** 2
    if len(estimates) < 2 or not variance.any():
        return list(estimates)
    between = max(0.0, float(value.var(ddof=1) - variance.mean()))
    total = between + variance
    exact = total == 0  # then τ² is 0, and the mean is theirs
    share = exact / exact.sum() if exact.any() else 1 / total / (1 / total).sum()
    mean = share @ value
    kept = np.where(exact, 1.0, between / np.where(exact, 1.0, total))
    drawn = mean + kept * (value - mean)
    left = kept**2 * variance + (1 - kept) ** 2 * (share**2 @ variance)  # of F̃_k's noise and of F̄'s
    left += 2 * kept * (1 - kept) * share * variance  # and of the two together
    return [Estimate(float(v), float(s)) for v, s in zip(drawn, np.sqrt(left), strict=True)]
