"""FedMinMax (Papadaki et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.statistics import GroupLoss, Statistic
from fedtoll.strategies.base import Instructions, Member, Report, State, Strategy, Weights, sizes
from fedtoll.strategies.simplex import ascend, project

HEAVIEST = 100.0
"""Upper bound on a record's weight μ_a / ρ_a; 1 is its weight in FedAvg."""


@dataclass(frozen=True)
class FedMinMax(Strategy):
    """Minimax over groups: shifts weight to the demographic groups with the highest loss.

    FedMinMax trains the best model for the worst mixture of groups: min_w max_μ Σ_a μ_a r_a(w), with μ on the
    simplex. r_a is the mean loss of group a's records over all clients at the broadcast model, and
    ρ_a = n_a / n. Starting from μ = ρ, every round trains with the weight μ_a / ρ_a for each record of group
    a, and then updates μ ← Π(μ + γ r), where Π is the projection onto the simplex. The first round is FedAvg.
    Who applies the weight depends on what is public:

    - **Every client declares the group of its records**: the server applies it, p_k = μ_g(k) · n_k / n_g(k),
      with public sizes. r_a is the released loss sum divided by n_a, which needs no released
      count. γ = 0 gives FedAvg. With one client per group, it equals AFL over clients only without noise: at
      the same z its losses are √2 times as noisy, because the counts are released too.
    - **Clients are mixed**: the clients apply it, through the instruction
      ``group_weights``, and p_k = n_k / n. The weight multiplies a record's loss *before* DP-SGD clips its
      gradient. The sensitivity therefore stays C, and clipping partly undoes the weight.

    A group whose clients are all missing keeps its μ; the other groups move theirs among themselves.

    For mixed clients, n_a is estimated (derived here): the released counts are summed over clients and
    averaged over rounds, since the records do not change. The estimate is at least 1 and at least the
    standard deviation of one round's count. So the standard deviation of r_a is at most ``clip``, and r_a is
    underestimated for a group smaller than its noise. As the estimate ρ̂ improves from round to round, μ moves
    with it, μ ← Π(μ + ρ̂ − ρ̂_before + γ r), so that γ = 0 gives weights of 1. μ_a / ρ_a is capped at 100.

    Once a mixed client has been missing, the average is taken per client: its records still count in ρ, and
    r_a is the loss of the clients present divided by *their* n_a. While it is missing, a group keeps its μ if
    the clients present hold no more of its records than the lower bound above.

    μ accumulates the noise of r. That noise is proportional to ``clip``, which is therefore 1 by default.

    Parameters
    ----------
    gamma
        γ, the step size of μ.
    clip
        Bound on a record's loss in the statistic, in nats.

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
    >>> state = strategy.init(reports)
    >>> for _ in range(2):
    ...     weights, state = strategy.weigh(reports, state)
    ...     print(weights.round(3), state["mu"].round(3))
    [0.6 0.2 0.2] [0.688 0.312]
    [0.516 0.172 0.312] [0.575 0.425]
    """

    gamma: float = 0.1
    clip: float = 1.0

    _revision = 2

    def __post_init__(self) -> None:
        if not (self.gamma >= 0 and math.isfinite(self.gamma)):
            raise ValueError(f"gamma = {self.gamma}: must be 0 or greater")
        GroupLoss(self.clip)

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The loss sum and count of every group, with losses clipped at ``clip``."""
        return (GroupLoss(self.clip),)

    def init(self, cohort: Sequence[Member]) -> State:
        """Return the groups' names and μ = ρ; if some client declares no group, only the client numbers."""
        if not all(m.group for m in cohort):
            return {"releases.clients": np.array(sorted(m.client for m in cohort), dtype=np.int64)}
        names, _, n_G = groups_of(cohort)
        return {"groups": names, "mu": n_G / n_G.sum()}

    def instructions(self, round: int, state: State) -> Instructions:
        """Return μ_a / ρ_a for mixed clients, once the first statistics are released."""
        if "share" not in state:
            return {}
        weights = np.minimum(state["mu"] / state["share"], HEAVIEST)
        return {"group_weights": [float(w) for w in weights]}

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return μ_g n_k / n_g if clients declare their groups, else n_k / n; and update μ.

        The weight of a group whose clients are all missing goes to the others, in proportion to theirs.
        """
        value_KG2 = np.stack([np.asarray(r.statistics["group_loss"].value) for r in reports])
        if "groups" in state:
            names, index, n_G = groups_of(reports)
            present = np.isin(state["groups"], names)
            losses_G = np.bincount(index, weights=value_KG2[:, :, 0].sum(axis=1))
            step = np.zeros(len(present))
            step[present] = self.gamma * self.clip * losses_G / n_G
            mu = ascend(state["mu"], step, present)
            weights = state["mu"][present][index] * [r.size for r in reports] / n_G[index]
            weights = weights / weights.sum() if weights.any() else sizes(reports)
            return weights, {**state, "mu": mu}
        sd_KG2 = np.stack([np.asarray(r.statistics["group_loss"].sd) for r in reports])
        floor_G = np.maximum(np.sqrt((sd_KG2**2).sum(axis=0))[:, 1], 1.0)
        return sizes(reports), self._updated(reports, value_KG2, floor_G, state)

    def _updated(
        self, reports: Sequence[Report], value_KG2: Weights, floor_G: Weights, state: State
    ) -> State:
        """Return the state after another release of the losses and counts of the clients present."""
        rounds = state.get("rounds", 0) + 1
        losses_G, counts_G = value_KG2.sum(axis=0).T
        counts = state.get("counts", 0.0) + counts_G
        state = _add_counts(state, reports, value_KG2[:, :, 1])
        all_G = present_G = np.maximum(counts / rounds, floor_G)  # records of all clients, of those present
        moves_G = np.ones(len(all_G), dtype=bool)
        if (state["releases"] < rounds).any():  # a client is or was missing
            mean_KG = state["released"] / np.maximum(state["releases"], 1)[:, None]
            present_K = np.isin(state["releases.clients"], [r.client for r in reports])
            present_G = mean_KG[present_K].sum(axis=0)
            moves_G = (present_G > floor_G) | present_K.all()
            all_G, present_G = np.maximum(mean_KG.sum(axis=0), floor_G), np.maximum(present_G, floor_G)
        share = all_G / all_G.sum()
        point = share + (state["mu"] - state["share"] if rounds > 1 else 0.0)
        step = self.gamma * self.clip * losses_G / present_G
        mu = ascend(point if moves_G.all() else project(point), step, moves_G)
        return {**state, "rounds": rounds, "counts": counts, "share": share, "mu": mu}


def _add_counts(state: State, reports: Sequence[Report], counts_KG: Weights) -> State:
    """Return the state with another release added: per client, the number of releases and their sum."""
    zero = np.zeros(counts_KG.shape[1])
    sums = {int(c): (0, zero) for c in state.get("releases.clients", ())}
    if "released" in state:
        sums = dict(zip(sums, zip(state["releases"], state["released"], strict=True), strict=True))
    for report, counts_G in zip(reports, counts_KG, strict=True):
        releases, released_G = sums.get(report.client, (0, zero))
        sums[report.client] = releases + 1, released_G + counts_G
    clients = sorted(sums)
    return {
        **state,
        "releases.clients": np.array(clients, dtype=np.int64),
        "releases": np.array([sums[c][0] for c in clients], dtype=np.int64),
        "released": np.stack([sums[c][1] for c in clients]),
    }


def groups_of(members: Sequence[Member | Report]) -> tuple[NDArray[np.str_], NDArray[np.intp], Weights]:
    """Return the sorted group names, the index of each client's group, and the groups' public sizes n_g."""
    names, index = np.unique([m.group for m in members], return_inverse=True)
    size = np.array([m.size for m in members], dtype=np.float64)
    return names, index, np.asarray(np.bincount(index, weights=size), dtype=np.float64)
