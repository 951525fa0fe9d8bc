"""GIFAIR-FL, group and individual fairness over clients (Yue et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.scenarios.statistics import MeanLoss, Statistic
from fedtoll.strategies.base import Report, State, Strategy, Weights, sizes


@dataclass(frozen=True)
class GIFAIR(Strategy):
    """GIFAIR: weights clients by the rank of their group's loss, to narrow the spread.

    It minimises Σ_k p⁰_k F_k + λ Σ_{s<j} |L_s − L_j|, where p⁰_k = n_k / n and L_s is the mean of F_k over
    the |A_s| clients of group s. The gradient weights client k of group s by

        p_k = p⁰_k + λ r_s / |A_s|,   r_s = Σ_{j≠s} sign(L_s − L_j)

    with the losses at the broadcast model. r_s depends on the rank of the group's loss alone: of d groups,
    the worst has d − 1, the best −(d − 1). The sum of the weights stays 1, and all are 0 or greater if
    λ ≤ λ_max = min_k p⁰_k |A_{s(k)}| / (d − 1). ``strength`` is λ / λ_max.

    Groups of clients are the groups that the plan declares; a mixed client is a group of its own, which the
    paper calls individual fairness. λ_max is set by the smallest client, so with a small one all weights stay
    close to FedAvg's. Ranks of noisy losses change by chance where losses are close, but no weight moves by
    more than λ_max (d − 1) / |A_s|, whatever is reported.

    Parameters
    ----------
    strength
        λ / λ_max, from 0 (FedAvg) to 1.
    clip
        Bound on a record's loss in the statistic, in nats.

    References
    ----------
    Yue, Nouiehed and Al Kontar, *GIFAIR-FL: A framework for group and individual fairness in federated
    learning*, INFORMS Journal on Data Science 2023 (arXiv:2108.02741). For groups of one client, the rule is
    that of public code (github.com/huawei-noah/Federated-Learning); for larger groups, λ_max was not checked
    in the paper, but the derivation above shows what it does.

    Examples
    --------
    >>> from fedtoll.scenarios.statistics import Estimate
    >>> reports = [
    ...     Report(k, n, g, update=(), statistics={"mean_loss": Estimate(f, 0.0)})
    ...     for k, (n, g, f) in enumerate([(50, "a", 0.2), (30, "a", 0.4), (20, "b", 0.5)])
    ... ]
    >>> GIFAIR(strength=1.0).weigh(reports, {})[0].round(3)
    array([0.4, 0.2, 0.4])
    """

    strength: float = 0.5
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength = {self.strength}: must be between 0 and 1")
        MeanLoss(self.clip)

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The mean loss, clipped at ``clip``."""
        return (MeanLoss(self.clip),)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return p⁰_k + λ r_s / |A_s|."""
        base = sizes(reports)
        names = [("group", r.group) if r.group else ("client", str(r.client)) for r in reports]
        groups = sorted(set(names))
        index = np.array([groups.index(name) for name in names])
        if len(groups) == 1:
            return base, state
        clients_D = np.bincount(index)
        losses = np.array([r.statistics["mean_loss"].value for r in reports], dtype=np.float64)
        loss_D = np.array([losses[index == d].mean() for d in range(len(groups))])
        rank_D = np.sign(loss_D[:, None] - loss_D[None, :]).sum(axis=1)
        limit = (base * clients_D[index]).min() / (len(groups) - 1)
        weights = np.maximum(base + self.strength * limit * (rank_D / clients_D)[index], 0.0)
        return weights / weights.sum(), state
