"""AAggFF, aggregation as sequential decisions (Hahn et al. 2024), for cross-silo federations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedtoll.scenarios.statistics import MeanLoss, Statistic
from fedtoll.strategies.base import Member, Report, State, Strategy, Weights, remember
from fedtoll.strategies.simplex import minimise

CDFS: dict[str, Callable[[Weights], Weights]] = {
    "weibull": lambda x: 1 - np.exp(-(x**2)),
    "exponential": lambda x: 1 - np.exp(-x),
    "frechet": lambda x: np.exp(-1 / x),
    "normal": lambda x: np.array([0.5 * math.erfc((1 - v) / math.sqrt(2)) for v in x]),
    "gumbel": lambda x: np.exp(-np.exp(1 - x)),
    "logistic": lambda x: 1 / (1 + np.exp(1 - x)),
}
"""Cumulative distribution functions of a loss divided by the mean loss."""


@dataclass(frozen=True)
class AAggFF(Strategy):
    """AAggFF: an online learner moves weight to clients with a high loss, over many rounds.

    In every round, F_k is the mean loss at the broadcast model, and a distribution function bounds it:
    r_k = CDF(F_k / mean F) / K. The learner's loss is −log(1 + Σ_k p_k r_k). Its next weights are those of
    the online Newton step in its regularised form, over all rounds up to this one:

        g = −r / (1 + Σ_k p_k r_k),   G += g,   H += g gᵀ

        p = argmin_p  Gᵀ p + (α / 2) ‖p‖² + (β / 2) pᵀ H p   on the simplex

    with p = 1 / K and H = α I at first, α = 4 and β = K / 4. The updates of the round have the new weights.
    With equal losses all weights are 1 / K: the strategy leans to ``uniform`` and never becomes FedAvg. The
    rewards are at most 1 / K, so the weights move slowly, and a client that lies about its loss gains at most
    the reward of CDF = 1 in each round.

    F̃_k is noisy and may be negative: it is clamped to at least ``floor`` (mean F too, as a consequence).

    Parameters
    ----------
    cdf
        ``"normal"``, ``"logistic"``, ``"gumbel"``, ``"weibull"``, ``"exponential"`` or ``"frechet"``.
    clip
        Bound on a record's loss in the statistic, in nats.
    floor
        Lower bound of F̃_k.

    References
    ----------
    Hahn, Kim and Lee, *Pursuing overall welfare in federated learning through sequential decision making*,
    ICML 2024. The rule and its constants are those of the authors' code for cross-silo federations
    (github.com/vaseline555/AAggFF), which starts at weights of 1 instead of 1 / K; the paper's text was
    not checked.

    Examples
    --------
    >>> from fedtoll.scenarios.statistics import Estimate
    >>> reports = [
    ...     Report(k, 100, "g", update=(), statistics={"mean_loss": Estimate(f, 0.0)})
    ...     for k, f in enumerate([0.2, 0.4, 0.9])
    ... ]
    >>> strategy = AAggFF()
    >>> state = strategy.init(reports)
    >>> for _ in range(2):
    ...     weights, state = strategy.weigh(reports, state)
    ...     print(weights.round(3))
    [0.325 0.331 0.344]
    [0.317 0.328 0.355]
    """

    cdf: Literal["normal", "logistic", "gumbel", "weibull", "exponential", "frechet"] = "normal"
    clip: float = 1.0
    floor: float = 0.01

    def __post_init__(self) -> None:
        MeanLoss(self.clip)
        if not (self.floor > 0 and math.isfinite(self.floor)):
            raise ValueError(f"floor = {self.floor}: must be greater than 0")

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The mean loss, clipped at ``clip``."""
        return (MeanLoss(self.clip),)

    def init(self, cohort: Sequence[Member]) -> State:
        """Return equal weights and H = α I, in the order of the clients' numbers."""
        count = len(cohort)
        state = remember({}, cohort, mixture=np.full(count, 1 / count))
        return {**state, "linear": np.zeros(count), "quadratic": 4.0 * np.eye(count)}

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return the next weights; an absent client is rewarded with 0, and its weight goes to the others."""
        count = len(state["mixture"])
        index = np.searchsorted(state["mixture.clients"], [r.client for r in reports])
        losses = np.array([r.statistics["mean_loss"].value for r in reports], dtype=np.float64)
        losses = np.maximum(losses, self.floor)
        reward = np.zeros(count)
        reward[index] = CDFS[self.cdf](losses / losses.mean()) / count
        gradient = -reward / (1 + state["mixture"] @ reward)
        linear = state["linear"] + gradient
        quadratic = state["quadratic"] + np.outer(gradient, gradient)
        alpha, beta = 4.0, count / 4
        mixture = minimise(
            alpha * np.eye(count) + beta * quadratic,
            linear,
            np.zeros(count),
            np.ones(count),
            state["mixture"],
        )
        weights = mixture[index]
        weights = weights / weights.sum() if weights.any() else np.full(len(reports), 1 / len(reports))
        return weights, {**state, "mixture": mixture, "linear": linear, "quadratic": quadratic}
