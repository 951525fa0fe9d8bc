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

    A group of which no client is there keeps its μ; the others move theirs among themselves.

    Mixed clients' n_a is estimated (derived here): the released counts, summed over clients and averaged
    over rounds, for the records do not change; never below 1, nor below the standard deviation of one
    round's count. So the standard deviation of r_a is at most ``clip``, and the r_a of a group that its
    noise hides is underestimated. The start ρ becomes better known from round to round, and μ moves with it,
    μ ← Π(μ + ρ̂ − ρ̂_before + γ r), so that γ = 0 gives weights of 1. μ_a / ρ_a is capped at 100.

    Where a mixed client has been missing, the average is taken client by client: its records still count in
    ρ, and r_a is the loss of those who are there over *their* n_a. While it is missing, a group of which
    those who are there hold no more than the floor keeps its μ.

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
        """Return the groups by name and μ = ρ; if a client declares none, who there is."""
        if not all(m.group for m in cohort):
            return {"releases.clients": np.array(sorted(m.client for m in cohort), dtype=np.int64)}
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

        The weight of a group of which no client is there goes to the others, in proportion to theirs.
        """
        value_KG2 = np.stack([np.asarray(r.statistics["group_loss"].value) for r in reports])
        if "groups" in state:
            names, place, n_G = _groups(reports)
            there = np.isin(state["groups"], names)
            losses_G = np.bincount(place, weights=value_KG2[:, :, 0].sum(axis=1))
            step = np.zeros(len(there))
            step[there] = self.gamma * self.clip * losses_G / n_G
            mu = ascend(state["mu"], step, there)
            weights = mu[there][place] * [r.size for r in reports] / n_G[place]
            weights = weights / weights.sum() if weights.any() else sizes(reports)
            return weights, {**state, "mu": mu}
        sd_KG2 = np.stack([np.asarray(r.statistics["group_loss"].sd) for r in reports])
        floor_G = np.maximum(np.sqrt((sd_KG2**2).sum(axis=0))[:, 1], 1.0)
        return sizes(reports), self._release(reports, value_KG2, floor_G, state)

    def _release(
        self, reports: Sequence[Report], value_KG2: Weights, floor_G: Weights, state: State
    ) -> State:
        """Return the memory after one more release of the losses and counts of those who are there."""
        rounds = state.get("rounds", 0) + 1
        losses_G, counts_G = value_KG2.sum(axis=0).T
        counts = state.get("counts", 0.0) + counts_G
        state = _counted(state, reports, value_KG2[:, :, 1])
        held = here = np.maximum(counts / rounds, floor_G)
        there = np.ones(len(held), dtype=bool)
        if (state["releases"] < rounds).any():  # somebody is or was missing
            mean_KG = state["released"] / np.maximum(state["releases"], 1)[:, None]
            own = np.isin(state["releases.clients"], [r.client for r in reports])
            here = mean_KG[own].sum(axis=0)
            there = (here > floor_G) | own.all()
            held, here = np.maximum(mean_KG.sum(axis=0), floor_G), np.maximum(here, floor_G)
        share = held / held.sum()
        point = share + (state["mu"] - state["share"] if rounds > 1 else 0.0)
        step = self.gamma * self.clip * losses_G / here
        mu = ascend(point if there.all() else project(point), step, there)
        return {**state, "rounds": rounds, "counts": counts, "share": share, "mu": mu}


def _counted(state: State, reports: Sequence[Report], counts_KG: Weights) -> State:
    """Return the memory with one more release of these clients: how many each has made, and their sum."""
    zero = np.zeros(counts_KG.shape[1])
    kept = {int(c): (0, zero) for c in state.get("releases.clients", ())}
    if "released" in state:
        kept = dict(zip(kept, zip(state["releases"], state["released"], strict=True), strict=True))
    for report, counts_G in zip(reports, counts_KG, strict=True):
        releases, released_G = kept.get(report.client, (0, zero))
        kept[report.client] = releases + 1, released_G + counts_G
    clients = sorted(kept)
    return {
        **state,
        "releases.clients": np.array(clients, dtype=np.int64),
        "releases": np.array([kept[c][0] for c in clients], dtype=np.int64),
        "released": np.stack([kept[c][1] for c in clients]),
    }


def _groups(members: Sequence[Member | Report]) -> tuple[NDArray[np.str_], NDArray[np.intp], Weights]:
    """Return the groups' sorted names, the place of each client's among them, and their public sizes n_g."""
    names, place = np.unique([m.group for m in members], return_inverse=True)
    size = np.array([m.size for m in members], dtype=np.float64)
    return names, place, np.asarray(np.bincount(place, weights=size), dtype=np.float64)
