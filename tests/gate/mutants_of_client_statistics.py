"""Broken statistics where a client is the unit of privacy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from fedtoll.clients import mechanisms, state, train, updates
from fedtoll.privacy import accounting, constants, ledger
from fedtoll.scenarios import client_unit
from fedtoll.scenarios.run import Run, StatisticPlan
from fedtoll.scenarios.statistics import Estimate
from fedtoll.server import strict
from fedtoll.server.client_sums import ClientSums
from fedtoll.server.sums import Sums
from tests.gate.mutants import mutant

_TO_NORM, _SHARE, _JOINT = updates.to_norm, client_unit.statistic_share, client_unit.joint_multiplier


def clipping(change: Any) -> list[Any]:
    """Patch what a client's part of a statistic is scaled down by."""
    return [patch.object(mechanisms, "to_norm", change)]


@mutant("all records of a client count in a statistic, however many it holds")
def client_statistic_not_clipped() -> list[Any]:
    return clipping(lambda arrays, bound: (list(arrays), 0.0))


@mutant("each group's cells are scaled down on their own, so that a client of many groups counts more")
def client_statistic_clipped_by_group() -> list[Any]:
    def by_group(arrays: Sequence[Any], bound: float) -> Any:
        (cells,) = arrays
        return [np.stack([_TO_NORM([row], bound)[0][0] for row in cells])], 0.0

    return clipping(by_group)


@mutant("a client's cells are clipped one by one, so that their norm may be larger than the bound")
def client_statistic_clipped_by_cell() -> list[Any]:
    return clipping(lambda arrays, bound: ([np.clip(a, -bound, bound) for a in arrays], 0.0))


@mutant("the noise of a client's statistics covers one record, while the client has many")
def noise_of_one_record() -> list[Any]:
    def sensitivity(self: StatisticPlan, size: int) -> float:
        return self.declaration.sensitivity(size)

    return [patch.object(StatisticPlan, "sensitivity", sensitivity)]


@mutant("the bound of a client's statistics is that of the mean public size, the default that of the largest")
def bound_of_the_mean_size() -> list[Any]:
    original = client_unit.statistic_bound

    def bound(record: float, sizes: Sequence[int], cap: float | None) -> float:
        return original(record, sizes, float(np.mean(sizes)) if cap is None else cap)

    return [patch.object(client_unit, "statistic_bound", bound)]


def dividing(change: Any) -> list[Any]:
    """Patch the share of a statistic's noise."""
    return [patch.object(client_unit, "statistic_share", change)]


@mutant("each client adds the whole noise of a statistic instead of a share of it")
def statistic_share_not_divided() -> list[Any]:
    return dividing(lambda z, honest: z)


@mutant("the noise of a statistic is shared by all clients, of whom only some take part in a round")
def statistic_shares_for_all_clients() -> list[Any]:
    return dividing(lambda z, honest: _SHARE(z, 7))


@mutant("shares of a statistic's noise count on those who may subtract theirs")
def statistic_shares_of_colluding_clients() -> list[Any]:
    return dividing(lambda z, honest: _SHARE(z, honest + 1))


def joining(change: Any) -> list[Any]:
    """Patch the noise multiplier of a round's release, where it is calibrated and where it is charged."""
    owners = (accounting, constants, ledger, client_unit)
    return [patch.object(owner, "joint_multiplier", change) for owner in owners]


@mutant("statistics are not charged: a round costs what its updates cost")
def client_statistics_not_charged() -> list[Any]:
    def first(*multipliers: float) -> float:
        return multipliers[0]

    return joining(first)


@mutant("of several statistics in one release, only the first is charged")
def one_client_statistic_charged() -> list[Any]:
    return joining(lambda *multipliers: _JOINT(*multipliers[:2]))


@mutant("statistics are charged as if they had a sample of clients of their own")
def statistics_of_another_sample() -> list[Any]:
    """Two releases of independent samples cost less than one release of a shared sample."""
    owed, hidden, joint, enter = ledger.owed, ledger.hidden, ledger.joint, state.enter
    calibrate = accounting.calibrate
    current: list[Run] = []

    def split(run: Run, releases: Any) -> list[ledger.Release]:
        found = []
        for release in releases:
            if not (names := ledger.statistics_in(release.what)):
                found.append(release)
                continue
            z = _JOINT(*(s.noise_multiplier for s in run.statistics))
            update = run.clients[0].noise_multiplier
            found.append(replace(release, what=ledger.CLIENT_UPDATE, noise_multiplier=update))
            found.append(replace(release, what=" + ".join(names), noise_multiplier=z))
        return found

    def joined(run: Run, *rest: Any) -> ledger.Release:
        current[:] = [run]
        return joint(run, *rest)

    def two(target: float, *, joined: Any = None, others: Any = (), **rest: Any) -> float:
        return calibrate(target, others=(*others, *([joined] if joined else [])), **rest)

    return [
        patch.object(strict, "owed", lambda run, *rest: split(run, owed(run, *rest))),
        patch.object(strict, "hidden", lambda run, round: split(run, hidden(run, round))),
        patch.object(train, "joint", joined),
        patch.object(train, "enter", lambda into, releases: enter(into, split(current[0], releases))),
        patch.object(accounting, "calibrate", two),
    ]


@mutant("who does not take part is still in a statistic, with what it last sent")
def absent_clients_in_a_statistic() -> list[Any]:
    original = ClientSums.report

    def report(
        self: Any, round: int, places: Any, params: Any, received: Any, metrics: Any, *rest: Any
    ) -> Any:
        known = self.__dict__.setdefault("known", {})
        stale = [m for place, m in known.items() if place not in places]
        known.update(zip(places, metrics, strict=True))
        self.__dict__["stale"] = stale
        return original(self, round, places, params, received, metrics, *rest)

    statistic = Sums._statistic

    def with_stale(self: Any, index: int, plan: StatisticPlan, round: int, metrics: Any) -> Any:
        both = [*metrics, *({**m, f"{plan.name}.sd": 0.0} for m in self.stale if plan.name in m)]
        return statistic(self, index, plan, round, both)

    return [
        patch.object(ClientSums, "report", report),
        patch.object(ClientSums, "_statistic", with_stale, create=True),
    ]


@mutant("a statistic's noise is not scaled up with the sum over a sample")
def statistic_noise_not_scaled() -> list[Any]:
    original = Sums._statistic

    def statistic(self: Any, index: int, plan: StatisticPlan, round: int, metrics: Any) -> Estimate:
        if not plan.due(round):
            return original(self, index, plan, round, metrics)
        scale, self.scale = self.scale, 1.0
        shape = plan.declaration.shape(len(self._run.groups), self._run.classes)
        exact = sum((np.reshape(m[plan.name], shape) for m in metrics), np.zeros(shape))
        try:
            found = original(self, index, plan, round, metrics)
        finally:
            self.scale = scale
        shown = Estimate(found.value + (scale - 1) * exact, scale * found.sd)
        self._last[plan.name] = shown
        return shown

    return [patch.object(ClientSums, "_statistic", statistic, create=True)]


@mutant("the bit of the adaptive clip and the first cell of a statistic have the same noise")
def bit_and_statistic_share_their_noise() -> list[Any]:
    return [patch.object(ClientSums, "first_stream", 0)]


@mutant("a statistic of a round that nobody joins has no noise, and so tells that nobody did")
def silent_statistic_without_noise() -> list[Any]:
    original = Sums._statistic

    def statistic(self: Any, index: int, plan: StatisticPlan, round: int, metrics: Any) -> Estimate:
        found = original(self, index, plan, round, metrics)
        if plan.due(round) and not metrics:
            self._last[plan.name] = found = Estimate(np.zeros_like(found.value), found.sd)
        return found

    return [patch.object(ClientSums, "_statistic", statistic, create=True)]


@mutant("a statistic has the same noise in every round")
def statistic_noise_reused_every_round() -> list[Any]:
    statistic, released = Sums._statistic, mechanisms.release

    def summed(self: Any, index: int, plan: StatisticPlan, round: int, metrics: Any) -> Estimate:
        at = 1 if plan.due(round) else round
        return statistic(self, index, plan, at, metrics)

    def release(plan: StatisticPlan, records: Any, **key: Any) -> Estimate:
        return released(plan, records, **{**key, "round": 1})

    return [
        patch.object(ClientSums, "_statistic", summed, create=True),
        patch.object(mechanisms, "release", release),
    ]


@mutant("a client without records counts as as many records as it declares")
def count_without_records() -> list[Any]:
    released = mechanisms.release

    def release(plan: StatisticPlan, records: Any, **key: Any) -> Estimate:
        found = released(plan, records, **key)
        if len(records.labels_N) or plan.client_bound is None:
            return found
        return Estimate(found.value + min(float(records.size), plan.client_bound), found.sd)

    return [patch.object(mechanisms, "release", release)]
