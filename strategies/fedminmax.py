"""FedMinMax (Papadaki et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.statistics import GroupLoss, Statistic
from fedtoll.strategies.base import Instructions, Member, Report, State, Strategy, Weights, sizes
from fedtoll.strategies.simplex import project

HEAVIEST = 100.0
"""No record counts more than so many times its due."""


@dataclass(frozen=True)
class FedMinMax(Strategy):
    """Minimax over groups: moves weight to the demographic groups of highest loss.

    The best model for the worst mixture of groups: min_w max_μ Σ_a μ_a r_a(w), μ on the simplex. r_a is the
    mean loss of group a's records over all clients at the broadcast model, ρ_a = n_a / n. From μ = ρ on,
    every round takes μ ← Π(μ + γ r), Π the projection on the simplex, and a record of group a counts
    μ_a / ρ_a times. Who applies that factor depends on what is public:

    - **Every client declares the group of its records**: the server does, p_k = μ_g(k) · n_k / n_g(k), with
      the new μ and with sizes that are public. r_a is the released loss sum over n_a, which needs no
      released count. γ = 0 is FedAvg. With one client a group it equals AFL over clients only without
      noise: at one z its losses are √2 times as noisy, for the counts are released too.
    - **Clients are mixed**: they do, in the next round, by the instruction ``group_weights``; p_k = n_k / n.
      The weight acts on a record's loss *inside* the clip of DP-SGD: the sensitivity stays C, and where
      gradients are clipped the clip partly undoes the weight.

    Mixed clients' n_a is estimated (derived here): the released counts, summed over clients and averaged
    over rounds, for the records do not change; never below 1, nor below the standard deviation of one
    round's count. So the standard deviation of r_a is at most ``clip``, and the r_a of a group that its
    noise hides is underestimated. The start ρ becomes better known from round to round, and μ moves with it,
    μ ← Π(μ + ρ̂ − ρ̂_before + γ r), so that γ = 0 gives weights of 1. μ_a / ρ_a is capped at 100.

    μ integrates the noise of r, which is proportional to ``clip``: hence 1.

    Parameters
    ----------
    gamma
        γ, the step of μ.
    clip
        Bound of a record's loss in the statistic, in nats.

    References
    ----------
    Papadaki, Martinez, Bertran, Sapiro and Rodrigues, *Minimax demographic group fairness in federated
    learning*, FAccT 2022, algorithm 1.

    Examples
    --------
    >>> from fedtoll.scenarios.statistics import Estimate
    >>> reports = []
    >>> for k, (n, group, loss) in enumerate([(60, "a", 0.2), (20, "a", 0.4), (20, "b", 0.7)]):
    ...     cells = np.zeros((2, 2))
    ...     cells[k // 2] = n * loss, n
    ...     answer = Estimate(cells, np.zeros((2, 2)))
    ...     reports.append(Report(k, n, group, update=(), statistics={"group_loss": answer}))
    >>> strategy = FedMinMax(gamma=0.5)
    >>> weights, state = strategy.weigh(reports, strategy.init(reports))
    >>> weights, state["mu"]
    (array([0.515625, 0.171875, 0.3125  ]), array([0.6875, 0.3125]))
    """

    gamma: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not (self.gamma >= 0 and math.isfinite(self.gamma)):
            raise ValueError(f"gamma = {self.gamma}: must be 0 or greater")
        GroupLoss(self.clip)

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The loss and count of every group, with this strategy's clip."""
        return (GroupLoss(self.clip),)

    def init(self, cohort: Sequence[Member]) -> State:
        """Return the groups by name and μ = ρ; nothing if a client declares none."""
        if not all(m.group for m in cohort):
            return {}
        names, _, n_G = _groups(cohort)
        return {"groups": names, "mu": n_G / n_G.sum()}

    def instructions(self, round: int, state: State) -> Instructions:
        """Return μ_a / ρ_a to mixed clients, from the first release on."""
        if "share" not in state:
            return {}
        weights = np.minimum(state["mu"] / state["share"], HEAVIEST)
        return {"group_weights": [float(w) for w in weights]}

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Move μ; return μ_g n_k / n_g to clients that declare their group, else n_k / n.

        The μ of a group of which no client is there is not moved, and its weight goes to the others.
        """
        value_KG2 = np.stack([np.asarray(r.statistics["group_loss"].value) for r in reports])
        if "groups" in state:
            names, place, n_G = _groups(reports)
            there = np.searchsorted(state["groups"], names)
            moved = np.array(state["mu"])
            losses_G = np.bincount(place, weights=value_KG2[:, :, 0].sum(axis=1))
            moved[there] += self.gamma * self.clip * losses_G / n_G
            mu = project(moved)
            weights = mu[there][place] * [r.size for r in reports] / n_G[place]
            weights = weights / weights.sum() if weights.any() else sizes(reports)
            return weights, {**state, "mu": mu}
        sd_KG2 = np.stack([np.asarray(r.statistics["group_loss"].sd) for r in reports])
        return sizes(reports), self._release(value_KG2.sum(axis=0), np.sqrt((sd_KG2**2).sum(axis=0)), state)

    def _release(self, value_G2: Weights, sd_G2: Weights, state: State) -> State:
        """Return the memory after one more release of all clients' losses and counts."""
        rounds = state.get("rounds", 0) + 1
        counts = state.get("counts", 0.0) + value_G2[:, 1]
        held = np.maximum(counts / rounds, np.maximum(sd_G2[:, 1], 1.0))
        share = held / held.sum()
        moved = state["mu"] - state["share"] if rounds > 1 else 0.0
        mu = project(share + moved + self.gamma * self.clip * value_G2[:, 0] / held)
        return {**state, "rounds": rounds, "counts": counts, "share": share, "mu": mu}


def _groups(members: Sequence[Member | Report]) -> tuple[NDArray[np.str_], NDArray[np.intp], Weights]:
    """Return the groups' sorted names, the place of each client's among them, and their public sizes n_g."""
    names, place = np.unique([m.group for m in members], return_inverse=True)
    size = np.array([m.size for m in members], dtype=np.float64)
    return names, place, np.asarray(np.bincount(place, weights=size), dtype=np.float64)
