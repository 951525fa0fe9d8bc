"""FedFB, federated FairBatch (Zeng et al. 2021), for demographic parity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.scenarios.statistics import LabelGroupLoss, Statistic
from fedtoll.strategies.base import Instructions, Member, Report, State, Strategy, Weights, sizes
from fedtoll.strategies.counts import add_counts

HEAVIEST = 2.0
"""Upper bound on a record's weight λ_{y,z} / ρ_z; 1 is its weight in FedAvg."""


@dataclass(frozen=True)
class FedFB(Strategy):
    """FedFB: weights records by group and label to even out how often groups are positive.

    For label y, group z and a record's loss ℓ as a smooth stand-in for its error, group z is predicted
    positive at the rate

        P_z ≈ (L_{0,z} + m_{1,z} − L_{1,z}) / m_z

    where m_{y,z} counts the records of all clients, m_z = m_{0,z} + m_{1,z}, ρ_z = m_z / n, and L_{y,z} is
    the sum of losses at the broadcast model. With f_z = P_z − P_0 for every group z but the first, round t
    updates

        λ_{0,z} += (α / √t) f_z,   λ_{0,0} −= (α / √t) Σ_{z≠0} f_z,   λ_{1,z} = 2 ρ_z − λ_{0,z}

    starting from λ_{y,z} = ρ_z, with λ_{0,z} limited to [0, 2 ρ_z]. In the next round, a record of label y
    and group z has the weight λ_{y,z} / ρ_z, between 0 and 2, and p_k = n_k / n. So a group that is predicted
    positive too often gets heavier negatives. A scenario with more than two classes is refused.

    Clients apply the weight through the instruction ``group_weights``, to a record's loss *before* DP-SGD
    clips its gradient: the sensitivity stays C, and clipping partly undoes the weight. Clients of one group
    take part like mixed ones.

    All counts are released ones. The counts of a client are averaged over its releases, since its records do
    not change; m_z is at least 1 and at least the standard deviation of one round's count, as in
    ``fedminmax``, so P_z is underestimated for a group smaller than its noise. λ accumulates the noise of f.

    Parameters
    ----------
    alpha
        α, the step size of λ; 0 gives FedAvg.
    clip
        Bound on a record's loss in the statistic, in nats.

    References
    ----------
    Zeng, Chen and Lee, *Improving fairness via federated learning*, arXiv:2110.15545, 2021. The rule was
    derived from the authors' code for demographic parity (github.com/yzeng58/
    Improving-Fairness-via-Federated-Learning), with two corrections: the code adds the shares of negatives
    once for every client, and limits all λ by the share of the first group.

    Examples
    --------
    >>> from fedtoll.scenarios.statistics import Estimate
    >>> cells = np.array([[[30.0, 60.0], [10.0, 40.0]], [[9.0, 45.0], [3.0, 5.0]]])
    >>> reports = [Report(0, 150, "", (), {"label_group_loss": Estimate(cells, np.zeros((2, 2, 2)))})]
    >>> strategy = FedFB(alpha=0.1)
    >>> _, state = strategy.weigh(reports, strategy.init(reports))
    >>> np.round(strategy.instructions(2, state)["group_weights"], 3).tolist()
    [1.057, 0.943, 0.886, 1.114]
    """

    alpha: float = 0.3
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not (self.alpha >= 0 and math.isfinite(self.alpha)):
            raise ValueError(f"alpha = {self.alpha}: must be 0 or greater")
        LabelGroupLoss(self.clip)

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The loss sum and count of every group and label, with losses clipped at ``clip``."""
        return (LabelGroupLoss(self.clip),)

    def unsuited(self, classes: int) -> str:
        """Refuse scenarios with more than two classes, where demographic parity has no one rate."""
        return "" if classes == 2 else f"needs two classes, and the records have {classes}"

    def instructions(self, round: int, state: State) -> Instructions:
        """Return λ_{y,z} / ρ_z, group after group, once the first statistics are released."""
        if "tilt" not in state:
            return {}
        negative_G = np.clip(1 + state["tilt"] / state["share"], 0.0, HEAVIEST)
        return {"group_weights": np.stack([negative_G, HEAVIEST - negative_G], axis=-1).ravel().tolist()}

    def public_weights(self, cohort: Sequence[Member]) -> Weights:
        """Return n_k / n, also where the server sees sums only: clients apply λ_{y,z} / ρ_z."""
        return sizes(cohort)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return n_k / n, and update λ."""
        value = np.stack([np.asarray(r.statistics["label_group_loss"].value, dtype=float) for r in reports])
        sd = np.stack([np.asarray(r.statistics["label_group_loss"].sd, dtype=float) for r in reports])
        rounds = state.get("rounds", 0) + 1
        counts = add_counts(state, reports, value[..., 1])
        known_KGY = counts["counts"] / counts["releases"][:, None, None]
        present_K = np.isin(counts["counts.clients"], [r.client for r in reports])
        floor_G = np.maximum(np.sqrt((sd[..., 1] ** 2).sum(axis=(0, 2))), 1.0)
        all_G = np.maximum(known_KGY.sum(axis=(0, 2)), floor_G)
        present_GY = known_KGY[present_K].sum(axis=0)
        present_G = np.maximum(present_GY.sum(axis=1), floor_G)
        losses_GY = self.clip * value[..., 0].sum(axis=0)
        positive_G = (losses_GY[:, 0] + present_GY[:, 1] - losses_GY[:, 1]) / present_G
        excess_G = positive_G - positive_G[0]
        excess_G[0] = -excess_G[1:].sum()
        share_G = all_G / all_G.sum()
        tilt_G = state.get("tilt", np.zeros(len(share_G))) + self.alpha / math.sqrt(rounds) * excess_G
        tilt_G = np.clip(tilt_G, -share_G, share_G)
        return sizes(reports), {**state, **counts, "rounds": rounds, "share": share_G, "tilt": tilt_G}
