"""FedProx (Li et al. 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedtoll.strategies.base import Instructions, State
from fedtoll.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class FedProx(FedAvg):
    """FedProx: FedAvg with a proximal term that keeps clients near the broadcast model.

    Client k minimises F_k(w) + (μ/2) ‖w − w^t‖². The server weights clients as FedAvg does: p_k = n_k / n.
    (The paper samples clients with probability n_k / n and averages them evenly; in expectation that equals
    these weights with all clients in every round.)

    The term's gradient μ (w − w^t) depends on no record, so clients add it after the noise and it costs no
    privacy. It shrinks the noise of earlier local steps by a factor 1 − ημ per step: the noise of an update
    has variance (η σ C / B)² Σ_{j<T} (1 − ημ)^{2j}, less than FedAvg's if 0 < ημ < 2 and T > 1 (derived
    here, ignoring the curvature of the loss).

    Parameters
    ----------
    mu
        μ, the strength of the proximal term; 0 gives FedAvg.

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
        """Return μ as ``proximal_mu``."""
        return {"proximal_mu": self.mu}
