"""FPFL, equal group losses by the method of differential multipliers (Rodríguez-Gálvez et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.scenarios.statistics import GroupLoss, Statistic
from fedtoll.strategies.base import Instructions, Member, Report, State, Strategy, Weights, sizes
from fedtoll.strategies.fedminmax import HEAVIEST, groups_of
from fedtoll.strategies.group_means import group_means
from fedtoll.strategies.simplex import project


@dataclass(frozen=True)
class FPFL(Strategy):
    """FPFL: trains for the least mean loss at which all groups have the same loss.

    The constraints are g_z = r_z − Σ_j ρ_j r_j = 0, where r_z is the mean loss of group z's records over all
    clients at the broadcast model and ρ_z = n_z / n. The modified method of differential multipliers descends
    in the model along ∇Σ_z ρ_z r_z + Σ_z (λ_z + c g_z) ∇g_z, and ascends in the multipliers, λ_z += γ g_z,
    from λ = 0. With a_z = λ_z + c g_z, this is training with the weight μ_z for group z's mean loss,

        μ_z = ρ_z + a_z − ρ_z Σ_j a_j

    whose sum is 1. (The damping c keeps λ from circling.) Where a weight would be negative, μ is projected
    onto the simplex, which is ours: clients cannot ascend, and DP-SGD clips records one by one. Who applies μ
    depends on what is public, as in ``fedminmax``:

    - **Every client declares the group of its records**: the server, p_k = μ_g(k) · n_k / n_g(k), with the
      losses of the round itself.
    - **Clients are mixed**: the clients, in the next round, through ``group_weights`` = μ_z / ρ_z (at most
      100), before DP-SGD clips; and p_k = n_k / n. Counts are averaged over rounds, and n_z is at least 1
      and at least the standard deviation of one round's count.

    Unlike ``fedminmax``, it also holds back a group whose loss is below the mean. λ accumulates the noise of
    r, which is proportional to ``clip``. A group that is missing keeps its λ.

    Parameters
    ----------
    gamma
        γ, the step size of λ.
    damping
        c; it passes each round's noise of r on to μ (on ``adult-race`` at ε = .5, with c = 1 everybody's
        log-loss is .671, with .1 it is .353). ``gamma = 0`` and ``damping = 0`` give FedAvg.
    clip
        Bound on a record's loss in the statistic, in nats.

    References
    ----------
    Rodríguez-Gálvez, Granqvist, van Dalen and Seigel, *Enforcing fairness in private federated learning via
    the modified method of differential multipliers*, arXiv:2109.08604, 2021; Platt and Barr, *Constrained
    differential optimization*, NIPS 1987. The multipliers' rule is that of the method; the paper's choice of
    constraints and constants was not checked.

    Examples
    --------
    >>> from fedtoll.scenarios.statistics import Estimate
    >>> reports = []
    >>> for k, (n, group, loss) in enumerate([(60, "a", 0.2), (20, "a", 0.4), (20, "b", 0.7)]):
    ...     cells = np.zeros((2, 2))
    ...     cells[k // 2] = n * loss, n
    ...     answer = Estimate(cells, np.zeros((2, 2)))
    ...     reports.append(Report(k, n, group, update=(), statistics={"group_loss": answer}))
    >>> strategy = FPFL(gamma=0.5, damping=0.0)
    >>> state = strategy.init(reports)
    >>> for _ in range(2):
    ...     weights, state = strategy.weigh(reports, state)
    ...     print(weights.round(3), state["multipliers"].round(3))
    [0.6 0.2 0.2] [-0.045  0.18 ]
    [0.485 0.162 0.353] [-0.09  0.36]
    """

    gamma: float = 0.1
    damping: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("gamma", self.gamma), ("damping", self.damping)):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{name} = {value}: must be 0 or greater")
        GroupLoss(self.clip)

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The loss sum and count of every group, with losses clipped at ``clip``."""
        return (GroupLoss(self.clip),)

    def init(self, cohort: Sequence[Member]) -> State:
        """Return the groups' names and λ = 0; nothing if some client declares no group."""
        if not all(m.group for m in cohort):
            return {}
        names, _, _ = groups_of(cohort)
        return {"groups": names, "multipliers": np.zeros(len(names))}

    def instructions(self, round: int, state: State) -> Instructions:
        """Return μ_z / ρ_z for mixed clients, once the first statistics are released."""
        if "share" not in state:
            return {}
        weights = np.minimum(state["mixture"] / state["share"], HEAVIEST)
        return {"group_weights": [float(w) for w in weights]}

    def public_weights(self, cohort: Sequence[Member]) -> Weights:
        """Return n_k / n: where the server sees sums only, clients apply μ_z / ρ_z, as mixed clients do."""
        return sizes(cohort)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return μ_g n_k / n_g if clients declare their groups, else n_k / n; and update λ."""
        value_KG2 = np.stack([np.asarray(r.statistics["group_loss"].value, dtype=float) for r in reports])
        if "groups" in state:
            names, index, n_G = groups_of(reports)
            losses_G = self.clip * np.bincount(index, weights=value_KG2[:, :, 0].sum(axis=1)) / n_G
            present_G = np.isin(state["groups"], names)
            old = state["multipliers"]
            mixture, new = self._moved(old[present_G], losses_G, n_G / n_G.sum())
            multipliers = np.array(old)
            multipliers[present_G] = new
            weights = mixture[index] * [r.size for r in reports] / n_G[index]
            return weights / weights.sum(), {**state, "multipliers": multipliers}
        sd_KG2 = np.stack([np.asarray(r.statistics["group_loss"].sd, dtype=float) for r in reports])
        losses_G = self.clip * value_KG2[:, :, 0].sum(axis=0)
        state, share_G, losses_G = group_means(state, reports, value_KG2[:, :, 1], sd_KG2[:, :, 1], losses_G)
        old = state.get("multipliers", np.zeros(len(share_G)))
        mixture, multipliers = self._moved(old, losses_G, share_G)
        return sizes(reports), {**state, "share": share_G, "mixture": mixture, "multipliers": multipliers}

    def _moved(self, multipliers: Weights, losses: Weights, share: Weights) -> tuple[Weights, Weights]:
        """Return μ from the multipliers of before the round, and the new multipliers."""
        gap = losses - share @ losses
        pull = multipliers + self.damping * gap
        return project(share + pull - share * pull.sum()), multipliers + self.gamma * gap
