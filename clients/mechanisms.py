"""The mechanisms that release the statistics declared in ``fedtoll.scenarios.statistics``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedtoll.clients import losses
from fedtoll.clients.noise import noised
from fedtoll.clients.updates import to_norm
from fedtoll.scenarios.run import StatisticPlan
from fedtoll.scenarios.statistics import Estimate, Value
from fedtoll.scenarios.streams import Purpose, stream

Answers = list[tuple[StatisticPlan, Estimate]]
"""What a client releases in a round besides its update."""


@dataclass(frozen=True, eq=False)
class EvaluatedRecords:
    """One client's records, evaluated with the broadcast model before local training.

    Parameters
    ----------
    losses_N
        Per-example losses, in nats.
    labels_N, predicted_N, groups_N
        Label, prediction and group of every record, as codes. A record is predicted positive at a
        probability of .5 or more.
    size
        The client's public size.
    groups, classes
        Number of groups and of classes.
    scores_NC
        The probability of every class for every record.
    """

    losses_N: NDArray[np.float64]
    labels_N: NDArray[np.int64]
    predicted_N: NDArray[np.int64]
    groups_N: NDArray[np.int64]
    size: int
    groups: int
    classes: int
    scores_NC: NDArray[np.float64]

    @cached_property
    def strata(self) -> NDArray[np.int64]:
        """The group and label of every record as one code."""
        return np.asarray(self.groups_N * self.classes + self.labels_N)


def evaluate(
    module: nn.Module,
    features_ND: torch.Tensor,
    labels_N: torch.Tensor,
    groups_N: torch.Tensor,
    *,
    size: int,
    groups: int,
    classes: int,
) -> EvaluatedRecords:
    """Evaluate a module once for all statistics of a round."""
    module.eval()
    with torch.no_grad():
        logits = module(features_ND).double()
        loss = losses.per_example(logits, labels_N)
        scores = losses.probabilities(logits)
        # For two classes argmax would predict negative at exactly .5.
    predicted = (losses.positive(logits) >= 0.5).long() if classes == 2 else scores.argmax(dim=1)
    codes = labels_N.numpy(), predicted.numpy(), groups_N.numpy()
    return EvaluatedRecords(loss.numpy(), *codes, size, groups, classes, scores.numpy())


def release(
    plan: StatisticPlan,
    records: EvaluatedRecords,
    *,
    group: int | None,
    seed: int,
    client: int,
    round: int,
    index: int,
) -> Estimate:
    """Release one statistic of a client's records: its value plus N(0, (z · sensitivity)²) in every cell.

    With z = 0 (the references at ε = ∞) the statistic is exact, without clipping or noise. Otherwise a loss
    that is not finite counts as the clip, and probabilities that are none as 0, so that one record can
    neither abort nor dominate the round. A client that adds a share of the noise, or none because a trusted
    server does, clips in the same way. Releases are rounded as ``fedtoll.clients.noise`` tells.

    If a client is the unit of privacy, its whole value, a vector of all cells, is scaled down to the norm
    ``plan.client_bound``: that is the most by which all of its records together move the sum over clients.

    Parameters
    ----------
    plan
        Name, parameters and noise multiplier z.
    records
        The client's evaluated records.
    group
        Code of the declared group of the client's records; only the cells of this group are released.
        ``None`` releases all cells.
    seed, client, round, index
        The key of the noise stream.

    Returns
    -------
    Estimate
        The released cells, as a number or an array.
    """
    exact = plan.noise_multiplier == 0
    clip = plan.parameters.get("clip", 1.0)
    losses_N = records.losses_N
    if not exact:
        losses_N = np.clip(np.nan_to_num(losses_N, nan=clip, posinf=clip), 0.0, clip)
        records = replace(records, scores_NC=np.nan_to_num(records.scores_NC, nan=0.0))
    value = np.asarray(_VALUES[plan.name](records, losses_N, clip), dtype=np.float64)
    if plan.client_bound is not None and not exact:
        value = np.asarray(to_norm([value], plan.client_bound)[0][0], dtype=np.float64)
    if group is not None and value.ndim:
        value = value[group]
    sd = plan.added_noise * plan.sensitivity(records.size)
    if sd != 0:
        normals = stream(seed, Purpose.STATISTIC, client, round, index).standard_normal((1, *value.shape))
        value = noised(torch.from_numpy(value[None]), torch.from_numpy(normals), [sd])[0].numpy()
    return Estimate(value if value.ndim else float(value), sd)


Losses = NDArray[np.float64]


def _mean_loss(records: EvaluatedRecords, losses_N: Losses, clip: float) -> Value:
    return float(losses_N.sum()) / records.size


def _error_rate(records: EvaluatedRecords, losses_N: Losses, clip: float) -> Value:
    return int((records.predicted_N != records.labels_N).sum()) / records.size


def _group_loss(records: EvaluatedRecords, losses_N: Losses, clip: float) -> Value:
    return _pairs(records.groups_N, losses_N / clip, records.groups)


def _label_group_loss(records: EvaluatedRecords, losses_N: Losses, clip: float) -> Value:
    pairs = _pairs(records.strata, losses_N / clip, records.groups * records.classes)
    return pairs.reshape(records.groups, records.classes, 2)


def _group_confusion(records: EvaluatedRecords, losses_N: Losses, clip: float) -> Value:
    shape = (records.groups, records.classes, records.classes)
    cells = records.strata * records.classes + records.predicted_N
    return np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)


def _group_score(records: EvaluatedRecords, losses_N: Losses, clip: float) -> Value:
    columns = [np.bincount(records.groups_N, p_N, records.groups) for p_N in records.scores_NC.T]
    return np.stack(columns, axis=1)


def _pairs(cell_N: NDArray[np.int64], value_N: Losses, cells: int) -> NDArray[np.float64]:
    """Return the sum of the values and the number of records of every cell, ``[cells, 2]``."""
    sums = np.bincount(cell_N, weights=value_N, minlength=cells)
    return np.stack([sums, np.bincount(cell_N, minlength=cells)], axis=1)


_VALUES: dict[str, Callable[[EvaluatedRecords, Losses, float], Value]] = {
    "mean_loss": _mean_loss,
    "error_rate": _error_rate,
    "group_loss": _group_loss,
    "label_group_loss": _label_group_loss,
    "group_confusion": _group_confusion,
    "group_score": _group_score,
}
