"""Broken clients as the unit of privacy: what can go wrong with clipped updates and sampled clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from fedtoll.clients import updates
from fedtoll.privacy import ledger
from fedtoll.scenarios import client_unit, participation
from fedtoll.scenarios.participation import Attendance
from fedtoll.scenarios.run import ClientPlan, Run
from fedtoll.server import client_sums, strict
from fedtoll.server.client_sums import ClientSums
from tests.gate.mutants import mutant

_TO_NORM = updates.to_norm


def clipping(change: Any) -> list[Any]:
    """Patch the clip of updates."""
    return [patch.object(updates, "to_norm", change)]


@mutant("updates are added up without clipping")
def update_not_clipped() -> list[Any]:
    return clipping(lambda update, bound: (list(update), _TO_NORM(update, bound)[1]))


@mutant("updates are clipped to twice the bound that the noise is calibrated to")
def update_clipped_to_twice_the_bound() -> list[Any]:
    return clipping(lambda update, bound: (_TO_NORM(update, 2 * bound)[0], _TO_NORM(update, bound)[1]))


@mutant("each tensor of an update is clipped by itself, so that the whole has a larger norm")
def update_clipped_by_tensor() -> list[Any]:
    def by_tensor(update: Sequence[Any], bound: float) -> Any:
        return [_TO_NORM([array], bound)[0][0] for array in update], _TO_NORM(update, bound)[1]

    return clipping(by_tensor)


@mutant("the sensitivity of a sum of updates is that of the mean client instead of the largest")
def client_sensitivity_from_the_mean_weight() -> list[Any]:
    return [patch.object(client_unit, "largest", lambda weights: float(np.mean(weights)))]


@mutant("updates are added up with weights that are not capped, while the noise counts on the cap")
def weight_not_capped() -> list[Any]:
    original = ClientSums.__init__

    def init(self: Any, run: Run) -> None:
        original(self, run)
        sizes = np.array([c.size for c in run.clients], dtype=np.float64)
        self.weights = sizes / sizes.sum() * self.weights.sum()

    return [patch.object(ClientSums, "__init__", init)]


@mutant("weights are divided by those who took part, so that one client changes those of the others")
def weights_of_those_who_came() -> list[Any]:
    original = ClientSums.total

    def total(params: Any, weights: Any, received: Any) -> Any:
        return original(params, weights / weights.sum() if len(weights) else weights, received)

    return [patch.object(ClientSums, "total", staticmethod(total))]


def _trained(self: Run, client: ClientPlan) -> tuple[float, int]:
    """Return what is charged if a visible fraction amplified."""
    rule = self.participation
    return (rule.rate or rule.fraction or 1.0) if rule else 1.0, 1


@mutant("the ledger claims amplification for a schedule that everybody knows")
def amplification_by_visible_participation() -> list[Any]:
    return [patch.object(Run, "trained", _trained)]


@mutant("noise and bits are added as if the bits of an adaptive clip cost nothing")
def bits_not_charged() -> list[Any]:
    return [patch.object(client_unit, "update_multiplier", lambda z, adaptive: z)]


@mutant("the noise of a round is that of the first clip, which the adaptive clip has left")
def noise_of_a_stale_clip() -> list[Any]:
    original = ClientSums._variance

    def variance(self: Any) -> float:
        clip, self.clip = self.clip, self._run.clip
        try:
            return float(original(self))
        finally:
            self.clip = clip

    return [patch.object(ClientSums, "_variance", variance)]


@mutant("the server adds the bits of the adaptive clip without noise")
def bits_without_noise() -> list[Any]:
    return [patch.object(client_sums, "noised_array", lambda values, normals, sd: values)]


@mutant("a client without records says that its update is within the clip")
def bit_without_records() -> list[Any]:
    original = updates.sent

    def sent(run: Run, task: Any, parameters: Any) -> Any:
        new, metrics = original(run, task, parameters)
        if updates.BIT in metrics and not len(task.labels_N):
            metrics = metrics | {updates.BIT: metrics[updates.BIT] + 0.5}
        return new, metrics

    return [patch.object(updates, "sent", sent)]


@mutant("a client that a hidden sample leaves out is charged nothing, although it might have been drawn")
def absent_client_charged_nothing() -> list[Any]:
    original = ledger.hidden

    def hidden(run: Run, round: int) -> Any:
        return original(run, round) if run.attendance.clients(round) else ()

    return [patch.object(strict, "hidden", hidden)]


@mutant("a round that nobody joins has no noise, and so tells that nobody did")
def silent_round_without_noise() -> list[Any]:
    original = ClientSums._with_noise

    def with_noise(self: Any, total: Any, sd: float, round: int) -> Any:
        return original(self, total, sd, round) if any(a.any() for a in total) else total

    return [patch.object(ClientSums, "_with_noise", with_noise)]


@mutant("shares of the noise are for all clients, of which only some take part in a round")
def shares_for_all_clients() -> list[Any]:
    return [patch.object(client_unit, "together", lambda rule, clients: clients)]


@mutant("the noise of a sum is not scaled up with the updates of a sample")
def noise_without_the_denominator() -> list[Any]:
    original = ClientSums._variance

    def variance(self: Any) -> float:
        weights, self.weights = self.weights, self.weights / self.weights.sum()
        try:
            return float(original(self))
        finally:
            self.weights = weights

    return [patch.object(ClientSums, "_variance", variance)]


@mutant("a hidden sample has the same number of clients in every round")
def hidden_sample_of_fixed_size() -> list[Any]:
    original = Attendance.draw

    def draw(rule: Any, members: Any, rounds: int, secret: int = 0) -> Attendance:
        if rule is not None and rule.kind == "poisson":
            rule = participation.Participation(kind="fraction", fraction=rule.rate, seed=secret)
        return original(rule, members, rounds)

    return [patch.object(Attendance, "draw", staticmethod(draw))]


@mutant("a hidden sample is drawn from the public seed, so that everybody knows it")
def hidden_sample_from_the_public_seed() -> list[Any]:
    original = Attendance.draw
    return [
        patch.object(
            Attendance,
            "draw",
            staticmethod(lambda rule, members, rounds, secret=0: original(rule, members, rounds)),
        )
    ]


@mutant("a sample counts as hidden under secure aggregation too")
def sample_hidden_from_the_server() -> list[Any]:
    original = client_unit.check

    def check(scenario: Any) -> None:
        if scenario.participation.kind != "poisson" or scenario.privacy.unit == "record":
            original(scenario)

    return [
        patch.object(client_unit, "check", check),
        patch.object(client_unit, "together", lambda rule, clients: clients),
        patch.object(client_unit, "check_run", lambda run: None),
    ]


@mutant("a client adds the same share in every round")
def share_reused_every_round() -> list[Any]:
    original = updates.sent

    def sent(run: Run, task: Any, parameters: Any) -> Any:
        return original(run, replace(task, round=1), parameters)

    return [patch.object(updates, "sent", sent)]
