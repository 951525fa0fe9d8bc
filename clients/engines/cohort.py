"""The cohort engine: DP-SGD of all clients of a round in one tensor program, equal to Opacus's.

Parameters are stacked ``[K, ...]`` over clients, and batches are padded to ``[K, B, ...]`` with a mask.
Per-sample gradients are never materialised: for a linear layer with input a and output gradient d the
gradient is d aᵀ (and d for the bias), so its squared norm is ‖d‖² (‖a‖² + 1) (Goodfellow 2015; "ghost norms"
of Li et al. 2022), and the sum of clipped gradients is one batched matrix product. Clients are sorted by
their number of steps, so that the active ones are always a prefix.

Shape suffixes: K clients, B rows of a padded batch, D features, I and O a layer's inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch
from torch import nn

from fedtoll.clients import model
from fedtoll.clients.engines.base import Task, Trained
from fedtoll.clients.engines.draws import (
    BATCHES,
    DrawCache,
    noise_bytes,
    normals,
    padded_batches,
    unpredictable_normals,
)
from fedtoll.clients.noise import noised
from fedtoll.scenarios.run import Run

BLOCK = 50
"""Number of clients trained at once; their tensors fit a processor's cache."""

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


@dataclass
class _Linear:
    """The weights of one layer for all clients; ``first`` is the index of its weight among the parameters."""

    first: int
    weight_KOI: torch.Tensor
    bias_KO: torch.Tensor | None


@dataclass
class _Pool:
    """The concatenated records of a block of clients, with a row of zeros at the end for padding."""

    features_ND: torch.Tensor
    squares_N: torch.Tensor  # ‖x‖² of each record
    labels_N: torch.Tensor
    offsets_K: list[int]
    members: list[torch.Tensor]


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
        self._pools: dict[tuple[int, ...], _Pool] = {}
        self._seed = -1
        self._batches, self._noise = DrawCache(BATCHES), DrawCache(noise_bytes(self.device), reuse=True)

    def train(self, run: Run, tasks: Sequence[Task]) -> list[Trained]:
        """Train all clients; each result equals training that client alone, up to rounding."""
        module = model.build(run.model, tasks[0].features_ND.shape[1], run.classes, run.precision)
        if reason := refusal(module):
            raise ValueError(f"the cohort engine cannot train this model: {reason}")
        layers = _flatten(module)
        if run.seed != self._seed:  # a seed assigns other records to the clients
            self._seed = run.seed
            self._pools.clear()
        order = sorted(range(len(tasks)), key=lambda i: -tasks[i].plan.steps)
        trained: list[Trained | None] = [None] * len(tasks)
        for start in range(0, len(order), BLOCK):
            block = order[start : start + BLOCK]
            results = self._train_block(run, [tasks[i] for i in block], layers)
            for i, result in zip(block, results, strict=True):
                trained[i] = result
        return [t for t in trained if t is not None]

    @torch.no_grad()
    def _train_block(self, run: Run, tasks: Sequence[Task], layers: Sequence[nn.Module]) -> list[Trained]:
        parameters = self._stack(tasks, layers)
        start = [p.clone() for p in parameters] if any(t.proximal_mu for t in tasks) else parameters
        network = _assemble(layers, parameters)
        pool = self._pool(tasks)
        weights = self._weights(tasks)
        first = parameters[0]
        scale_K = -run.learning_rate / self._column([t.plan.batch_size for t in tasks], first)
        pull_K = -run.learning_rate * self._column([t.proximal_mu for t in tasks], first)
        sds = [t.plan.noise_multiplier * (run.clip or 0.0) for t in tasks]
        draw = unpredictable_normals if self._secret else normals
        noises = draw(run, tasks, parameters, self._noise) if run.mechanism == "dp-sgd" else repeat(None)
        releases = [torch.empty_like(p, dtype=torch.float64) for p in parameters]
        padding = len(pool.labels_N) - 1
        steps = padded_batches(run, tasks, pool.offsets_K, padding, first, self._batches)
        for (index_KB, mask_KB), noise in zip(steps, noises, strict=False):
            active = len(index_KB)  # a prefix: tasks are sorted by steps
            weight_KB = None if weights is None else weights[index_KB]
            sums = _clipped_sums(network, active, pool, index_KB, mask_KB, weight_KB, run.clip)
            for i, (p, p0, total) in enumerate(zip(parameters, start, sums, strict=True)):
                shape = (active,) + (1,) * (p.dim() - 1)
                if noise is not None:
                    total.copy_(noised(total, noise[i], sds[:active], releases[i][:active]))
                move = total.mul_(scale_K[:active].view(shape))
                if p0 is not p:
                    move += pull_K[:active].view(shape) * (p[:active] - p0[:active])
                p[:active] += move
        ends = [p.cpu().numpy() for p in parameters]
        return [Trained([e[k].copy() for e in ends], t.plan.steps) for k, t in enumerate(tasks)]

    def _stack(self, tasks: Sequence[Task], layers: Sequence[nn.Module]) -> list[torch.Tensor]:
        """Return each parameter stacked over the clients, ``[K, ...]``."""
        count = sum(len(list(layer.parameters())) for layer in layers)
        return [
            torch.from_numpy(np.stack([t.parameters[i] for t in tasks])).to(self.device) for i in range(count)
        ]

    def _pool(self, tasks: Sequence[Task]) -> _Pool:
        """Return the records of a block as one tensor, cached while the same tensors are passed."""
        key = tuple(id(t.features_ND) for t in tasks)
        if key not in self._pools:
            members = [t.features_ND for t in tasks]
            sizes = [len(m) for m in members]
            features_ND = torch.cat([*members, members[0].new_zeros((1, members[0].shape[1]))])
            features_ND = features_ND.to(self.device)
            self._pools[key] = _Pool(
                features_ND,
                features_ND.square().sum(1),
                torch.cat([*(t.labels_N for t in tasks), torch.zeros(1, dtype=torch.int64)]).to(self.device),
                np.cumsum([0, *sizes[:-1]]).tolist(),
                members,  # held so that no other tensor takes the ids in the key
            )
        return self._pools[key]

    def _weights(self, tasks: Sequence[Task]) -> torch.Tensor | None:
        """Return the weight of every record in the order of the pool, or ``None`` if all are 1."""
        if all(t.weights_N is None for t in tasks):
            return None
        like = tasks[0].features_ND
        rows = [torch.ones(len(t.labels_N)) if t.weights_N is None else t.weights_N for t in tasks]
        return torch.cat([*rows, torch.zeros(1)]).to(self.device, like.dtype)

    def _column(self, values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
        return torch.tensor(values, dtype=like.dtype, device=self.device)


def _assemble(layers: Sequence[nn.Module], parameters: Sequence[torch.Tensor]) -> list[_Linear | nn.Module]:
    """Pair each linear layer with its stacked weights; keep activations unchanged."""
    network: list[_Linear | nn.Module] = []
    i = 0
    for layer in layers:
        if isinstance(layer, nn.Linear):
            has_bias = layer.bias is not None
            network.append(_Linear(i, parameters[i], parameters[i + 1] if has_bias else None))
            i += 1 + has_bias
        else:
            network.append(layer)
    return network


def _clipped_sums(
    network: Sequence[_Linear | nn.Module],
    active: int,
    pool: _Pool,
    index_KB: torch.Tensor,
    mask_KB: torch.Tensor,
    weight_KB: torch.Tensor | None,
    clip: float | None,
) -> list[torch.Tensor]:
    """Return, for every parameter, the sum of its clipped per-example gradients, ``[K, ...]``.

    The mask is 0 for padding. An example whose gradient is not finite counts as absent. Without a clip the
    gradients are summed unclipped.
    """
    flat = index_KB.flatten()  # index_select copies rows several times faster than x[index]
    a_KBI = pool.features_ND.index_select(0, flat).view(*index_KB.shape, -1)
    inputs: list[torch.Tensor] = []
    for layer in network:
        inputs.append(a_KBI)
        a_KBI = _forward(layer, a_KBI, active)
    d_KBO = _loss_gradient(a_KBI, pool.labels_N.index_select(0, flat).view(index_KB.shape))
    if weight_KB is not None:
        d_KBO = d_KBO * weight_KB.unsqueeze(2)
    pairs: dict[int, tuple[_Linear, torch.Tensor, torch.Tensor]] = {}
    squared_KB = torch.zeros_like(mask_KB)
    factor_KB = mask_KB
    for position in range(len(network) - 1, -1, -1):
        layer, a_KBI = network[position], inputs[position]
        if isinstance(layer, _Linear):
            pairs[layer.first] = (layer, a_KBI, d_KBO)
            if clip is not None:
                norm_KB = (
                    _squared_norms(a_KBI)
                    if position
                    else pool.squares_N.index_select(0, flat).view(index_KB.shape)
                )
                if layer.bias_KO is not None:
                    norm_KB += 1.0
                squared_KB += norm_KB * _squared_norms(d_KBO)
            if position:
                d_KBO = torch.bmm(d_KBO, layer.weight_KOI[:active])
        elif position:
            d_KBO = _backward(layer, a_KBI, d_KBO)
    if clip is not None:
        factor_KB = mask_KB * (clip / (squared_KB.sqrt() + 1e-6)).clamp(max=1.0)
        absent_KB = ~torch.isfinite(squared_KB)
        if absent_KB.any():
            factor_KB = factor_KB.masked_fill(absent_KB, 0.0)
            absent_KB1 = absent_KB.unsqueeze(2)
            pairs = {
                i: (layer, a.masked_fill(absent_KB1, 0.0), d.masked_fill(absent_KB1, 0.0))
                for i, (layer, a, d) in pairs.items()
            }
    sums: list[torch.Tensor] = []
    for first in sorted(pairs):
        layer, a_KBI, d_KBO = pairs[first]
        d_KBO.mul_(factor_KB.unsqueeze(2))
        sums.append(torch.bmm(d_KBO.transpose(1, 2), a_KBI))
        if layer.bias_KO is not None:
            sums.append(d_KBO.sum(1))
    return sums


def _squared_norms(x_KBI: torch.Tensor) -> torch.Tensor:
    norm_KB: torch.Tensor = torch.linalg.vector_norm(x_KBI, dim=2)  # avoids a temporary of the input's size
    return norm_KB.square_()


def _forward(layer: _Linear | nn.Module, a_KBI: torch.Tensor, active: int) -> torch.Tensor:
    if not isinstance(layer, _Linear):
        # ReLU works in place, because its gradient can be computed from its output; the input is a copy.
        return a_KBI.relu_() if type(layer) is nn.ReLU else layer(a_KBI.clone())
    weight_KIO = layer.weight_KOI[:active].transpose(1, 2)
    if layer.bias_KO is None:
        return torch.bmm(a_KBI, weight_KIO)
    return torch.baddbmm(layer.bias_KO[:active].unsqueeze(1), a_KBI, weight_KIO)


def _backward(activation: nn.Module, z_KBI: torch.Tensor, d_KBI: torch.Tensor) -> torch.Tensor:
    """Return the gradient at an activation's input; z is its input (for ReLU its output)."""
    if type(activation) is nn.ReLU:
        through: torch.Tensor = torch.ops.aten.threshold_backward(d_KBI, z_KBI, 0)
        return through
    with torch.enable_grad():
        z = z_KBI.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(activation(z.clone()), z, d_KBI)
    return gradient


def _loss_gradient(logits_KBC: torch.Tensor, labels_KB: torch.Tensor) -> torch.Tensor:
    """Return the gradient of each example's cross-entropy with respect to its logits: probability − label."""
    if logits_KBC.shape[2] == 1:
        return torch.sigmoid(logits_KBC) - labels_KB.unsqueeze(2).to(logits_KBC.dtype)
    probabilities = torch.softmax(logits_KBC, dim=2)
    return probabilities.scatter_add(
        2, labels_KB.unsqueeze(2), torch.full_like(probabilities[:, :, :1], -1.0)
    )
