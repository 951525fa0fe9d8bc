"""The cohort engine: DP-SGD of all clients of a round in one tensor program, equal to Opacus's.

Parameters are stacked ``[K, ...]`` over clients, and batches are padded to ``[K, B, ...]`` with a mask.
Clients are sorted by their number of steps, so that the active ones are always a prefix. Gradients are in
:mod:`fedtoll.clients.engines.gradients`.

Runs of one seed train in step: they share batches, gathered records and standard normals, and every other
operation is done for each run with tensors of the same shape as alone. Grouping therefore changes no bit.

Shape suffixes: K clients, B rows of a padded batch, D features, P parameters of a model, flattened.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import nn

from fedtoll.clients import model
from fedtoll.clients.clipping.steps import Steps
from fedtoll.clients.engines import gradients
from fedtoll.clients.engines.base import Job, Task, Trained
from fedtoll.clients.engines.draws import (
    BATCHES,
    DrawCache,
    noise_bytes,
    normals,
    padded_batches,
    unpredictable_normals,
)
from fedtoll.clients.engines.gradients import Pool, assemble
from fedtoll.clients.noise import noised
from fedtoll.scenarios.run import Run

BLOCK = 50
"""Number of clients trained at once; their tensors fit a processor's cache."""

TILE = 2**15
"""Number of parameters that noise is added to at once; in float64 they fit a core's own cache, 256 KiB."""

POOLS = 2**28
"""Bytes of pooled records beyond which an engine forgets them and starts anew."""

ELEMENTWISE = (
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.Softplus,
    nn.Identity,
)
"""Activations that act on each element independently and without randomness."""


def refusal(module: nn.Module) -> str:
    """Return why this engine cannot train a module, or an empty string.

    Examples
    --------
    >>> refusal(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
    ''
    >>> refusal(nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1)))
    'Dropout is neither a linear layer nor an elementwise activation'
    """
    layers = _flatten(module)
    if not layers or type(layers[-1]) is not nn.Linear:
        return "the model is not a Sequential that ends in a linear layer"
    for layer in layers:
        if type(layer) is not nn.Linear and type(layer) not in ELEMENTWISE:
            return f"{type(layer).__name__} is neither a linear layer nor an elementwise activation"
    if len({id(p) for x in layers for p in x.parameters()}) < sum(len(list(x.parameters())) for x in layers):
        return "layers share weights"
    if not all(p.requires_grad for p in module.parameters()):
        return "some weights are frozen"
    return ""


def _flatten(module: nn.Module) -> list[nn.Module]:
    if type(module) is nn.Sequential:
        return [layer for child in module for layer in _flatten(child)]
    return [module]


class CohortEngine:
    """DP-SGD of many clients at once; plain SGD at ε = ∞.

    Parameters
    ----------
    device
        ``cpu`` or ``cuda``. On a GPU the noise comes from the GPU's generator: the keys are the same as on a
        processor, the bits are not.
    secret
        Whether noise comes from the operating system's cryptographic generator instead of the run's seed.
    """

    name = "cohort"

    def __init__(self, device: str = "cpu", *, secret: bool = False) -> None:
        self.device = torch.device(device)
        self._secret = secret
        self._pools: dict[tuple[int, ...], Pool] = {}
        self._seed = -1
        self._batches, self._noise = DrawCache(BATCHES), DrawCache(noise_bytes(self.device), reuse=True)

    def train(self, run: Run, tasks: Sequence[Task]) -> list[Trained]:
        """Train all clients; each result equals training that client alone, up to rounding."""
        return self.train_together([(run, tasks)])[0]

    def train_together(self, jobs: Sequence[Job]) -> list[list[Trained]]:
        """Train the clients of several runs; each run's results are those of :meth:`train`, bit for bit."""
        alike: dict[Any, list[int]] = {}
        for i, job in enumerate(jobs):
            # Noise that nobody can repeat must not be shared.
            alike.setdefault(i if self._secret else _shared(*job), []).append(i)
        results: list[list[Trained]] = [[] for _ in jobs]
        for members in alike.values():
            for i, result in zip(members, self._train_alike([jobs[i] for i in members]), strict=True):
                results[i] = result
        return results

    def _train_alike(self, jobs: Sequence[Job]) -> list[list[Trained]]:
        """Train runs that share their batches and standard normals."""
        run, tasks = jobs[0]
        module = model.build(run.model, tasks[0].features_ND.shape[1], run.classes, run.precision)
        if reason := refusal(module):
            raise ValueError(f"the cohort engine cannot train this model: {reason}")
        layers = _flatten(module)
        if run.seed != self._seed or run.participation:  # other records, or other clients in every round
            self._seed = run.seed
            self._pools.clear()
        order = sorted(range(len(tasks)), key=lambda i: -tasks[i].plan.steps)
        trained: list[dict[int, Trained]] = [{} for _ in jobs]
        for start in range(0, len(order), BLOCK):
            block = order[start : start + BLOCK]
            results = self._train_block([(run, [tasks[i] for i in block]) for run, tasks in jobs], layers)
            for found, result in zip(trained, results, strict=True):
                found.update(zip(block, result, strict=True))
        return [[found[i] for i in range(len(tasks))] for found in trained]

    @torch.no_grad()
    def _train_block(self, jobs: Sequence[Job], layers: Sequence[nn.Module]) -> list[list[Trained]]:
        run, tasks = jobs[0]
        models = [_Models(run, tasks, layers, self.device) for run, tasks in jobs]
        pool = self._pool(tasks)
        weights = [self._weights(tasks) for _, tasks in jobs]
        first = models[0].flat_KP
        noisy = next((job for job in jobs if _adds_noise(*job)), None)
        draw = unpredictable_normals if self._secret else normals
        noises: Iterable[Any] = repeat([None]) if noisy is None else draw(*noisy, [first], self._noise)
        total_KP = torch.empty_like(first)
        released_KP = torch.empty_like(first, dtype=torch.float64)
        padding = len(pool.labels_N) - 1
        steps = padded_batches(run, tasks, pool.offsets_K, padding, first, self._batches)
        for (index_KB, mask_KB), (noise_KP,) in zip(steps, noises, strict=False):
            active = len(index_KB)  # a prefix: tasks are sorted by steps
            for each, (loss_N, score_N) in zip(models, weights, strict=True):
                weighted = gradients.Weights(*(None if x is None else x[index_KB] for x in (loss_N, score_N)))
                scale = each.scaling(index_KB, mask_KB, pool.offsets_K)
                other = () if scale is None else (scale,)
                sums = gradients.clipped_sums(
                    each.network, active, pool, index_KB, mask_KB, weighted, each.clip, *other
                )
                each.step(sums, noise_KP, total_KP[:active], released_KP)
        return [each.trained() for each in models]

    def _pool(self, tasks: Sequence[Task]) -> Pool:
        """Return the records of a block as one tensor, cached while the same tensors are passed."""
        key = tuple(id(t.features_ND) for t in tasks)
        if key not in self._pools:
            if sum(pool.features_ND.nbytes for pool in self._pools.values()) > POOLS:
                self._pools.clear()  # with [participation], other clients train together in every round
            members = [t.features_ND for t in tasks]
            sizes = [len(m) for m in members]
            features_ND = torch.cat([*members, members[0].new_zeros((1, members[0].shape[1]))])
            features_ND = features_ND.to(self.device)
            self._pools[key] = Pool(
                features_ND,
                features_ND.square().sum(1),
                torch.cat([*(t.labels_N for t in tasks), torch.zeros(1, dtype=torch.int64)]).to(self.device),
                np.cumsum([0, *sizes[:-1]]).tolist(),
                members,  # held so that no other tensor takes the ids in the key
            )
        return self._pools[key]

    def _weights(self, tasks: Sequence[Task]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the weights of losses and of scores in the order of the pool; ``None`` if none is given."""
        found: list[torch.Tensor | None] = []
        for rows, usual in (
            ([t.weights_N for t in tasks], torch.ones),
            ([t.score_weights_N for t in tasks], torch.zeros),
        ):
            if all(row is None for row in rows):
                found.append(None)
                continue
            filled = [
                usual(len(t.labels_N)) if row is None else row for t, row in zip(tasks, rows, strict=True)
            ]
            pooled = torch.cat([*filled, torch.zeros(1)])
            found.append(pooled.to(self.device, tasks[0].features_ND.dtype))
        return found[0], found[1]


def _shared(run: Run, tasks: Sequence[Task]) -> Any:
    """Return what runs must have in common to be trained in step: model, records, batches and noise."""
    clients = tuple(
        (t.plan.id, t.plan.sampling_rate, t.plan.steps, t.round, t.own, id(t.features_ND)) for t in tasks
    )
    # A run without noise may join the others.
    noise_seed = run.noise_seed if run.mechanism == "dp-sgd" else run.seed
    return run.seed, noise_seed, run.model, run.model_digest, run.classes, run.precision, clients


def _flat(models: Sequence[Sequence[Any]]) -> torch.Tensor:
    """Return models as the rows of ``[K, P]``."""
    return torch.from_numpy(np.stack([np.concatenate([np.ravel(x) for x in arrays]) for arrays in models]))


def _adds_noise(run: Run, tasks: Sequence[Task]) -> bool:
    """Return whether the clients add noise: not if a trusted server does."""
    return run.mechanism == "dp-sgd" and any(t.plan.added_noise > 0 for t in tasks)


class _Models:
    """The models of one run's clients during a round, each flattened to a row of ``[K, P]``."""

    def __init__(
        self, run: Run, tasks: Sequence[Task], layers: Sequence[nn.Module], device: torch.device
    ) -> None:
        self.clip = run.clip
        self._tasks = tasks
        self._shapes = [np.shape(x) for x in tasks[0].parameters]
        self.flat_KP = _flat([t.parameters for t in tasks]).to(device)
        ends = np.cumsum([math.prod(shape) for shape in self._shapes]).tolist()
        self._spans = [slice(a, b) for a, b in itertools.pairwise([0, *ends])]
        views = [
            self.flat_KP[:, span].view(-1, *shape)
            for span, shape in zip(self._spans, self._shapes, strict=True)
        ]
        self.network = assemble(layers, views)
        self._anchor_KP = None
        if any(t.proximal_mu for t in tasks):
            anchors = [t.parameters if t.anchor is None else t.anchor for t in tasks]
            self._anchor_KP = _flat(anchors).to(device)
        self._scale_K1 = -run.learning_rate / self._column([t.plan.batch_size for t in tasks])
        self._pull_K1 = -run.learning_rate * self._column([t.proximal_mu for t in tasks])
        self._noises = tuple(t.plan.added_noise for t in tasks)
        self._sds = tuple(noise * (run.clip or 0.0) for noise in self._noises)
        self._noisy = _adds_noise(run, tasks)
        self._steps = [Steps(run, t) for t in tasks] if run.scales_gradients else []
        self._momentum = run.momentum
        self._velocity_KP = torch.zeros_like(self.flat_KP) if run.momentum else None
        self._tile = max(1, TILE // self.flat_KP.shape[1])

    def step(
        self,
        sums: Sequence[torch.Tensor],
        noise_KP: torch.Tensor | None,
        total_KP: torch.Tensor,
        released_KP: torch.Tensor,
    ) -> None:
        """Add noise to the sums of clipped gradients of the active clients, and move their models.

        The last two are buffers: for the flattened sums, and for releases in float64. Noise is added to few
        clients at a time, so that what is read and written several times stays in the processor's cache.
        """
        active = len(total_KP)
        for span, total in zip(self._spans, sums, strict=True):
            total_KP[:, span] = total.view(active, -1)
        if self._noisy:
            assert noise_KP is not None
            for start in range(0, active, self._tile):
                rows = slice(start, min(start + self._tile, active))
                part_KP, sds = total_KP[rows], self._sds[rows]
                if self._steps:
                    bounds = (steps.bounds[-1] for steps in self._steps[rows])
                    sds = tuple(
                        noise * bound for noise, bound in zip(self._noises[rows], bounds, strict=True)
                    )
                part_KP.copy_(noised(part_KP, noise_KP[rows], sds, released_KP[: len(sds)]))
        total_KP.mul_(self._scale_K1[:active])
        if self._anchor_KP is not None:
            total_KP += self._pull_K1[:active] * (self.flat_KP[:active] - self._anchor_KP[:active])
        if self._velocity_KP is not None:
            total_KP += self._momentum * self._velocity_KP[:active]
            self._velocity_KP[:active] = total_KP
        self.flat_KP[:active] += total_KP

    def scaling(
        self, index_KB: torch.Tensor, mask_KB: torch.Tensor, offsets_K: Sequence[int]
    ) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Return how the clients' mechanism scales the gradients of a step; ``None`` if they clip."""
        if not self._steps:
            return None

        def scale(norm_KB: torch.Tensor) -> torch.Tensor:
            norms_KB, rows_KB = norm_KB.double().cpu().numpy(), index_KB.cpu().numpy()
            factors_KB = np.zeros_like(norms_KB)
            for k, count in enumerate(mask_KB.sum(1).int().tolist()):  # padding follows the batch
                rows_N = rows_KB[k, :count].astype(np.int64) - offsets_K[k]
                factors_KB[k, :count] = self._steps[k].factors(norms_KB[k, :count], rows_N)
            return torch.from_numpy(factors_KB).to(norm_KB)

        return scale

    def trained(self) -> list[Trained]:
        """Return the result of every client."""
        flat_KP = self.flat_KP.cpu().numpy()
        return [
            Trained(
                [row_P[span].reshape(shape) for span, shape in zip(self._spans, self._shapes, strict=True)],
                task.plan.steps,
                *(self._steps[k].outcome if self._steps else ()),
            )
            for k, (row_P, task) in enumerate(zip(flat_KP, self._tasks, strict=True))
        ]

    def _column(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=self.flat_KP.dtype, device=self.flat_KP.device).unsqueeze(1)
