"""FedFDP, and without privacy FedFair (Ling et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.scenarios.statistics import GroupLoss, Statistic
from fedtoll.strategies.base import Instructions, Member, Report, State, Strategy, Weights, sizes
from fedtoll.strategies.fedminmax import HEAVIEST
from fedtoll.strategies.group_means import group_means


@dataclass(frozen=True)
class FedFDP(Strategy):
    """FedFDP: weights records by how far their group's loss is from the mean, before clipping.

    With r_z the mean loss of group z's records over all clients at the broadcast model, ρ_z = n_z / n and the
    mean loss r = Σ_z ρ_z r_z, the gradient g of a record of group z becomes

        min(1 + λ Δ_z, C / ‖g‖) g,   Δ_z = r_z − r

    which is clipping (1 + λ Δ_z) g at C. Unclipped, this descends on r + (λ/2) Σ_z ρ_z (r_z − r)², the loss
    plus its variance between groups. Clients apply the weight in the next round, through the instruction
    ``group_weights`` (between 0 and 100, which is ours: DP-SGD cannot ascend). The weights of updates are
    p_k = n_k / n. Clients of one group take part like mixed ones: with one client per group, Δ is that of
    clients, as in the paper's measure of fairness.

    What differs from the authors' code: there Δ is the loss of the *single* record minus the mean, so that
    it also favours hard records within a group; here it is that of the record's group, which is what this
    weight is for. Its losses are those of a batch after local training, clipped at the last released loss;
    here those of all records at the broadcast model, clipped at a constant. The paper's choice of λ from its
    convergence bound is left out; tune it.

    Parameters
    ----------
    strength
        λ; 0 gives FedAvg. The code's default is 0.1.
    clip
        Bound on a record's loss in the statistic, in nats.

    References
    ----------
    Ling, Fu, Wang, Li, Cheng and Chen, *FedFDP: Fairness-aware federated learning with differential privacy*,
    arXiv:2402.16028, 2024. The rule was checked against the authors' code (github.com/one1Mouth/FedFDP);
    the definition of Δ in the paper itself is unverified.

    Examples
    --------
    >>> from fedtoll.scenarios.statistics import Estimate
    >>> cells = np.array([[18.0, 60.0], [28.0, 40.0]])  # loss sums and counts of two groups
    >>> reports = [Report(0, 100, "", (), {"group_loss": Estimate(cells, np.zeros((2, 2)))})]
    >>> strategy = FedFDP(strength=0.5)
    >>> _, state = strategy.weigh(reports, strategy.init(reports))
    >>> np.round(strategy.instructions(2, state)["group_weights"], 3).tolist()
    [0.92, 1.12]
    """

    strength: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not (self.strength >= 0 and math.isfinite(self.strength)):
            raise ValueError(f"strength = {self.strength}: must be 0 or greater")
        GroupLoss(self.clip)

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The loss sum and count of every group, with losses clipped at ``clip``."""
        return (GroupLoss(self.clip),)

    def instructions(self, round: int, state: State) -> Instructions:
        """Return 1 + λ Δ_z, once the first statistics are released and unless λ is 0."""
        if "delta" not in state or self.strength == 0:
            return {}
        return {"group_weights": np.clip(1.0 + self.strength * state["delta"], 0.0, HEAVIEST).tolist()}

    def public_weights(self, cohort: Sequence[Member]) -> Weights:
        """Return n_k / n."""
        return sizes(cohort)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return n_k / n, and the new Δ."""
        value_KG2 = np.stack([np.asarray(r.statistics["group_loss"].value, dtype=float) for r in reports])
        sd_KG2 = np.stack([np.asarray(r.statistics["group_loss"].sd, dtype=float) for r in reports])
        sums_G = self.clip * value_KG2[:, :, 0].sum(axis=0)
        state, share_G, losses_G = group_means(state, reports, value_KG2[:, :, 1], sd_KG2[:, :, 1], sums_G)
        return sizes(reports), {**state, "delta": losses_G - share_G @ losses_G}
