"""PUFFLE (Corbucci et al. 2024), for demographic parity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.scenarios.statistics import GroupScore, Statistic
from fedtoll.strategies.base import Instructions, Member, Report, State, Strategy, Weights, sizes
from fedtoll.strategies.fedminmax import HEAVIEST
from fedtoll.strategies.group_means import positive_rates


@dataclass(frozen=True)
class Puffle(Strategy):
    """PUFFLE: adds demographic disparity to the loss, as much as a target disparity asks for.

    With P_z the mean probability of the positive class in group z, and P_¬z that in all other groups, the
    disparity is d = max_z |P_z − P_¬z|, and clients descend on

        (1 − λ) F + λ d

    After each round, the velocity is v ← β v + (target − d) and the weight λ ← λ − α v, limited to [0, 1]. So
    the weight grows as long as the disparity is above the target. A scenario with more than two classes is
    refused.

    For the worst group z and s = sign(P_z − P_¬z), λ d is the mean over records of c_g p, where p is the
    record's probability of the positive class and

        c_z = λ s / ρ_z,   c_g = −λ s / (1 − ρ_z) for every other group

    Clients apply both parts in the next round, through the instructions ``group_weights`` = 1 − λ and
    ``score_weights`` = c (at most 100 in size), before DP-SGD clips the record's gradient. The weights of
    updates are p_k = n_k / n. Clients of one group take part like mixed ones.

    What differs from the paper and its code: a client of fedtoll shows nothing but what is noised and
    charged. So the disparity is that of all clients' records at the broadcast model, from released sums
    (``group_score``), where the authors compute it in every batch of a client, with noise before λ is updated
    by it. There is one λ for all clients, updated once a round, where each of theirs tunes its own, batch by
    batch. As there, the gradients of a record's two parts are clipped as one. In the code, a probability
    counts in the predicted class only, λ starts every later round at (d − target) / (1 − target), at least 0,
    with v = 0, and α may decay: all left out.

    λ adds up over rounds, and the largest of several noisy gaps is above the true one. Where a group is
    small next to the noise of its count, or the target is out of reach, λ grows to 1, where the loss no
    longer counts and the model learns nothing.

    Parameters
    ----------
    target
        The disparity that is accepted.
    alpha
        α, the step size of λ.
    momentum
        β of the velocity, below 1.
    start
        λ of the first rounds. ``alpha = 0`` and ``start = 0`` give FedAvg; ``alpha = 0`` alone keeps λ fixed.

    References
    ----------
    Corbucci, Heikkilä, Solans Noguero, Monreale and Kourtellis, *PUFFLE: Balancing privacy, utility, and
    fairness in federated learning*, arXiv:2407.15224, 2024. The rule was checked against the authors' code
    (github.com/lucacorbucci/PUFFLE).

    Examples
    --------
    >>> from fedtoll.scenarios.statistics import Estimate
    >>> cells = np.array([[30.0, 30.0], [36.0, 4.0]])  # predicted negative and positive, in two groups
    >>> reports = [Report(0, 100, "", (), {"group_score": Estimate(cells, np.zeros((2, 2)))})]
    >>> strategy = Puffle(target=0.1, alpha=0.5)
    >>> _, state = strategy.weigh(reports, strategy.init(reports))
    >>> float(state["lambda"].round(3))
    0.15
    >>> {k: np.round(v, 3).tolist() for k, v in strategy.instructions(2, state).items()}
    {'group_weights': [0.85, 0.85], 'score_weights': [0.25, -0.375]}
    """

    target: float = 0.05
    alpha: float = 0.1
    momentum: float = 0.0
    start: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("target", self.target), ("alpha", self.alpha)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} = {value}: must be 0 or greater")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum}: must be 0 or greater, and below 1")
        if not 0 <= self.start <= 1:
            raise ValueError(f"start = {self.start}: must be between 0 and 1")

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The sums of every group's probabilities of the classes."""
        return (GroupScore(),)

    def unsuited(self, classes: int) -> str:
        """Refuse scenarios with more than two classes, where demographic parity has no one rate."""
        return "" if classes == 2 else f"needs two classes, and the records have {classes}"

    def instructions(self, round: int, state: State) -> Instructions:
        """Return 1 − λ and c, once the first statistics are released and unless λ is 0."""
        if not state.get("lambda"):
            return {}
        share_G, gap_G, weight = state["share"], state["gap"], float(state["lambda"])
        worst = int(np.abs(gap_G).argmax())
        pull_G = -1.0 / np.maximum(1.0 - share_G[worst], 1.0 / HEAVIEST) * np.ones(len(share_G))
        pull_G[worst] = 1.0 / share_G[worst]
        scores_G = np.clip(weight * np.sign(gap_G[worst]) * pull_G, -HEAVIEST, HEAVIEST)
        return {"group_weights": [1.0 - weight] * len(share_G), "score_weights": scores_G.tolist()}

    def public_weights(self, cohort: Sequence[Member]) -> Weights:
        """Return n_k / n."""
        return sizes(cohort)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return n_k / n, and update λ."""
        state, share_G, rate_G = positive_rates(state, reports)
        mean = share_G @ rate_G
        gap_G = (rate_G - mean) / np.maximum(1.0 - share_G, 1.0 / HEAVIEST)  # P_z − P_¬z
        velocity = self.momentum * state.get("velocity", 0.0) + self.target - np.abs(gap_G).max()
        weight = np.clip(state.get("lambda", self.start) - self.alpha * velocity, 0.0, 1.0)
        return sizes(reports), {
            **state,
            "share": share_G,
            "gap": gap_G,
            "velocity": velocity,
            "lambda": weight,
        }
