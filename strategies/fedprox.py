"""FedProx (Li et al. 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedtoll.strategies.base import Instructions, State
from fedtoll.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class FedProx(FedAvg):
    """FedProx: FedAvg whose clients stay near the model that they were sent.

    They minimise F_k(w) + (μ/2) ‖w − w^t‖². The server weighs as FedAvg does: p_k = n_k / n. (The paper
    draws clients with probability n_k / n and averages them evenly; with all clients in every round that
    is this, in expectation.)

    The term's gradient μ (w − w^t) needs no record, so clients add it after the noise and it costs no
    privacy. It draws the noise of earlier local steps back by 1 − ημ a step: the noise of an update has
    variance (η σ C / B)² Σ_{j<T} (1 − ημ)^{2j}, less than FedAvg's where 0 < ημ < 2 and T > 1 (derived
    here, without the curvature of the loss).

    Parameters
    ----------
    mu
        μ, strength of the pull; 0 is FedAvg.

    References
    ----------
    Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, *Federated optimization in heterogeneous networks*,
    MLSys 2020, eq. 2 and algorithm 2.

    Examples
    --------
    >>> from fedtoll.strategies.base import Report
    >>> reports = [Report(k, n, "g", update=()) for k, n in enumerate([60, 30, 10])]
    >>> FedProx(mu=0.1).instructions(1, {})
    {'proximal_mu': 0.1}
    >>> FedProx(mu=0.1).weigh(reports, {})[0]
    array([0.6, 0.3, 0.1])
    """

    mu: float = 0.01

    def __post_init__(self) -> None:
        if not (self.mu >= 0 and math.isfinite(self.mu)):
            raise ValueError(f"mu = {self.mu}: must be 0 or greater")

    def instructions(self, round: int, state: State) -> Instructions:
        """Return μ."""
        return {"proximal_mu": self.mu}
