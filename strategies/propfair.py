"""PropFair, proportional fairness (Zhang et al. 2022), on the server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.scenarios.statistics import MeanLoss, Statistic
from fedtoll.strategies.base import Report, State, Strategy, Weights, sizes


@dataclass(frozen=True)
class PropFair(Strategy):
    """PropFair: more weight to clients of high loss, so that relative gains balance out.

    A client's utility is M − F_k, with a baseline M above all losses. Proportional fairness maximises
    Σ_k p⁰_k log(M − F_k), with p⁰_k = n_k / n. Its gradient weights the gradient of F_k by

        p_k ∝ n_k / max(M − F_k, floor)

    with F_k the mean loss at the broadcast model. (Below ``floor``, the logarithm continues as its tangent,
    as in the paper.) A larger M tends to FedAvg.

    The paper's clients train with the loss −log(1 − f / M) of every batch. Applied to batches, this is
    another objective, and under DP-SGD the loss of a batch is no sum over records that clipping could bound.
    Here the server weights updates, with the statistic that clients release. The weights are normalised, so
    the step does not grow as F_k nears M.

    Parameters
    ----------
    baseline
        M, in nats.
    floor
        Lower bound of M − F_k.
    clip
        Bound on a record's loss in the statistic, in nats.

    References
    ----------
    Zhang, Malekmohammadi, Chen and Yu, *Proportional fairness in federated learning*, TMLR 2023
    (arXiv:2202.01666). The objective and ``floor`` are those of the authors' code
    (github.com/huawei-noah/Federated-Learning); the weights on the server are derived here.

    Examples
    --------
    >>> from fedtoll.scenarios.statistics import Estimate
    >>> reports = [
    ...     Report(k, 100, "g", update=(), statistics={"mean_loss": Estimate(f, 0.0)})
    ...     for k, f in enumerate([0.0, 1.0, 1.5])
    ... ]
    >>> PropFair(baseline=2.0).weigh(reports, {})[0].round(3)
    array([0.143, 0.286, 0.571])
    """

    baseline: float = 2.0
    floor: float = 0.2
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("baseline", self.baseline), ("floor", self.floor)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} = {value}: must be greater than 0")
        MeanLoss(self.clip)

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The mean loss, clipped at ``clip``."""
        return (MeanLoss(self.clip),)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return n_k / max(M − F̃_k, floor), normalised."""
        losses = np.array([r.statistics["mean_loss"].value for r in reports], dtype=np.float64)
        weights = sizes(reports) / np.maximum(self.baseline - losses, self.floor)
        return weights / weights.sum(), state
