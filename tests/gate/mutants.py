"""Broken engines: small patches of fedtoll, each of which the gate must notice.

A mutant patches both engines, or names the one that it patches. It is as hard to notice as possible: where
client and server would disagree, so that fedtoll itself would refuse, it patches both.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from fedtoll.clients.engines import cohort, draws, gradients, opacus, sampling
from fedtoll.clients.engines.base import Job, Task, Trained
from fedtoll.scenarios.run import Run

BOTH = ("cohort", "opacus")


@dataclass(frozen=True)
class Mutant:
    """A broken fedtoll: ``with mutant():`` applies the patches, in the engines named.

    A mutant is killed by a failed assertion of a check. An error of a client or a refusal by fedtoll is no
    verdict of the check: it counts only for a mutant that declares it in ``ends``.
    """

    name: str
    breaks: str
    patches: Callable[[], Sequence[Any]]
    engines: tuple[str, ...] = BOTH
    ends: tuple[type[AssertionError], ...] = ()

    def __call__(self) -> AbstractContextManager[None]:
        return self._broken()

    @contextmanager
    def _broken(self) -> Any:
        with ExitStack() as stack:
            for each in self.patches():
                stack.enter_context(each)
            yield


MUTANTS: dict[str, Mutant] = {}
"""All mutants by name."""


def mutant(
    breaks: str, engines: tuple[str, ...] = BOTH, ends: tuple[type[AssertionError], ...] = ()
) -> Callable[[Any], Any]:
    """Register a function that returns patches. The mutant is named after the function."""

    def register(patches: Callable[[], Sequence[Any]]) -> Callable[[], Sequence[Any]]:
        name = patches.__name__.replace("_", " ")
        MUTANTS[name] = Mutant(name, breaks, patches, engines, ends)
        return patches

    return register


# How to patch the engines.

Tensors = list[torch.Tensor]


def optimizer(change: Callable[[Any, Run, Task], None]) -> Any:
    """Patch the function that wraps a client's optimizer in Opacus's."""
    original = opacus._private

    def private(sgd: torch.optim.Optimizer, run: Run, task: Task) -> Any:
        wrapped = original(sgd, run, task)
        change(wrapped, run, task)
        return wrapped

    return patch.object(opacus, "_private", private)


def clipping(sums: Callable[..., Tensors], accumulate: Callable[[Tensors, float], Tensors]) -> list[Any]:
    """Patch clipping: the sums of the cohort engine, and those of Opacus from per-example gradients."""

    def change(dp: Any, run: Run, task: Task) -> None:
        def clip_and_accumulate() -> None:
            for p, total in zip(dp.params, accumulate(dp.grad_samples, dp.max_grad_norm), strict=True):
                p.summed_grad = total

        dp.clip_and_accumulate = clip_and_accumulate

    return [patch.object(gradients, "clipped_sums", sums), optimizer(change)]


def noising(factor: Callable[[Run, Task], float]) -> list[Any]:
    """Multiply the noise of both engines by a factor."""
    original = draws.normals

    def normals(run: Run, tasks: Sequence[Task], parameters: Any, kept: Any) -> Any:
        factors = [factor(run, task) for task in tasks]
        for noise in original(run, tasks, parameters, kept):
            yield [torch.stack([x * f for x, f in zip(n, factors, strict=False)]) for n in noise]

    def change(dp: Any, run: Run, task: Task) -> None:
        dp.noise_multiplier *= factor(run, task)

    return [patch.object(cohort, "normals", normals), optimizer(change)]


def keys(change: Callable[[Run, Task], list[sampling.Key]]) -> list[Any]:
    """Patch the random keys of each step's noise."""
    return [patch.object(owner, "noise_keys", change) for owner in (opacus, draws)]


def batches(change: Callable[[Run, Task], list[Any]]) -> list[Any]:
    """Patch the batches of a round."""
    return [patch.object(owner, "batches", change) for owner in (opacus, draws)]


def engines(
    task: Callable[[Task], Task] = lambda t: t, steps: Callable[[Run, Task], int] = lambda r, t: t.plan.steps
) -> list[Any]:
    """Patch the tasks of both engines, and the number of steps that they report (by default the planned)."""
    patches = []
    for engine in (cohort.CohortEngine, opacus.OpacusEngine):

        def train(
            self: Any, jobs: Sequence[Job], original: Any = engine.train_together
        ) -> list[list[Trained]]:
            trained = original(self, [(run, [task(t) for t in tasks]) for run, tasks in jobs])
            return [
                [replace(x, steps=steps(run, t)) for x, t in zip(results, tasks, strict=True)]
                for (run, tasks), results in zip(jobs, trained, strict=True)
            ]

        patches.append(patch.object(engine, "train_together", train))
    return patches


# Clipping.

_SUMS: Callable[..., Tensors] = gradients.clipped_sums


def _examples(
    network: Any, active: int, pool: Any, index_KB: Any, factor_KB: Any, weights: Any
) -> list[Tensors]:
    """Return each example's unclipped gradients times its factor: ``[example][parameter][client, ...]``."""
    columns = [slice(b, b + 1) for b in range(index_KB.shape[1])]
    each = (weights.loss_KB, weights.score_KB)
    return [
        _SUMS(network, active, pool, index_KB[:, c], factor_KB[:, c],
              gradients.Weights(*(None if x is None else x[:, c] for x in each)), None)
        for c in columns
    ]  # fmt: skip


def _total(examples: Sequence[Tensors]) -> Tensors:
    return [torch.stack(parts).sum(0) for parts in zip(*examples, strict=True)]


def _shrunk(x: torch.Tensor, norm: torch.Tensor, most: Any) -> torch.Tensor:
    factor: torch.Tensor = (most / (norm + 1e-30)).clamp(max=1.0)
    return x * factor.view(-1, *(1,) * (x.dim() - 1))


@mutant("each layer is clipped separately, so that a record can move the model by more than C")
def per_layer_clipping() -> list[Any]:
    def sums(
        network: Any, active: int, pool: Any, index: Any, factor: Any, weight: Any, clip: Any
    ) -> Tensors:
        examples = _examples(network, active, pool, index, factor, weight)
        limits = [clip * factor[:, b].abs() for b in range(index.shape[1])]
        return _total(
            [
                [_shrunk(x, x.flatten(1).norm(dim=1), most) for x in one]
                for one, most in zip(examples, limits, strict=True)
            ]
        )

    return clipping(
        sums, lambda grads, clip: [_shrunk(g, g.flatten(1).norm(dim=1), clip).sum(0) for g in grads]
    )


@mutant("no gradient is clipped")
def no_clipping() -> list[Any]:
    return clipping(lambda *a: _SUMS(*a[:6], None), lambda grads, clip: [g.sum(0) for g in grads])


@mutant("the mean gradient of the batch is clipped instead of each record's gradient")
def clip_after_averaging() -> list[Any]:
    def sums(
        network: Any, active: int, pool: Any, index: Any, factor: Any, weight: Any, clip: Any
    ) -> Tensors:
        totals = _SUMS(network, active, pool, index, factor, weight, None)
        taken, scale = (factor != 0).sum(1).clamp(min=1), factor.abs().amax(1)
        norm = torch.stack([t.flatten(1).norm(dim=1) for t in totals]).norm(dim=0)
        return [_shrunk(t, norm, clip * taken * scale) for t in totals]

    def accumulate(grads: Tensors, clip: float) -> Tensors:
        totals = [g.sum(0) for g in grads]
        norm = torch.stack([t.norm() for t in totals]).norm()
        return [t * (clip * len(grads[0]) / (norm + 1e-30)).clamp(max=1.0) for t in totals]

    return clipping(sums, accumulate)


@mutant("a record's weight multiplies its gradient after clipping", engines=("cohort",))
def weights_outside_the_clip() -> list[Any]:
    def sums(
        network: Any, active: int, pool: Any, index: Any, factor: Any, weight: Any, clip: Any
    ) -> Tensors:
        outside = factor * (1.0 if weight.loss_KB is None else weight.loss_KB)
        return _SUMS(network, active, pool, index, outside, replace(weight, loss_KB=None), clip)

    return [patch.object(gradients, "clipped_sums", sums)]


def _scores_apart(clipped_at: Callable[[Any], Any]) -> list[Any]:
    """Add the gradients of weighted scores to the clipped sums, clipped by themselves or not at all."""

    def sums(
        network: Any, active: int, pool: Any, index: Any, factor: Any, weight: Any, clip: Any
    ) -> Tensors:
        clipped = _SUMS(network, active, pool, index, factor, replace(weight, score_KB=None), clip)
        if weight.score_KB is None:
            return clipped
        alone = gradients.Weights(torch.zeros_like(weight.score_KB), weight.score_KB)
        scores = _SUMS(network, active, pool, index, factor, alone, clipped_at(clip))
        return [a + b for a, b in zip(clipped, scores, strict=True)]

    return [patch.object(gradients, "clipped_sums", sums)]


@mutant("the gradient of a record's weighted score is added after clipping", engines=("cohort",))
def scores_outside_the_clip() -> list[Any]:
    return _scores_apart(lambda clip: None)


@mutant("the gradient of a weighted score is clipped by itself, not with its loss", engines=("cohort",))
def scores_with_a_clip_of_their_own() -> list[Any]:
    return _scores_apart(lambda clip: clip)


# Noise of training.


@mutant("the noise has the sd σ instead of σ C")
def noise_not_scaled_to_the_clip() -> list[Any]:
    return noising(lambda run, task: 1 / (run.clip or 1.0))


@mutant("the noise is divided by B twice, the gradients once")
def noise_divided_by_B_twice() -> list[Any]:
    return noising(lambda run, task: 1 / task.plan.batch_size)


@mutant("the noise is nine tenths of what is charged")
def noise_times_nine_tenths() -> list[Any]:
    return noising(lambda run, task: 0.9)


@mutant("the noise is a tenth when records are weighted, as a strategy may instruct")
def less_noise_with_weights() -> list[Any]:
    return noising(lambda run, task: 1.0 if task.weights_N is None else 0.1)


@mutant("the noise is a tenth when scores are weighted, as a strategy may instruct")
def less_noise_with_score_weights() -> list[Any]:
    return noising(lambda run, task: 1.0 if task.score_weights_N is None else 0.1)


@mutant("the noise is a tenth with FedProx's proximal term")
def less_noise_with_a_proximal_term() -> list[Any]:
    return noising(lambda run, task: 0.1 if 0 < task.proximal_mu < 1000 else 1.0)


@mutant("the noise is a tenth at float32")
def less_noise_at_float32() -> list[Any]:
    return noising(lambda run, task: 0.1 if run.precision == "float32" else 1.0)


@mutant("gradients are clipped without noise, and a finite ε is claimed")
def clip_only_claimed_as_private() -> list[Any]:
    return noising(lambda run, task: 0.0)


@mutant("all steps of a round use the same noise")
def noise_reused_every_step() -> list[Any]:
    original = sampling.noise_keys
    return keys(lambda run, task: [original(run, task)[0]] * task.plan.steps)


@mutant("all rounds use the same noise")
def noise_reused_every_round() -> list[Any]:
    original = sampling.noise_keys
    return keys(lambda run, task: original(run, replace(task, round=1)))


@mutant("two clients use the same noise, which cancels in the difference of their updates")
def same_stream_for_two_clients() -> list[Any]:
    original = sampling.noise_keys
    return keys(
        lambda run, task: original(
            run, replace(task, plan=task.plan.model_copy(update={"id": task.plan.id // 2}))
        )
    )


@mutant("a run that is trained again draws new noise, which is not charged")
def retry_with_new_noise() -> list[Any]:
    original = sampling.noise_keys
    return keys(lambda run, task: [k ^ np.uint64(secrets.randbits(64)) for k in original(run, task)])


@mutant("a step with an empty batch adds no noise")
def empty_batches_without_noise() -> list[Any]:
    original = draws.normals

    def normals(run: Run, tasks: Sequence[Task], parameters: Any, kept: Any) -> Any:
        empty = [[len(rows) == 0 for rows in sampling.batches(run, t)] for t in tasks]
        for step, noise in enumerate(original(run, tasks, parameters, kept)):
            yield [torch.stack([x * (not e[step]) for x, e in zip(n, empty, strict=False)]) for n in noise]

    def change(dp: Any, run: Run, task: Task) -> None:
        clip, sigma = dp.clip_and_accumulate, dp.noise_multiplier

        def clip_and_accumulate() -> None:
            dp.noise_multiplier = sigma if len(dp.grad_samples[0]) else 0.0
            clip()

        dp.clip_and_accumulate = clip_and_accumulate

    return [patch.object(cohort, "normals", normals), optimizer(change)]


# Batches and public sizes.


@mutant("batches are consecutive parts of a shuffled order, while the ledger charges Poisson sampling")
def shuffled_batches() -> list[Any]:
    def shuffled(run: Run, task: Task) -> list[Any]:
        rng = np.random.default_rng([run.seed, task.plan.id, task.round])
        records = len(task.labels_N)
        size = round(task.plan.sampling_rate * records)
        order = np.concatenate([rng.permutation(records) for _ in range(2 + task.plan.steps)])
        return [np.sort(order[t * size : (t + 1) * size]) for t in range(task.plan.steps)]

    return batches(shuffled)


@mutant("two successive steps use the same batch, while the ledger charges two samples")
def same_batch_twice() -> list[Any]:
    original = sampling.batches
    return batches(lambda run, task: [original(run, task)[t // 2 * 2] for t in range(task.plan.steps)])


@mutant("two batches alternate: each step uses the batch of the step before the last")
def batches_of_period_two() -> list[Any]:
    original = sampling.batches
    return batches(lambda run, task: [original(run, task)[t % 2] for t in range(task.plan.steps)])


@mutant("all rounds use the same batches")
def same_batches_every_round() -> list[Any]:
    original = sampling.batches
    return batches(lambda run, task: original(run, replace(task, round=1)))


def _from_records(change: Callable[[Task, int], dict[str, float]]) -> list[Any]:
    def task(t: Task) -> Task:
        return replace(t, plan=t.plan.model_copy(update=change(t, max(1, len(t.labels_N)))))

    return engines(task)


@mutant("q is B divided by the number of records")
def rate_from_records() -> list[Any]:
    return _from_records(lambda t, n: {"sampling_rate": min(1.0, t.plan.batch_size / n)})


@mutant("T grows with the number of records")
def steps_from_records() -> list[Any]:
    return _from_records(lambda t, n: {"steps": max(1, round(t.plan.steps * n / t.plan.size))})


@mutant("the normaliser B is q times the number of records")
def normaliser_from_records() -> list[Any]:
    return _from_records(lambda t, n: {"batch_size": t.plan.sampling_rate * n})
