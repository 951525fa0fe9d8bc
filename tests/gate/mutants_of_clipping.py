"""Broken client-side mechanisms, in both engines unless a mutant says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from fedtoll.clients import public_model
from fedtoll.clients import train as clients
from fedtoll.clients.clipping import steps
from fedtoll.clients.clipping.adaptive import AdaptiveClip
from fedtoll.clients.clipping.dpsgd_f import DPSGDF
from fedtoll.clients.clipping.global_scaling import GlobalAdapt
from fedtoll.clients.clipping.steps import Steps
from fedtoll.clients.engines import cohort
from fedtoll.scenarios import streams as streams_of
from fedtoll.scenarios.client import MechanismPlan
from fedtoll.server.strict import Strict
from tests.gate.mutants import mutant, noising

# Counts.


@mutant("the gradient has the noise that is charged for both releases, so that the counts are free")
def counts_not_charged() -> list[Any]:
    return [
        patch.object(
            MechanismPlan, "gradient_noise", lambda self, z: float(z) if self.statistic_share else None
        )
    ]


@mutant("counts have the noise of a sensitivity of a half, as if records were replaced")
def counts_with_half_the_noise() -> list[Any]:
    original = steps.statistic_sd
    return [patch.object(steps, "statistic_sd", lambda run, client: 0.5 * original(run, client))]


@mutant("counts have no noise")
def counts_without_noise() -> list[Any]:
    return [patch.object(steps, "release", lambda exact, sd, rng: exact)]


def _streams(change: Callable[[int, int], tuple[int, int]]) -> list[Any]:
    original = streams_of.step_streams

    def streams(seed: int, purpose: Any, client: int, round: int, *, steps: int) -> Any:
        return original(seed, purpose, *change(client, round), steps=steps)

    return [patch.object(steps, "step_streams", streams)]


@mutant("the counts of all rounds have the same noise")
def counts_reuse_noise_every_round() -> list[Any]:
    return _streams(lambda client, round: (client, 1))


@mutant("the counts of two clients have the same noise")
def counts_reuse_noise_of_a_client() -> list[Any]:
    return _streams(lambda client, round: (client // 2, round))


@mutant("all cells of a batch's counts have the same noise")
def one_noise_for_all_cells() -> list[Any]:
    original = steps.release

    def release(exact: Any, sd: float, rng: Any) -> Any:
        return exact + (original(exact[:1], sd, rng) - exact[:1])

    return [patch.object(steps, "release", release)]


def _unbounded() -> list[Any]:
    """Leave out what the engine enforces of rows and factors."""
    return [
        patch.object(steps, "summed", lambda rows, shape: np.asarray(rows, dtype=np.float64).sum(axis=0)),
        patch.object(steps, "at_most", lambda factors, norms, bound: np.nan_to_num(factors)),
    ]


@mutant("a record is counted above the clip and among all, which moves the counts by √2")
def counts_of_overlapping_cells() -> list[Any]:
    original = DPSGDF.count

    def count(self: Any, norms: Any, groups: Any, state: Any, public: Any) -> Any:
        cells = original(self, norms, groups, state, public)
        cells[:, 1::2] += cells[:, ::2]
        return cells

    return [*_unbounded(), patch.object(DPSGDF, "count", count)]


@mutant("the clip adapts to the exact count, and the noised one is only recorded")
def clip_from_the_exact_count() -> list[Any]:
    original, update, last = steps.release, AdaptiveClip.update, {}

    def release(exact: Any, sd: float, rng: Any) -> Any:
        last["exact"] = exact
        return original(exact, sd, rng)

    def updated(self: Any, noised: Any, state: Any, public: Any) -> Any:
        return update(self, last.get("exact", noised), state, public)

    return [patch.object(steps, "release", release), patch.object(AdaptiveClip, "update", updated)]


@mutant("the noised count is divided by the number of records in the batch")
def count_divided_by_the_batch() -> list[Any]:
    count, update, last = AdaptiveClip.count, AdaptiveClip.update, {}

    def counted(self: Any, norms: Any, *rest: Any) -> Any:
        last["size"] = max(1, len(norms))
        return count(self, norms, *rest)

    def updated(self: Any, noised: Any, state: Any, public: Any) -> Any:
        return update(self, noised * (public.batch_size / last["size"]), state, public)

    return [patch.object(AdaptiveClip, "count", counted), patch.object(AdaptiveClip, "update", updated)]


# Scales and bounds.


@mutant("a group's gradients are scaled to twice its clip, and noise is added for the clip")
def scale_above_the_bound() -> list[Any]:
    original = DPSGDF.scale
    return [*_unbounded(), patch.object(DPSGDF, "scale", lambda self, *a: 2.0 * original(self, *a))]


@mutant("all gradients are scaled by C / Z, those above Z too")
def global_scale_without_a_clip() -> list[Any]:
    def scale(self: Any, norms: Any, groups: Any, state: Any, public: Any) -> Any:
        return np.full(len(norms), public.clip / state[0])

    return [*_unbounded(), patch.object(GlobalAdapt, "scale", scale)]


@mutant("gradients are divided by the largest norm of the batch")
def scale_by_the_largest_norm() -> list[Any]:
    def scale(self: Any, norms: Any, groups: Any, state: Any, public: Any) -> Any:
        return np.full(len(norms), self.bound(state, public) / max([1e-6, *norms]))

    return [patch.object(AdaptiveClip, "scale", scale)]


def _factors(change: Callable[[Any, Any, Any], float | None], said: bool) -> list[Any]:
    """Replace the bound that noise is scaled to, and with ``said`` the one that the client reports."""
    original = Steps.factors

    def factors(self: Any, norms: Any, rows: Any) -> Any:
        before = self.state
        found = original(self, norms, rows)
        self.__dict__.setdefault("true_bounds", []).append(self.bounds[-1])
        if (bound := change(self, before, rows)) is not None:
            self.bounds[-1] = bound
        return found

    def reported(self: Any) -> Any:
        true = float(np.sqrt(np.mean(np.square(self.true_bounds))))
        return self.state.tolist(), true

    patches = [patch.object(Steps, "factors", factors)]
    return patches if said else [*patches, patch.object(Steps, "outcome", property(reported))]


def _old(self: Any, before: Any, rows: Any) -> float | None:
    return float(self._mechanism.bound(before, self._public))


@mutant("the noise is scaled to the bound from before the counts")
def noise_for_the_old_bound() -> list[Any]:
    return _factors(_old, said=False)


@mutant("the noise is scaled to the bound from before the counts, and the client says so")
def noise_for_the_old_bound_that_is_reported() -> list[Any]:
    return _factors(_old, said=True)


@mutant("the noise is scaled to the clip of the scenario, whatever the mechanism's bound")
def noise_for_the_clip_of_the_scenario() -> list[Any]:
    return _factors(lambda self, before, rows: self._public.clip, said=False)


@mutant("the noise is scaled to the largest clip of the groups in the batch")
def noise_for_the_groups_of_the_batch() -> list[Any]:
    def present(self: Any, before: Any, rows: Any) -> float | None:
        if not isinstance(self._mechanism, DPSGDF) or not len(rows):
            return None
        return float(self.state[np.unique(self._groups_N[rows])].max())

    return _factors(present, said=True)


@mutant("the bound that a client reports depends on the number of its records")
def reported_bound_depends_on_records() -> list[Any]:
    outcome: Any = vars(Steps)["outcome"].fget

    def reported(self: Any) -> Any:
        state, bound = outcome(self)
        return state, bound * (1 + 1e-12 * len(self._groups_N))

    return [patch.object(Steps, "outcome", property(reported))]


@mutant("the noise is halved where a mechanism scales gradients")
def less_noise_with_a_mechanism() -> list[Any]:
    return noising(lambda run, task: 0.5 if run.scales_gradients else 1.0)


@mutant("a repeated round starts with the state of its own end, and clips in another way")
def repeated_round_with_a_later_state() -> list[Any]:
    def state(stored: Any, round: int) -> Any:
        found = stored.get("fedtoll.mechanism")
        return None if found is None else list(found["after"])

    return [patch.object(clients, "mechanism_state", state)]


@mutant("a client sends the counts of its last batch besides")
def counts_are_sent() -> list[Any]:
    reply, metrics = clients._reply, Strict._metrics

    def replied(job: Any, trained: Any) -> Any:
        message = reply(job, trained)
        message.content.metric_records["metrics"]["counts"] = 1.0
        return message

    def lenient(self: Any, client: int, round: int) -> Any:
        public, cells = metrics(self, client, round)
        return public, {**cells, "counts": ()}

    return [patch.object(clients, "_reply", replied), patch.object(Strict, "_metrics", lenient)]


@mutant("momentum carries on exact gradients, so that noise of earlier steps is missing", engines=("cohort",))
def momentum_without_noise() -> list[Any]:
    original = cohort._Models.step

    def step(
        self: Any, sums: Sequence[torch.Tensor], noise: Any, total: torch.Tensor, released: torch.Tensor
    ) -> None:
        if self._velocity_KP is None:
            original(self, sums, noise, total, released)
            return
        active, before = len(total), self._velocity_KP.clone()
        exact = torch.cat([s.reshape(active, -1) for s in sums], dim=1) * self._scale_K1[:active]
        original(self, sums, noise, total, released)
        self._velocity_KP[:active] = self._momentum * before[:active] + exact

    return [patch.object(cohort._Models, "step", step)]


@mutant("the model that clients start from is trained on their records")
def start_trained_on_clients_records() -> list[Any]:
    original = public_model._trained

    class Leaks:
        def __init__(self, federation: Any) -> None:
            self._federation = federation

        def records(self, seed: int) -> Any:
            records = self._federation.records(seed)
            return replace(records, validation=np.concatenate([records.validation, *records.held]))

    def trained(run: Any, federation: Any, initial: Any) -> Any:
        return original(run, Leaks(federation), initial)  # type: ignore[arg-type]

    return [patch.object(public_model, "_trained", trained)]
