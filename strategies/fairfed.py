"""FairFed (Ezzeldin et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.statistics import GroupConfusion, Statistic
from fedtoll.strategies.base import Member, Report, State, Strategy, Weights, recall, remember, sizes

CLEAR = 2.0
"""A true positive rate is defined if the group's released positives exceed this many standard deviations."""


@dataclass(frozen=True)
class FairFed(Strategy):
    """FairFed: less weight to clients whose gap between groups differs from the global gap.

    In every round, starting from ω̄⁰_k = n_k / n,

        Δ_k = |F_glob − F_k| if both are defined, else |Acc_k − Acc_glob|
        ω̄_k ← ω̄_k − β (Δ_k − mean_j Δ_j)
        p_k = max(0, ω̄_k) / Σ_j max(0, ω̄_j)

    F is the equal opportunity difference: the TPR of the first group minus that of the second. F_glob is the
    same for the counts summed over clients, and Acc_glob the accuracy over all of them. The server computes
    everything from the confusion counts at the broadcast model.

    - For more than two groups, F is the largest TPR minus the smallest, which has no sign (our extension).
      Noise increases it, most for small clients.
    - A TPR is defined if the group's positives exceed twice the standard deviation of their noise, and F if
      two TPRs are (our rule too). Rates are clipped to [0, 1]; Acc_k divides by the public size.
    - **Noise hides F.** At z = 100 each count has a standard deviation of 100, and a group's positives, the
      sum of two counts, have one of 141, so a TPR needs more than 283 positives. With Adult split over 13
      mixed clients, each client has about 650 White positives and at most 35 of any other race. Only White
      passes. In the sum over all 13 clients the other races fail too: they have at most 453 positives, and
      1,020 are needed. So F is undefined, and FairFed falls back to accuracy at finite ε, while at ε = ∞ it
      uses F. One time in 44, pure noise passes.
    - The maximum with 0 is ours: without it, β = 5 gives negative weights. ω̄ itself is not truncated, so a
      client with weight 0 returns once its Δ falls below the mean.
    - **A pitfall.** If every client holds a single group, F is undefined everywhere and accuracy replaces it,
      so clients that differ from the majority lose weight. For n = (.9, .1), accuracies (.9, .7) and β = 1,
      the global accuracy is .88 and Δ = (.02, .18): the minority's weight falls from .10 to .02 in one round
      and to 0 in the next.

    Parameters
    ----------
    beta
        β, the step size; 0 gives FedAvg.

    References
    ----------
    Ezzeldin, Yan, He, Ferrara and Avestimehr, *FairFed: Enabling group fairness in federated learning*,
    AAAI 2023, algorithm 1.

    Examples
    --------
    The pitfall, with three groups:

    >>> from fedtoll.scenarios.statistics import Estimate
    >>> reports = []
    >>> for k, (n, wrong) in enumerate([(80, 8), (10, 1), (10, 3)]):
    ...     counts = np.zeros((3, 2, 2))
    ...     counts[k] = [[n / 2, 0], [wrong, n / 2 - wrong]]
    ...     answer = Estimate(counts, np.zeros((3, 2, 2)))
    ...     reports.append(Report(k, n, "", update=(), statistics={"group_confusion": answer}))
    >>> strategy = FairFed(beta=0.5)
    >>> strategy.weigh(reports, strategy.init(reports))[0].round(3)
    array([0.827, 0.127, 0.047])
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        if not (self.beta >= 0 and math.isfinite(self.beta)):
            raise ValueError(f"beta = {self.beta}: must be 0 or greater")

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """Confusion counts by group; class 1 is positive."""
        return (GroupConfusion(),)

    def init(self, cohort: Sequence[Member]) -> State:
        """Return ω̄⁰ = n_k / n."""
        return remember({}, cohort, raw=sizes(cohort))

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Update ω̄ and return its positive part, normalised."""
        answers = [r.statistics["group_confusion"] for r in reports]
        counts_KGYY = np.stack([np.asarray(a.value, dtype=np.float64) for a in answers])
        variance_KGYY = np.stack([np.asarray(a.sd, dtype=np.float64) for a in answers]) ** 2
        size = np.array([r.size for r in reports], dtype=np.float64)

        correct = np.einsum("kgyy->k", counts_KGYY)
        accuracy = np.clip(correct / size, 0.0, 1.0)
        overall = np.clip(correct.sum() / size.sum(), 0.0, 1.0)
        gaps = np.array([gap(c, v) for c, v in zip(counts_KGYY, variance_KGYY, strict=True)])
        gap_distance = np.abs(gap(counts_KGYY.sum(axis=0), variance_KGYY.sum(axis=0)) - gaps)
        distance = np.where(np.isnan(gap_distance), np.abs(accuracy - overall), gap_distance)

        raw = recall(state, reports, "raw") - self.beta * (distance - distance.mean())
        weights = np.maximum(raw, 0.0)
        # Σ ω̄ stays 1, so some ω̄_k is positive unless a huge β has rounded it away.
        weights = weights / weights.sum() if weights.any() else sizes(reports)
        return weights, remember(state, reports, raw=raw)


def gap(counts_GYY: NDArray[np.float64], variance_GYY: NDArray[np.float64]) -> float:
    """Return the equal opportunity difference F, or NaN if fewer than two groups have a defined TPR.

    Examples
    --------
    >>> counts = np.array([[[5, 5], [2, 8]], [[5, 5], [5, 5]]])
    >>> round(gap(counts, np.zeros((2, 2, 2))), 3), gap(counts, np.full((2, 2, 2), 100.0))
    (0.3, nan)
    """
    positives_G = counts_GYY[:, 1].sum(axis=-1)
    sd_G = np.sqrt(variance_GYY[:, 1].sum(axis=-1))
    clear_G = (positives_G > 0) & (positives_G > CLEAR * sd_G)
    if clear_G.sum() < 2:
        return math.nan
    rate = np.clip(counts_GYY[clear_G, 1, 1] / positives_G[clear_G], 0.0, 1.0)
    return float(rate[0] - rate[1]) if len(counts_GYY) == 2 else float(rate.max() - rate.min())
