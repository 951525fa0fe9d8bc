"""Broken sums: what can go wrong where the server sees only the sum of all clients' messages."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import MetricRecord

from fedtoll.clients import mechanisms, train
from fedtoll.clients.engines import sampling
from fedtoll.clients.noise import noised_array
from fedtoll.privacy import ledger
from fedtoll.scenarios import shares, streams
from fedtoll.scenarios.run import ClientPlan, Run, StatisticPlan
from fedtoll.scenarios.statistics import Estimate
from fedtoll.server import adapter, sums
from fedtoll.strategies.base import Member
from tests.gate.mutants import keys, mutant, noising

_SHARES, _STATISTIC = shares.noise_shares, shares.statistic_share


def dividing(change: Any) -> list[Any]:
    """Patch the shares of both kinds, where they are planned and where they are checked."""

    def noise(sigma: float, weights: Any, batches: Any, colluding: int) -> list[float]:
        factor = change(len(weights), colluding)
        return [factor * x for x in _SHARES(sigma, weights, batches, colluding)]

    def statistic(z: float, clients: int, colluding: int) -> float:
        return float(change(clients, colluding) * _STATISTIC(z, clients, colluding))

    return [
        *(patch.object(owner, "noise_shares", noise) for owner in (shares, sums)),
        *(patch.object(owner, "statistic_share", statistic) for owner in (shares, sums)),
    ]


@mutant("clients add the whole noise of the sum instead of a share of it")
def share_not_divided() -> list[Any]:
    return dividing(lambda clients, colluding: math.sqrt(clients - colluding))


@mutant("shares are for K clients, although c of them may subtract theirs")
def shares_by_K_in_place_of_K_minus_c() -> list[Any]:
    return dividing(lambda clients, colluding: math.sqrt((clients - colluding) / clients))


@mutant("a share is divided by K instead of √K")
def share_divided_by_K() -> list[Any]:
    return dividing(lambda clients, colluding: 1 / math.sqrt(clients - colluding))


def ratio(change: Any) -> list[Any]:
    """Patch the sensitivity of the sum, max p_k / B_k."""
    return [patch.object(owner, "largest_ratio", change) for owner in (shares, sums)]


@mutant("the sensitivity of a sum is that of the mean client instead of the largest")
def sensitivity_from_the_mean_weight() -> list[Any]:
    return ratio(lambda weights, batches: float(np.mean(np.divide(weights, batches))))


@mutant("the sensitivity of a sum is that of FedAvg, whatever the weights in force")
def sensitivity_of_other_weights() -> list[Any]:
    return ratio(lambda weights, batches: 1 / sum(batches))


@mutant("the sensitivity of a sum is the largest weight over the largest batch")
def sensitivity_from_the_largest_batch() -> list[Any]:
    return ratio(lambda weights, batches: max(weights) / max(batches))


@mutant("the strategy's sum has equal weights, while the noise is calibrated to the public weights")
def other_weights_than_planned() -> list[Any]:
    class Other(sums.Sums):
        def __init__(self, run: Run) -> None:
            super().__init__(run)
            self.weights = np.full(len(run.clients), 1 / len(run.clients))

    return [patch.object(adapter, "Sums", Other)]


@mutant("under a trusted server every client adds the noise of the sum too")
def noise_of_central_added_per_client() -> list[Any]:
    return [
        patch.object(ClientPlan, "added_noise", property(lambda plan: plan.noise_multiplier)),
    ]


@mutant("a trusted server adds the noise without the learning rate, on another scale than the sum")
def central_noise_without_the_learning_rate() -> list[Any]:
    def variance(run: Run) -> float:
        return _VARIANCE(run.model_copy(update={"learning_rate": 1.0}))

    return [patch.object(sums, "added_variance", variance)]


_VARIANCE = sums.added_variance
_STREAM = streams.stream


@mutant("a trusted server adds the same noise in every round")
def central_noise_reused_every_round() -> list[Any]:
    return [
        patch.object(
            sums, "stream", lambda seed, purpose, round, *key: _STREAM(seed, purpose, round > 0, *key)
        )
    ]


@mutant("a trusted server adds the sum's noise with a variance that is averaged over clients")
def central_noise_divided_by_clients() -> list[Any]:
    return [patch.object(sums, "added_variance", lambda run: _VARIANCE(run) / len(run.clients))]


@mutant("a trusted server shows the sums of statistics without noise")
def central_statistics_without_noise() -> list[Any]:
    def noised(values: Any, normals: Any, sd: float) -> Any:
        statistic = normals.ndim == 2 and normals.shape[-1] <= 9
        return values if statistic else noised_array(values, normals, sd)

    return [patch.object(sums, "noised_array", noised)]


@mutant("a client whose statistic the server noises does not clip it")
def statistic_not_clipped_before_the_sum() -> list[Any]:
    original = mechanisms.release

    def release(plan: StatisticPlan, records: Any, **key: Any) -> Any:
        if plan.noise_share is None:
            return original(plan, records, **key)
        without = plan.model_copy(update={"noise_multiplier": 0.0, "noise_share": 0.0})
        exact, clipped = original(without, records, **key), original(plan, records, **key)
        silent = original(plan.model_copy(update={"noise_share": 0.0}), records, **key)
        return Estimate(exact.value + (clipped.value - silent.value), clipped.sd)

    return [patch.object(mechanisms, "release", release)]


@mutant("a client of a public group adds its share of a statistic's noise to that group's cells only")
def share_in_the_own_cells_only() -> list[Any]:
    original = mechanisms.release

    def release(plan: StatisticPlan, records: Any, **key: Any) -> Any:
        found = original(plan, records, **key)
        silent = original(plan.model_copy(update={"noise_share": 0.0}), records, **key)
        held = np.unique(records.groups_N)
        if len(held) > 1 or len(records.groups_N) < 5:  # of no public group
            return found
        own = np.isin(np.arange(records.groups), held).reshape(-1, *(1,) * (found.value.ndim - 1))
        return Estimate(np.where(own, found.value, silent.value), found.sd)

    return [patch.object(mechanisms, "release", release)]


@mutant("a strategy is shown the report of each client beside that of the sum")
def statistic_shown_individually() -> list[Any]:
    original = adapter.Adapted.aggregate_train

    def aggregate(self: Any, round: int, replies: Any) -> Any:
        held = self._sums
        if held is None:
            return original(self, round, replies)
        replies = list(replies)
        contents = {self._strict.client_of[r.metadata.src_node_id]: r for r in replies}
        metrics = [train.only(MetricRecord, contents[c.id].content) for c in self._run.clients]
        seen = self._released.update(self._run.clients, metrics)
        by_id = {c.id: m for c, m in zip(self._run.clients, metrics, strict=True)}
        each = [self._report(c, s, by_id) for c, s in zip(self._run.clients, seen, strict=True)]
        self.strategy.weigh(each, self._state)
        return original(self, round, replies)

    return [patch.object(adapter.Adapted, "aggregate_train", aggregate)]


@mutant("the strategy learns every client's group and size as its members, and one report")
def members_shown_individually() -> list[Any]:
    original = adapter.Adapted.__init__

    def init(self: Any, strategy: Any, run: Run, strict: Any) -> None:
        original(self, strategy, run, strict)
        if self._sums is not None:
            self._state = strategy.init([Member(c.id, c.size, c.group) for c in run.clients])

    return [patch.object(adapter.Adapted, "__init__", init)]


@mutant("the strategy learns at the start of a round who the members of the sum are")
def members_shown_every_round() -> list[Any]:
    original = adapter.Adapted.configure_train

    def configure(self: Any, round: int, *rest: Any) -> Any:
        messages = list(original(self, round, *rest))
        if self._sums is not None:
            self._state = self.strategy.begin(round, self._members, self._state)
        return messages

    return [patch.object(adapter.Adapted, "configure_train", configure)]


@mutant("a strategy that weighs clients by their reports runs on sums")
def strategies_not_refused() -> list[Any]:
    return [patch.object(sums, "refusal", lambda plan, requested: "")]


@mutant("the sum has the smallest σ of any client, so that those with a larger q spend more than ε")
def smallest_sigma_for_all() -> list[Any]:
    original = sums.planned

    def planned(privacy: Any, plan: Any, statistics: Any, clients: Any) -> Any:
        least = min(c.noise_multiplier for c in clients)
        alike = [c.model_copy(update={"noise_multiplier": least}) for c in clients]
        return original(privacy, plan, statistics, alike if privacy.trust != "local" else clients)

    return [patch.object(sums, "planned", planned)]


@mutant("the ledger divides q by the number of clients, as if a sum hid whose record it holds")
def sum_amplifies_again() -> list[Any]:
    def released(client: int, round: int, what: str, rate: float, noise: float, count: int) -> Any:
        return _RELEASE(client, round, what, rate / 7 if what == ledger.DP_SGD else rate, noise, count)

    return [patch.object(owner, "Release", released) for owner in (ledger, train)]


_RELEASE = ledger.Release


@mutant("the ledger charges each record a share of a sum's releases, since all clients have a part in it")
def charged_a_share() -> list[Any]:
    def released(client: int, round: int, what: str, rate: float, noise: float, count: int) -> Any:
        return _RELEASE(client, round, what, rate, noise * (7**0.5 if what == ledger.DP_SGD else 1), count)

    return [patch.object(owner, "Release", released) for owner in (ledger, train)]


@mutant("clients that hold no record add no share of the noise")
def no_share_without_records() -> list[Any]:
    return noising(lambda run, task: float(len(task.labels_N) > 0))


@mutant("the shares of two clients are the same draws, so that they add up to more of one noise")
def shares_drawn_alike() -> list[Any]:
    original = sampling.noise_keys

    def alike(run: Run, task: Any) -> Any:
        return original(run, replace(task, plan=task.plan.model_copy(update={"id": task.plan.id // 2})))

    return keys(alike)
