"""Released statistics as strategies see them: in full shape, carried over between releases, post-processed.

Moving averages and shrinkage are post-processing of private numbers, so they cost no privacy. Debiasing is
left to the strategy whose transform causes the bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedtoll.scenarios.run import ClientPlan, Run, StatisticPlan
from fedtoll.scenarios.statistics import Estimate


class Released:
    """The latest released statistics of every client."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._turns: dict[int, int] = {}
        self._last: dict[tuple[str, int], Estimate] = {}

    def update(
        self, clients: Sequence[ClientPlan], metrics: Sequence[Mapping[str, Any] | None]
    ) -> list[dict[str, Estimate]]:
        """Read the statistics due in the next round and return each client's statistics by name.

        Parameters
        ----------
        clients
            Those that take part in the round.
        metrics
            The metrics of their replies; ``None`` where the reply was skipped. The statistics of such a
            client are undefined (NaN) in this round and do not enter shrinkage. Its moving average continues
            with its next release.
        """
        run = self._run
        seen: list[dict[str, Estimate]] = [{} for _ in clients]
        if not run.statistics:
            return seen
        for client in clients:
            self._turns[client.id] = self._turns.get(client.id, 0) + 1
        present = [
            (client, content, statistics)
            for client, content, statistics in zip(clients, metrics, seen, strict=True)
            if content is not None
        ]
        for statistic in run.statistics:
            for client, content, _ in present:
                if statistic.due(self._turns[client.id]):
                    key = statistic.name, client.id
                    new = self._read(statistic, client, content)
                    self._last[key] = smooth(self._last.get(key), new, run.smoothing)
            estimates = [self._last[statistic.name, client.id] for client, _, _ in present]
            if run.shrinkage and estimates and np.ndim(estimates[0].value) == 0:
                estimates = shrink(estimates)
            for (_, _, statistics), estimate in zip(present, estimates, strict=True):
                statistics[statistic.name] = estimate
            for statistics in seen:
                statistics.setdefault(statistic.name, undefined(run, statistic))
        return seen

    def _read(self, statistic: StatisticPlan, client: ClientPlan, content: Mapping[str, Any]) -> Estimate:
        """Return a released statistic in full shape; cells of groups a client does not have are exactly 0."""
        value, sd = content[statistic.name], float(content[f"{statistic.name}.sd"])
        shape = statistic.declaration.shape(len(self._run.groups), self._run.classes)
        if not shape:
            return Estimate(float(value), sd)
        cells: Any = self._run.groups.index(client.group) if client.group else slice(None)
        values, noise = np.zeros(shape), np.zeros(shape)
        values[cells] = np.reshape(value, self._run.released(client, statistic))
        noise[cells] = sd
        return Estimate(values, noise)


def undefined(run: Run, statistic: StatisticPlan) -> Estimate:
    """Return an estimate of NaN in the statistic's shape."""
    shape = statistic.declaration.shape(len(run.groups), run.classes)
    nothing = np.full(shape, math.nan) if shape else math.nan
    return Estimate(nothing, nothing)


def smooth(before: Estimate | None, new: Estimate, memory: float) -> Estimate:
    """Return the exponential moving average of two releases with independent noise.

    F ← s F + (1 − s) F̃ with s = ``memory``, and sd² ← s² sd² + (1 − s)² sd̃²; the first release is returned
    unchanged. Averaging trades noise for lag, because the losses of earlier models stay in the mean.

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
    """Shrink noisy numbers towards their mean, each in proportion to its noise (empirical Bayes).

    F̂_k = F̄ + τ² / (τ² + s_k²) (F̃_k − F̄), with F̄ the mean weighted by 1 / (τ² + s_k²) and τ² =
    max(0, S² − mean s_k²) the moment estimate of the variance between clients (Hedges and Olkin 1985). The
    returned standard deviation is that of the noise left in F̂_k, with the weights taken as known.

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
    exact = total == 0  # τ² is 0 here, and the mean is that of the exact numbers
    share = exact / exact.sum() if exact.any() else 1 / total / (1 / total).sum()
    mean = share @ value
    factor = np.where(exact, 1.0, between / np.where(exact, 1.0, total))
    shrunk = mean + factor * (value - mean)
    remaining = factor**2 * variance + (1 - factor) ** 2 * (share**2 @ variance)  # noise of F̃_k and of F̄
    remaining += 2 * factor * (1 - factor) * share * variance  # their covariance
    return [Estimate(float(v), float(s)) for v, s in zip(shrunk, np.sqrt(remaining), strict=True)]
