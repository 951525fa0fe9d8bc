"""Mechanisms that are broken only where the first system does not look.

Late steps and rounds, clients beyond the seventh or the fiftieth, public groups, q and T that differ, missing
values, copies, folds, skipped replies and PRV.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from fedtoll.clients import mechanisms
from fedtoll.clients.engines import cohort, draws, gradients, sampling
from fedtoll.clients.engines.base import Job, Task
from fedtoll.privacy import accounting, constants, ledger, opacus_prv
from fedtoll.privacy.ledger import DP_SGD, Ledger
from fedtoll.scenarios import data, partition
from fedtoll.scenarios import split as splits
from fedtoll.scenarios.run import Run
from fedtoll.server.strict import Strict
from tests.gate.mutants import batches, keys, mutant, noising, optimizer
from tests.gate.mutants_outside_engines import no_memory, recorded

# Noise of training.


@mutant("the noise is 1.5% less than what is charged")
def noise_times_985() -> list[Any]:
    return noising(lambda run, task: 0.985)


@mutant("the noise is nine tenths where the client's group is public")
def less_noise_in_public_groups() -> list[Any]:
    return noising(lambda run, task: 0.9 if task.plan.group else 1.0)


@mutant("the noise is a tenth from round 12 on")
def less_noise_from_round_12() -> list[Any]:
    return noising(lambda run, task: 0.1 if task.round >= 12 else 1.0)


@mutant("the noise is nine tenths if replies may be skipped")
def less_noise_with_skips() -> list[Any]:
    return noising(lambda run, task: 0.9 if run.on_failure == "skip" else 1.0)


@mutant("the noise is nine tenths under PRV")
def less_noise_under_prv() -> list[Any]:
    return noising(lambda run, task: 0.9 if run.accountant == "prv" else 1.0)


@mutant("the noise has the sd σ where C is more than 1, and σ C elsewhere")
def noise_of_a_large_clip() -> list[Any]:
    return noising(lambda run, task: 1 / max(1.0, run.clip or 1.0))


@mutant("all clients have the least σ of any")
def least_noise_for_all() -> list[Any]:
    return noising(
        lambda run, task: min(c.noise_multiplier for c in run.clients) / (task.plan.noise_multiplier or 1.0)
    )


def by_step(factor: Callable[[Task, int], float]) -> list[Any]:
    """Multiply the noise of each step of both engines by a factor."""
    original = draws.normals

    def normals(run: Run, tasks: Sequence[Task], parameters: Any, kept: Any) -> Any:
        for step, noise in enumerate(original(run, tasks, parameters, kept)):
            factors = [factor(task, step) for task in tasks]
            yield [torch.stack([x * f for x, f in zip(n, factors, strict=False)]) for n in noise]

    def change(dp: Any, run: Run, task: Task) -> None:
        add, sigma, step = dp.add_noise, dp.noise_multiplier, iter(range(task.plan.steps))

        def add_noise() -> None:
            dp.noise_multiplier = sigma * factor(task, next(step))
            add()

        dp.add_noise = add_noise

    return [patch.object(cohort, "normals", normals), optimizer(change)]


@mutant("no step from the fifth on has noise")
def no_noise_from_step_5() -> list[Any]:
    return by_step(lambda task, step: 1.0 if step < 4 else 0.0)


@mutant("the last of ten or more steps has no noise")
def no_noise_in_a_tenth_step() -> list[Any]:
    return by_step(lambda task, step: 0.0 if step + 1 == task.plan.steps >= 10 else 1.0)


def _as(client: Callable[[int], int]) -> Callable[[Task], Task]:
    return lambda task: replace(task, plan=task.plan.model_copy(update={"id": client(task.plan.id)}))


@mutant("clients fifty apart use the same noise: it is keyed by their place in a block")
def noise_by_place_in_the_block() -> list[Any]:
    original, alike = sampling.noise_keys, _as(lambda client: client % 50)
    return keys(lambda run, task: original(run, alike(task)))


@mutant("client 6 uses the noise of client 5, one step later")
def noise_shifted_by_a_step() -> list[Any]:
    original = sampling.noise_keys

    def shifted(run: Run, task: Task) -> list[sampling.Key]:
        if task.plan.id != 6:
            return original(run, task)
        longer = task.plan.model_copy(update={"id": 5, "steps": task.plan.steps + 1})
        return original(run, replace(task, plan=longer))[1:]

    return keys(shifted)


@mutant("client 6 uses the noise of client 5, shifted by a few weights", engines=("cohort",))
def noise_shifted_by_some_weights() -> list[Any]:
    original = draws.normals

    def normals(run: Run, tasks: Sequence[Task], parameters: Any, kept: Any) -> Any:
        place = {task.plan.id: k for k, task in enumerate(tasks)}
        for noise in original(run, tasks, parameters, kept):
            copied = [n.clone() for n in noise]
            if {5, 6} <= place.keys() and max(place[5], place[6]) < len(noise[0]):
                whole = torch.cat([n[place[5]].flatten() for n in noise]).roll(7)
                sizes = [n[0].numel() for n in noise]
                for n, part in zip(copied, whole.split(sizes), strict=True):
                    n[place[6]] = part.view(n.shape[1:])
            yield copied

    return [patch.object(cohort, "normals", normals)]


# Batches and clipping.


@mutant("clients fifty apart use the same batches")
def batches_by_place_in_the_block() -> list[Any]:
    original, alike = sampling.batches, _as(lambda client: client % 50)
    return batches(lambda run, task: original(run, alike(task)))


@mutant("all steps from the ninth on use the same batch")
def same_batch_from_step_9() -> list[Any]:
    original = sampling.batches

    def late(run: Run, task: Task) -> list[Any]:
        drawn = original(run, task)
        return [rows if t < 8 else drawn[8] for t, rows in enumerate(drawn)]

    return batches(late)


@mutant("batches are twice as large from round 12 on")
def larger_batches_from_round_12() -> list[Any]:
    original = sampling.batches

    def often(run: Run, task: Task) -> list[Any]:
        rate = min(1.0, task.plan.sampling_rate * (2 if task.round >= 12 else 1))
        return original(run, replace(task, plan=task.plan.model_copy(update={"sampling_rate": rate})))

    return batches(often)


def clip_times(factor: Callable[[Task, int], float]) -> list[Any]:
    """Multiply the clip, but not the noise, by a factor."""
    sums, block = gradients.clipped_sums, cohort.CohortEngine._train_block
    state: dict[str, Any] = {}

    def train_block(self: Any, jobs: Sequence[Job], layers: Any) -> Any:
        ((_, tasks),) = jobs
        state.update(tasks=tasks, step=-1)
        return block(self, jobs, layers)

    def clipped(network: Any, active: int, pool: Any, index: Any, f: Any, weight: Any, clip: Any) -> Any:
        state["step"] += 1
        most = [factor(task, state["step"]) for task in state["tasks"][:active]]
        if clip is None or all(m == 1 for m in most):
            return sums(network, active, pool, index, f, weight, clip)
        one = sums(network, active, pool, index, f, weight, clip)
        more = sums(network, active, pool, index, f, weight, clip * max(most))
        larger = [m > 1 for m in most]
        return [
            torch.stack([b[k] if larger[k] else a[k] for k in range(active)])
            for a, b in zip(one, more, strict=True)
        ]

    def change(dp: Any, run: Run, task: Task) -> None:
        clip_sums, norm, step = dp.clip_and_accumulate, dp.max_grad_norm, iter(range(task.plan.steps))

        def clip_and_accumulate() -> None:
            dp.max_grad_norm = norm * factor(task, next(step))
            clip_sums()
            dp.max_grad_norm = norm

        dp.clip_and_accumulate = clip_and_accumulate

    return [
        patch.object(cohort.CohortEngine, "_train_block", train_block),
        patch.object(gradients, "clipped_sums", clipped),
        optimizer(change),
    ]


@mutant("gradients are clipped to 2 C from step 7 on")
def larger_clip_from_step_7() -> list[Any]:
    return clip_times(lambda task, step: 2.0 if step >= 6 else 1.0)


@mutant("gradients are clipped to 2 C from round 34 on")
def larger_clip_from_round_34() -> list[Any]:
    return clip_times(lambda task, step: 2.0 if task.round >= 34 else 1.0)


@mutant("gradients are clipped to 2 C where the client's group is public")
def larger_clip_in_public_groups() -> list[Any]:
    return clip_times(lambda task, step: 2.0 if task.plan.group else 1.0)


# Statistics.


def _noise_of_statistics(factor: Callable[[dict[str, Any]], float]) -> list[Any]:
    """Multiply the noise of statistics by a factor of their key; the stated sd remains."""
    original = mechanisms.release

    def release(plan: Any, records: Any, **key: Any) -> Any:
        stated = original(plan, records, **key).sd
        z = max(1e-9, factor(key)) * plan.noise_multiplier
        return replace(original(plan.model_copy(update={"noise_multiplier": z}), records, **key), sd=stated)

    return [patch.object(mechanisms, "release", release)]


@mutant("the noise of statistics is four fifths where the client's group is public")
def less_noise_on_statistics_of_public_groups() -> list[Any]:
    return _noise_of_statistics(lambda key: 1.0 if key["group"] is None else 0.8)


@mutant("statistics have no noise where the client's group is public")
def no_noise_on_statistics_of_public_groups() -> list[Any]:
    return _noise_of_statistics(lambda key: 1.0 if key["group"] is None else 0.0)


@mutant("statistics have no noise after round 33")
def no_noise_on_statistics_after_round_33() -> list[Any]:
    return _noise_of_statistics(lambda key: 0.0 if key["round"] > 33 else 1.0)


@mutant("the noise of statistics is 1.5% less than what is charged")
def statistic_noise_times_985() -> list[Any]:
    return _noise_of_statistics(lambda key: 0.985)


@mutant("clients fifty apart use the same noise for their statistics")
def statistic_noise_by_place_in_the_block() -> list[Any]:
    original = mechanisms.release

    def release(*args: Any, client: int, **key: Any) -> Any:
        return original(*args, client=client % 50, **key)

    return [patch.object(mechanisms, "release", release)]


@mutant("losses enter the statistics of a public group unclipped")
def statistic_of_public_groups_without_a_clip() -> list[Any]:
    values = {}
    for name, value in mechanisms._VALUES.items():

        def unclipped(held: Any, losses_N: Any, clip: float, value: Any = value) -> Any:
            alone = len(np.unique(held.groups_N)) == 1
            return value(held, held.losses_N if alone and held.groups == 3 else losses_N, clip)

        values[name] = unclipped
    return [patch.dict(mechanisms._VALUES, values)]


@mutant("losses are clipped at 4, whatever is declared")
def losses_clipped_at_4() -> list[Any]:
    def at_4(value: Any) -> Any:
        return lambda held, _, clip: value(held, np.clip(held.losses_N, 0.0, 4.0), clip)

    losses = {n: at_4(f) for n, f in mechanisms._VALUES.items() if n.endswith("loss")}
    return [patch.dict(mechanisms._VALUES, losses)]


# Records.


@mutant("rows with missing values are dropped")
def rows_with_missing_values_dropped() -> list[Any]:
    original = data.encode

    def encode(frame: Any, source: Any) -> Any:
        texts = [c for c in source.columns if "(missing)" in getattr(c, "values", ())]
        whole = np.ones(len(frame), dtype=bool)
        for column in texts:
            whole &= (frame[column.name] != "(missing)").to_numpy()
        return original(frame[whole].reset_index(drop=True), source)

    return [patch.object(data, "encode", encode)]


@mutant("seed s tests the fold of seed s + 1, so it trains on records that it tests")
def fold_off_by_one() -> list[Any]:
    original = splits.split

    def split(table: Any, groups: Any, kind: Any, k: int, seed: int, *rest: Any) -> Any:
        return original(table, groups, kind, k, seed + 1, *rest)

    return [patch.object(splits, "split", split)]


@mutant("three clients hold each record where two are declared")
def copies_off_by_one() -> list[Any]:
    original = partition._parts

    def parts(plan: Any, spec: Any, code: int, shuffled: Any) -> Any:
        more = spec.copies + 1 if spec.copies > 1 else 1
        return original(plan, spec.model_copy(update={"copies": more}), code, shuffled)

    return [patch.object(partition, "_parts", parts)]


@mutant("T is that of the first client")
def steps_of_the_first_client() -> list[Any]:
    original = constants.constants

    def planned(*args: Any) -> Any:
        statistics, clients = original(*args)
        return statistics, tuple(c.model_copy(update={"steps": clients[0].steps}) for c in clients)

    from fedtoll.server import plan

    return [patch.object(plan, "constants", planned)]


# The ledger.


@mutant("rounds whose reply is skipped are not charged")
def skipped_rounds_not_charged() -> list[Any]:
    original = Strict.send_and_receive

    def send_and_receive(self: Strict, messages: Any, *, timeout: Any = None) -> Any:
        replies = original(self, messages, timeout=timeout)
        for client, rounds in self.skipped.items():
            if self._last in rounds:
                kept = [r for r in self.ledger.releases if (r.client, r.round) != (client, self._last)]
                fresh = Ledger(self.ledger.delta, self.ledger.accountant)
                fresh.charge(kept)
                self.ledger = fresh
        return replies

    def no_fault(self: Strict, client: int, round: int, content: Any) -> None:
        return

    check = Strict._check

    def lenient(self: Strict, client: int, message: Any, reply: Any) -> None:
        try:
            check(self, client, message, reply)
        except ValueError as error:
            if "its ledger" not in str(error):
                raise

    return [
        patch.object(Strict, "send_and_receive", send_and_receive),
        patch.object(Strict, "_check_nothing_uncharged", no_fault),
        patch.object(Strict, "_check", lenient),
    ]


@mutant("every client is charged for the q, σ and T of the first")
def charged_as_the_first_client() -> list[Any]:
    first: dict[str, Any] = {}
    original = ledger.Ledger.of

    def of(run: Run) -> Ledger:
        first["plan"] = run.clients[0]
        return original(run)

    def change(rows: Any) -> list[Any]:
        plan = first.get("plan")
        if plan is None:
            return list(rows)
        q, sigma, steps = plan.sampling_rate, plan.noise_multiplier, plan.steps
        return [
            replace(r, sampling_rate=q, noise_multiplier=sigma, count=steps) if r.what == DP_SGD else r
            for r in rows
        ]

    return [patch.object(Ledger, "of", staticmethod(of)), *recorded(change)]


@mutant("ε is that of δ = 1e-5, whatever is stated")
def epsilon_at_the_usual_delta() -> list[Any]:
    original = accounting.epsilon

    def epsilon(events: Any, delta: float, accountant: str = "rdp") -> float:
        return original(events, 1e-5, accountant)

    return [patch.object(owner, "epsilon", epsilon) for owner in (accounting, ledger)] + no_memory()


@mutant("PRV's ε is its estimate instead of its upper bound")
def prv_too_low() -> list[Any]:
    original = opacus_prv.epsilon

    def too_low(events: Any, delta: float) -> float:
        return original(events, delta) - 0.02

    return [patch.object(opacus_prv, "epsilon", too_low), *no_memory()]
