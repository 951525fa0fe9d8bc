"""Synthetic cohorts, which stand in for a federation in the conformance kit.

Clients have public sizes from 20 to 20,000. Each holds records of one declared group, or of all groups
(mixed). They report exactly the statistics that the strategy requests, with the mechanism's noise
(z · sensitivity). Client numbers are not consecutive. Without noise, statistics are not clipped either,
as at ε = ∞, and every third client has losses above the clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.statistics import (
    ErrorRate,
    Estimate,
    GroupConfusion,
    GroupLoss,
    GroupScore,
    LabelGroupLoss,
    MeanLoss,
    Statistic,
)
from fedtoll.strategies.base import Arrays, Member, Report

NAMES = ("Sea", "Hill", "Plain")
"""The groups, deliberately not in alphabetical order."""

CLASSES = 2
SHAPES: tuple[tuple[int, ...], ...] = ((4, 3), (3,), ())
SIZES = (20, 20_000)
BEYOND = 10.0
"""Factor on the losses of every third client in cohorts without clipping."""

Counts = NDArray[np.int64]


class Answers(dict[str, Estimate]):
    """A report's statistics, which handle access to undeclared names.

    If ``strict``, access to an undeclared name is recorded in ``undeclared`` and raises. Otherwise a made-up
    value is returned, so that this mistake does not fail the other properties as well.
    """

    def __init__(
        self, declared: dict[str, Estimate], *, strict: bool = False, undeclared: list[str] | None = None
    ) -> None:
        super().__init__(declared)
        self.strict = strict
        self.undeclared = [] if undeclared is None else undeclared

    def __missing__(self, name: str) -> Estimate:
        if self.strict:
            self._refuse(name)
        return Estimate(0.5, 0.1)

    def __contains__(self, name: object) -> bool:
        declared = super().__contains__(name)
        if self.strict and not declared:
            self._refuse(name)
        return declared

    def get(self, name: str, default: Any = None) -> Any:
        """Return a declared statistic."""
        return self[name] if self.__contains__(name) else default

    def _refuse(self, name: object) -> NoReturn:
        self.undeclared.append(str(name))
        raise KeyError(f"{name!r} was not declared")


@dataclass(frozen=True)
class Round:
    """The broadcast model and the clients' reports."""

    params: Arrays
    reports: tuple[Report, ...]

    def copy(self, *, strict: bool = False, undeclared: list[str] | None = None) -> Round:
        """Return a copy that shares no array with this round."""
        return Round(
            tuple(p.copy() for p in self.params),
            tuple(
                replace(
                    r,
                    update=tuple(u.copy() for u in r.update),
                    statistics=Answers(
                        {k: Estimate(_copied(e.value), _copied(e.sd)) for k, e in r.statistics.items()},
                        strict=strict,
                        undeclared=undeclared,
                    ),
                )
                for r in self.reports
            ),
        )


@dataclass(frozen=True)
class Cohort:
    """A synthetic federation over several rounds."""

    title: str
    members: tuple[Member, ...]
    groups: int
    rounds: tuple[Round, ...]


def all_kinds(requests: Sequence[Statistic], seed: int) -> list[Cohort]:
    """Return cohorts of 2, 5 and 13 clients: one-group and mixed; exact, noisy and very noisy; low losses."""
    kinds = [(clients, noise, False) for clients in (2, 5, 13) for noise in (0.0, 1.0, 100.0)]
    kinds += [(5, 0.0, True), (5, 100.0, True)]
    return [
        cohort(requests, seed=seed + i, clients=clients, mixed=mixed, noise=noise, low=low)
        for i, (clients, noise, low) in enumerate(kinds)
        for mixed in (False, True)
    ]


def cohort(
    requests: Sequence[Statistic],
    *,
    seed: int,
    clients: int,
    mixed: bool,
    noise: float,
    low: bool = False,
    rounds: int = 3,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
) -> Cohort:
    """Generate one cohort.

    Parameters
    ----------
    requests
        The statistics that every client reports.
    seed
        Seed of everything drawn.
    clients
        Number of clients.
    mixed
        Whether every client holds records of all groups and declares none (``Member.group == ""``).
    noise
        Noise multiplier z of the statistics; 0 means ε = ∞, where updates have no noise either.
    low
        Whether all losses are 0 and all noise is −3 standard deviations, as can happen to small clients.
    rounds
        Number of rounds.
    shapes
        Shapes of the model's tensors; the second tensor is in single precision.
    """
    rng = np.random.default_rng([seed, clients, mixed, int(noise), low])
    groups = len(NAMES) if mixed else min(len(NAMES), clients)
    n = np.exp(rng.uniform(math.log(SIZES[0]), math.log(SIZES[1]), size=clients)).astype(int)
    members = tuple(Member(3 * k + 2, int(n[k]), "" if mixed else NAMES[k % groups]) for k in range(clients))
    counts_KGC = np.stack(
        [_records(rng, int(n[k]), None if mixed else k % groups, groups) for k in range(clients)]
    )
    variance = np.exp(rng.uniform(math.log(1e-4), math.log(1e-1), size=clients)) * (noise > 0)
    dtypes = [np.float32 if i == 1 else np.float64 for i in range(len(shapes))]

    def report(k: int, t: int) -> Report:
        losses_GC = rng.uniform(0.1, 1.5, size=(groups, CLASSES)) * 0.8**t * (not low)
        if noise == 0 and k % 3 == 0:
            losses_GC *= BEYOND
        wrong_GC = rng.binomial(counts_KGC[k], 0.0 if low else rng.uniform(0.05, 0.4))
        own_groups = slice(None) if mixed else slice(k % groups, k % groups + 1)
        answers = {}
        for statistic in requests:
            exact = _exact(statistic, counts_KGC[k], losses_GC, wrong_GC, int(n[k]), clipped=noise > 0)
            sd = np.zeros(exact.shape)
            sd[own_groups if exact.shape else ()] = noise * statistic.sensitivity(int(n[k]))
            value = exact + sd * (np.full(exact.shape, -3.0) if low else rng.normal(size=exact.shape))
            answers[statistic.name] = Estimate(_plain(value), _plain(sd))
        return Report(
            client=members[k].client,
            size=members[k].size,
            group=members[k].group,
            update=tuple(np.asarray(rng.normal(scale=0.1, size=shape)) for shape in shapes),
            statistics=Answers(answers),
            epsilon=0.3 * (t + 1) if noise else math.inf,
            noise_variance=float(variance[k]),
            learning_rate=0.5,
        )

    kind = "mixed" if mixed else "one-group"
    level = f"z = {noise:g}" if noise else "ε = ∞"
    return Cohort(
        title=f"{clients} {kind} clients, {level}{', all losses 0' if low else ''}",
        members=members,
        groups=groups,
        rounds=tuple(
            Round(
                tuple(np.asarray(rng.normal(size=s), dtype=d) for s, d in zip(shapes, dtypes, strict=True)),
                tuple(report(k, t) for k in range(clients)),
            )
            for t in range(rounds)
        ),
    )


def _records(rng: np.random.Generator, size: int, group: int | None, groups: int) -> Counts:
    """Return a client's records by group and label; in total 80% of the public size."""
    total = round(0.8 * size)
    cells = groups * CLASSES if group is None else CLASSES
    drawn = rng.multinomial(total, rng.dirichlet(np.full(cells, 2.0)))
    counts = np.zeros((groups, CLASSES), dtype=np.int64)
    counts[slice(None) if group is None else group] = drawn.reshape((-1, CLASSES)) if group is None else drawn
    return counts


def _exact(
    statistic: Statistic,
    counts_GC: Counts,
    losses_GC: NDArray[np.float64],
    wrong_GC: Counts,
    size: int,
    *,
    clipped: bool,
) -> NDArray[np.float64]:
    """Return the statistic without noise."""
    if clipped and isinstance(statistic, MeanLoss | GroupLoss | LabelGroupLoss):
        losses_GC = np.minimum(losses_GC, statistic.clip)
    if isinstance(statistic, ErrorRate):
        return np.asarray(wrong_GC.sum() / size)
    if isinstance(statistic, GroupScore):
        sure_GC = 0.9 * (counts_GC - wrong_GC) + 0.1 * wrong_GC
        return sure_GC + (counts_GC - sure_GC)[:, ::-1]
    if isinstance(statistic, GroupConfusion):
        correct_GC = counts_GC - wrong_GC
        confusion = [np.diag(c) + np.diag(w)[:, ::-1] for c, w in zip(correct_GC, wrong_GC, strict=True)]
        return np.stack(confusion) * 1.0
    if isinstance(statistic, MeanLoss):
        return np.asarray((losses_GC * counts_GC).sum() / size)
    if isinstance(statistic, GroupLoss | LabelGroupLoss):
        pairs = np.stack([losses_GC * counts_GC / statistic.clip, counts_GC], axis=-1)
        return pairs.sum(axis=1) if isinstance(statistic, GroupLoss) else pairs
    raise NotImplementedError(f"no synthetic values of {statistic!r}")


def _plain(value: NDArray[np.float64]) -> Any:
    return value if np.ndim(value) else float(value)


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
