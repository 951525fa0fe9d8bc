"""DP-FERMI (Lowy, Gupta and Razaviyayn 2023; federated: Gupta et al. 2024), for demographic parity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.statistics import GroupScore, Statistic
from fedtoll.strategies.base import Instructions, Member, Report, State, Strategy, Weights, sizes
from fedtoll.strategies.fedminmax import HEAVIEST
from fedtoll.strategies.group_means import positive_rates


@dataclass(frozen=True)
class DPFermi(Strategy):
    """DP-FERMI: adds to the loss how much predictions tell of the group, by a minimax game.

    With ŷ the vector of a record's two class probabilities and s its group, the exponential Rényi mutual
    information of ŷ and s is the maximum over W, a matrix of groups by classes, of the mean of

        ψ = −Σ_j ‖W_j‖² ŷ_j + 2 Σ_j W_sj ŷ_j / √P_s − 1

    where W_j is its j-th column and P_s the share of group s. It is 0 only if ŷ and s are independent, as
    demographic parity demands. Clients descend on F + λ ψ in the model; after each round, the server ascends

        W ← Π(W + γ ∂ψ/∂W),   ∂ψ/∂W_sj = 2 P_sj / √P_s − 2 W_sj P_j

    where P_sj is the mean probability of class j in group s times P_s, P_j is its sum over groups, and Π
    limits the Frobenius norm. W starts at 0, so the first round is FedAvg. A scenario with more than two
    classes is refused.

    Given W, ψ depends on a record's probability p of the positive class as c_s p, with

        c_s = λ (‖W_0‖² − ‖W_1‖² + 2 (W_s1 − W_s0) / √P_s)

    which clients add in the next round, through the instruction ``score_weights`` (at most 100 in size),
    before DP-SGD clips the record's gradient. The weights of updates are p_k = n_k / n. Clients of one group
    take part like mixed ones.

    What differs from the papers: they protect the sensitive attribute only, and clip and noise the gradient
    of ψ by itself; here the whole record is protected and all its gradient is clipped at once. They ascend
    in W with every batch and a noised gradient; here once a round, with the noise of the released sums
    (``group_score``), whose rates are limited to [0, 1]. They take P_s from the records; here it is the
    released one. Their step of W has λ in it.

    Parameters
    ----------
    strength
        λ; 0 gives FedAvg.
    step
        γ, the step size of W.
    radius
        The largest Frobenius norm of W. At independence the maximum has the norm √2.

    References
    ----------
    Lowy, Gupta and Razaviyayn, *Stochastic differentially private and fair learning*, ICLR 2023; Gupta,
    Poornash, Lowy and Razaviyayn, arXiv:2411.07889, 2024; Lowy, Baharlouei, Pavan, Razaviyayn and Beirami,
    *A stochastic optimization framework for fair risk minimization*, TMLR 2022. The equations were checked
    against the federated code (github.com/justaguyalways/
    Stochastic-Federated-Differentially-Private-and-Fair-Learning).

    Examples
    --------
    >>> from fedtoll.scenarios.statistics import Estimate
    >>> cells = np.array([[30.0, 30.0], [36.0, 4.0]])  # predicted negative and positive, in two groups
    >>> reports = [Report(0, 100, "", (), {"group_score": Estimate(cells, np.zeros((2, 2)))})]
    >>> strategy = DPFermi(strength=1.0)
    >>> _, state = strategy.weigh(reports, strategy.init(reports))
    >>> state["w"].round(3)
    array([[0.387, 0.387],
           [0.569, 0.063]])
    >>> np.round(strategy.instructions(2, state)["score_weights"], 3).tolist()
    [0.32, -1.28]
    """

    strength: float = 1.0
    step: float = 0.5
    radius: float = 3.0

    def __post_init__(self) -> None:
        for name, value in (("strength", self.strength), ("step", self.step)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} = {value}: must be 0 or greater")
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise ValueError(f"radius = {self.radius}: must be greater than 0")

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The sums of every group's probabilities of the classes."""
        return (GroupScore(),)

    def unsuited(self, classes: int) -> str:
        """Refuse scenarios with more than two classes: a client weights one probability only."""
        return "" if classes == 2 else f"needs two classes, and the records have {classes}"

    def instructions(self, round: int, state: State) -> Instructions:
        """Return c, once the first statistics are released and unless λ is 0."""
        if "w" not in state or self.strength == 0:
            return {}
        w_GY, share_G = state["w"], state["share"]
        negative, positive = (w_GY**2).sum(axis=0)
        scores_G = negative - positive + 2 * (w_GY[:, 1] - w_GY[:, 0]) / np.sqrt(share_G)
        return {"score_weights": np.clip(self.strength * scores_G, -HEAVIEST, HEAVIEST).tolist()}

    def public_weights(self, cohort: Sequence[Member]) -> Weights:
        """Return n_k / n."""
        return sizes(cohort)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return n_k / n, and ascend in W."""
        state, share_G, rate_G = positive_rates(state, reports)
        joint_GY: NDArray[np.float64] = share_G[:, None] * np.stack([1 - rate_G, rate_G], axis=1)
        w_GY = state.get("w", np.zeros(joint_GY.shape))
        slope_GY = 2 * joint_GY / np.sqrt(share_G)[:, None] - 2 * w_GY * joint_GY.sum(axis=0)
        w_GY = w_GY + self.step * slope_GY
        w_GY = w_GY * min(1.0, self.radius / max(float(np.linalg.norm(w_GY)), self.radius))
        return sizes(reports), {**state, "share": share_G, "w": w_GY}
