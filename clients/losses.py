"""Per-example losses, in nats."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def per_example(logits_BC: torch.Tensor, labels_B: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of every example, shape ``[B]``.

    One logit is the log-odds of class 1; two or more are class scores.
    """
    if logits_BC.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(
            logits_BC[:, 0], labels_B.to(logits_BC.dtype), reduction="none"
        )
    return F.cross_entropy(logits_BC, labels_B, reduction="none")


def probabilities(logits_BC: torch.Tensor) -> torch.Tensor:
    """Return class probabilities, shape ``[B, C]`` with C ≥ 2."""
    if logits_BC.shape[1] == 1:
        chance = positive(logits_BC)
        return torch.stack([1 - chance, chance], dim=1)
    return torch.softmax(logits_BC, dim=1)


def positive(logits_BC: torch.Tensor) -> torch.Tensor:
    """Return the probability of class 1 of two, shape ``[B]``."""
    if logits_BC.shape[1] == 1:
        return torch.sigmoid(logits_BC[:, 0])
    return torch.softmax(logits_BC, dim=1)[:, 1]
