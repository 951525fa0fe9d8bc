"""The mechanisms behind the declarations of ``fedtoll.scenarios.statistics``."""

from __future__ import annotations

import torch
from torch import nn

from fedtoll.clients.losses import per_example
from fedtoll.scenarios.run import StatisticPlan
from fedtoll.scenarios.statistics import STATISTICS, Estimate
from fedtoll.scenarios.streams import Purpose, stream


def release(
    plan: StatisticPlan,
    module: nn.Module,
    features_ND: torch.Tensor,
    labels_N: torch.Tensor,
    *,
    size: int,
    seed: int,
    client: int,
    round: int,
    index: int,
) -> Estimate:
    """Release one statistic of a client's records.

    Σ min(ℓ_i, B) / n over the public size n, plus N(0, (z B / n)²). With z = 0 (the references at ε = ∞)
    the statistic is exact: neither clipped nor noised. A loss that is not finite counts as B, so that
    one record can neither abort the round nor dominate it.

    Parameters
    ----------
    plan
        Name, parameters and noise multiplier z.
    module
        The broadcast model, before local training.
    features_ND, labels_N
        The records held, N ≥ 0 of them.
    size
        The public size n.
    seed, client, round, index
        The key of the noise.
    """
    declaration = STATISTICS[plan.name](**plan.parameters)
    with torch.no_grad():
        losses = per_example(module(features_ND), labels_N).double()
    if plan.noise_multiplier == 0:
        return Estimate(float(losses.sum()) / size, 0.0)
    clip = declaration.clip
    clipped = torch.nan_to_num(losses, nan=clip, posinf=clip).clamp(0.0, clip)
    sd = plan.noise_multiplier * declaration.sensitivity(size)
    noise = stream(seed, Purpose.STATISTIC, client, round, index).normal(0.0, sd)
    return Estimate(float(clipped.sum()) / size + noise, sd)
