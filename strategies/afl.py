"""AFL, agnostic federated learning (Mohri et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedtoll.scenarios.statistics import MeanLoss, Statistic
from fedtoll.strategies.base import Member, Report, State, Strategy, Weights, remember, sizes
from fedtoll.strategies.simplex import ascend


@dataclass(frozen=True)
class AFL(Strategy):
    """Agnostic federated learning: moves weight to the clients of highest loss, round by round.

    The best model for the worst mixture of clients: min_w max_λ Σ_k λ_k F_k(w), λ on the simplex.

    λ⁰_k = n_k / n, and in every round λ ← Π(λ + γ F) with F_k the mean loss at the broadcast model and
    Π the projection on the simplex; then w += Σ_k λ_k Δ_k with the new λ. (The paper alternates single
    gradient steps; here the clients' local training takes the place of the step in w.)

    - λ integrates the statistic's noise: T rounds move it by γ s_k √T before the projection (derived
      here; s_k is the statistic's standard deviation). Hence ``clip`` is 1: s_k is proportional to it.
      F̃_k itself is not clamped, so that its noise stays centred.
    - A client that is missing from a round keeps its λ_k; those who are there move λ among themselves, and
      share all the weight in proportion to it.
    - A client that lies takes everything: one that reports ten times its loss has all the weight after a
      few rounds, since no clip binds what it sends.
    - The theory holds for the mean of the models of all rounds, not for the last one. That is an option
      of the scenario, ``training.average = true``, for every strategy.

    Parameters
    ----------
    gamma
        γ, the step of λ; 0 is FedAvg.
    clip
        Bound of a record's loss in the statistic, in nats.

    References
    ----------
    Mohri, Sivek and Suresh, *Agnostic federated learning*, ICML 2019, algorithm Stochastic-AFL.

    Examples
    --------
    >>> from fedtoll.scenarios.statistics import Estimate
    >>> reports = [
    ...     Report(k, n, "g", update=(), statistics={"mean_loss": Estimate(f, 0.0)})
    ...     for k, (n, f) in enumerate([(60, 0.2), (30, 0.4), (10, 0.6)])
    ... ]
    >>> strategy = AFL(gamma=0.5)
    >>> state = strategy.init(reports)
    >>> for _ in range(3):
    ...     weights, state = strategy.weigh(reports, state)
    ...     print(weights.round(3))
    [0.5 0.3 0.2]
    [0.4 0.3 0.3]
    [0.3 0.3 0.4]
    """

    gamma: float = 0.1
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not (self.gamma >= 0 and math.isfinite(self.gamma)):
            raise ValueError(f"gamma = {self.gamma}: must be 0 or greater")
        MeanLoss(self.clip)

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The mean loss, with this strategy's clip."""
        return (MeanLoss(self.clip),)

    def init(self, cohort: Sequence[Member]) -> State:
        """Return λ⁰ = n_k / n."""
        return remember({}, cohort, mixture=sizes(cohort))

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return Π(λ + γ F̃), and keep it; normalised where a client is missing."""
        losses = np.array([r.statistics["mean_loss"].value for r in reports], dtype=np.float64)
        place = np.searchsorted(state["mixture.clients"], [r.client for r in reports])
        step, there = np.zeros(len(state["mixture"])), np.zeros(len(state["mixture"]), dtype=bool)
        step[place], there[place] = self.gamma * losses, True
        mixture = ascend(state["mixture"], step, there)
        weights = mixture[place]
        if not there.all():
            weights = weights / weights.sum() if weights.any() else sizes(reports)
        return weights, {**state, "mixture": mixture}
