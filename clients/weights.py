"""Weights of records' losses and scores, by their group or by group and label, as a strategy instructs."""

from __future__ import annotations

from typing import Any

import torch

from fedtoll.clients.failures import RejectedError
from fedtoll.scenarios.run import Run


def example_weights(
    group_weights: Any, groups_N: torch.Tensor, labels_N: torch.Tensor, run: Run, dtype: torch.dtype
) -> torch.Tensor | None:
    """Return the weight of every record: that of its group, or of its group and label."""
    if group_weights is None:
        return None
    weights, groups = torch.tensor(group_weights, dtype=dtype), len(run.groups)
    by_label = weights.shape == (groups * run.classes,)
    if not (by_label or weights.shape == (groups,)) or not ((weights >= 0) & weights.isfinite()).all():
        raise RejectedError(f"group_weights {group_weights}: not {groups} finite numbers of 0 or more")
    return weights[groups_N * run.classes + labels_N.long() if by_label else groups_N]


def score_weights(values: Any, groups_N: torch.Tensor, run: Run, dtype: torch.dtype) -> torch.Tensor | None:
    """Return the factor of every record's probability of class 1 in its loss: that of its group."""
    if values is None:
        return None
    if run.classes != 2:
        raise RejectedError(f"score_weights: need two classes, and the records have {run.classes}")
    factors = torch.tensor(values, dtype=dtype)
    if factors.shape != (len(run.groups),) or not factors.isfinite().all():
        raise RejectedError(f"score_weights {values}: not {len(run.groups)} finite numbers")
    return factors[groups_N]
