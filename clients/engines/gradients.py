"""Sums of clipped per-example gradients of many clients' networks, without any per-example gradient.

For a linear layer with input a and output gradient d the gradient is d aᵀ (and d for the bias), so its
squared norm is ‖d‖² (‖a‖² + 1) (Goodfellow 2015; "ghost norms" of Li et al. 2022), and the sum of clipped
gradients is one batched matrix product.

Shape suffixes: K clients, B rows of a padded batch, D features, I and O a layer's inputs and outputs, N
records of a pool.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass
class Linear:
    """The weights of one layer for all clients; ``first`` is the index of its weight among the parameters."""

    first: int
    weight_KOI: torch.Tensor
    bias_KO: torch.Tensor | None


@dataclass
class Batch:
    """The records of one step, ``[K, B, ...]``. Several runs read it, so nothing may write into it."""

    features_KBD: torch.Tensor
    squares_KB: torch.Tensor  # ‖x‖² of each record
    labels_KB: torch.Tensor


@dataclass
class Weights:
    """How the records of one step are weighted, ``[K, B]``: the loss is w ℓ + c p.

    ℓ is the cross-entropy, w is 1 without ``loss_KB``, p is the probability of class 1 of two, and c is 0
    without ``score_KB``.
    """

    loss_KB: torch.Tensor | None = None
    score_KB: torch.Tensor | None = None

    def gradient(self, logits_KBC: torch.Tensor, labels_KB: torch.Tensor) -> torch.Tensor:
        """Return the gradient of each example's loss with respect to its logits."""
        d_KBC = _loss_gradient(logits_KBC, labels_KB)
        if self.loss_KB is not None:
            d_KBC = d_KBC * self.loss_KB.unsqueeze(2)
        if self.score_KB is not None:
            d_KBC = d_KBC + _score_gradient(logits_KBC) * self.score_KB.unsqueeze(2)
        return d_KBC


@dataclass
class Pool:
    """The concatenated records of a block of clients, with a row of zeros at the end for padding."""

    features_ND: torch.Tensor
    squares_N: torch.Tensor  # ‖x‖² of each record
    labels_N: torch.Tensor
    offsets_K: list[int]
    members: list[torch.Tensor]
    _last: tuple[torch.Tensor, Batch] | None = field(default=None, init=False)

    def gather(self, index_KB: torch.Tensor) -> Batch:
        """Return the records of a step; once for all runs that pass the same tensor."""
        if self._last is None or self._last[0] is not index_KB:
            flat, shape = index_KB.flatten(), index_KB.shape
            batch = Batch(  # index_select copies rows several times faster than x[index]
                self.features_ND.index_select(0, flat).view(*shape, -1),
                self.squares_N.index_select(0, flat).view(shape),
                self.labels_N.index_select(0, flat).view(shape),
            )
            self._last = index_KB, batch
        return self._last[1]


def assemble(layers: Sequence[nn.Module], parameters: Sequence[torch.Tensor]) -> list[Linear | nn.Module]:
    """Pair each linear layer with its stacked weights; keep activations unchanged."""
    network: list[Linear | nn.Module] = []
    i = 0
    for layer in layers:
        if isinstance(layer, nn.Linear):
            has_bias = layer.bias is not None
            network.append(Linear(i, parameters[i], parameters[i + 1] if has_bias else None))
            i += 1 + has_bias
        else:
            network.append(layer)
    return network


def clipped_sums(
    network: Sequence[Linear | nn.Module],
    active: int,
    pool: Pool,
    index_KB: torch.Tensor,
    mask_KB: torch.Tensor,
    weights: Weights,
    clip: float | None,
    scale: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> list[torch.Tensor]:
    """Return, for every parameter, the sum of its clipped per-example gradients, ``[K, ...]``.

    The mask is 0 for padding. An example whose gradient is not finite counts as absent. Without a clip the
    gradients are summed unclipped. With a clip, ``scale`` may take the place of clipping: it gets the norm of
    every gradient and returns its factor, both ``[K, B]``.
    """
    batch = pool.gather(index_KB)
    # An activation may write into its input.
    a_KBI = batch.features_KBD if isinstance(network[0], Linear) else batch.features_KBD.clone()
    inputs: list[torch.Tensor] = []
    for layer in network:
        inputs.append(a_KBI)
        a_KBI = _forward(layer, a_KBI, active)
    d_KBO = weights.gradient(a_KBI, batch.labels_KB)
    pairs: dict[int, tuple[Linear, torch.Tensor, torch.Tensor]] = {}
    squared_KB: torch.Tensor | None = None
    for position in range(len(network) - 1, -1, -1):
        layer, a_KBI = network[position], inputs[position]
        if isinstance(layer, Linear):
            pairs[layer.first] = (layer, a_KBI, d_KBO)
            if clip is not None:
                norm_KB = _squared_norms(a_KBI) if position else batch.squares_KB
                if layer.bias_KO is not None:
                    norm_KB = norm_KB + 1.0
                norm_KB = norm_KB * _squared_norms(d_KBO)
                squared_KB = norm_KB if squared_KB is None else squared_KB.add_(norm_KB)
            if position:
                d_KBO = torch.bmm(d_KBO, layer.weight_KOI[:active])
        elif position:
            d_KBO = _backward(layer, a_KBI, d_KBO)
    factor_KB = mask_KB
    if clip is not None:
        assert squared_KB is not None
        absent_KB = None
        if not math.isfinite(float(squared_KB.sum())):
            absent_KB = ~torch.isfinite(squared_KB)
        norm_KB = squared_KB.sqrt_()
        if scale is None:
            factor_KB = norm_KB.add_(1e-6).reciprocal_().mul_(clip).clamp_(max=1.0).mul_(mask_KB)
        else:
            factor_KB = scale(norm_KB).mul_(mask_KB)
        if absent_KB is not None:
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
    """Return the squared norms ``[K, B]``, at least the smallest normal number.

    A square that underflows would count as 0, and hide a large factor that it is multiplied with.
    """
    norm_KB: torch.Tensor = torch.linalg.vector_norm(x_KBI, dim=2)  # avoids a temporary of the input's size
    return norm_KB.square_().clamp_(min=torch.finfo(norm_KB.dtype).tiny)


def _forward(layer: Linear | nn.Module, a_KBI: torch.Tensor, active: int) -> torch.Tensor:
    if not isinstance(layer, Linear):
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


def _score_gradient(logits_KBC: torch.Tensor) -> torch.Tensor:
    """Return the gradient of each example's probability of class 1 with respect to its logits: ±p (1 − p)."""
    if logits_KBC.shape[2] == 1:
        p_KBC = torch.sigmoid(logits_KBC)
        return p_KBC * (1.0 - p_KBC)
    product_KB1 = torch.softmax(logits_KBC, dim=2).prod(dim=2, keepdim=True)
    return torch.cat([-product_KB1, product_KB1], dim=2)
