"""One noise for the sum of all clients' messages: its sensitivity, and each client's share of it.

Client k sends p_k Δ_k, where p_k is its public weight and Δ_k = −η/B_k · (sum of clipped gradients) after one
local step. Adding or removing one record of client k moves the sum by at most η p_k C / B_k, and a record
belongs to one client. So the sensitivity is η S with

    S = C · max_k p_k / B_k

for the weights in force, and the noise of the sum has the standard deviation σ η S. Under ``central`` the
server adds it. Under ``secure-aggregation`` K clients add shares of the same size. If c of them subtract
theirs, K − c remain, so a share has the standard deviation σ η S / √(K − c): in units of the clip, before the
client's sum is divided by B_k and weighted, σ · (S/C) · B_k / (p_k √(K − c)).

FedAvg's p_k / B_k = 1 / (q n) is the same for all clients that sample at one rate q. The sum is then that of
DP-SGD on all records in one place, with the same σ. (Derived here; Kairouz, Liu and Steinke 2021 add up
shares of discrete Gaussian noise in the same way.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedtoll.scenarios import client_unit

TOLERANCE = 1e-9
"""The relative error with which shares and the sum of the weights are compared."""


def largest_ratio(weights: Sequence[float], batch_sizes: Sequence[float]) -> float:
    """Return S / C = max_k p_k / B_k, the sensitivity of the weighted sum in units of the clip.

    Examples
    --------
    >>> largest_ratio([0.5, 0.5], [10.0, 2.0])
    0.25
    """
    return max(p / b for p, b in zip(weights, batch_sizes, strict=True))


def noise_shares(
    sigma: float, weights: Sequence[float], batch_sizes: Sequence[float], colluding: int
) -> list[float]:
    """Return the noise that each client adds to its sum of gradients, in units of the clip.

    Parameters
    ----------
    sigma
        σ of the sum, in units of its sensitivity.
    weights, batch_sizes
        p_k and B_k of every client.
    colluding
        c, the number of clients that may subtract their share; fewer than there are clients.

    Examples
    --------
    >>> noise_shares(2.0, [0.75, 0.25], [3.0, 1.0], 0)  # equal p / B: σ / √2
    [1.414213562373095, 1.414213562373095]
    >>> noise_shares(2.0, [0.5, 0.5], [3.0, 1.0], 1)  # S = C / 2, whatever the larger client needs
    [6.0, 2.0]
    """
    largest, honest = largest_ratio(weights, batch_sizes), math.sqrt(len(weights) - colluding)
    return [sigma * largest * b / (p * honest) for p, b in zip(weights, batch_sizes, strict=True)]


def statistic_share(z: float, clients: int, colluding: int) -> float:
    """Return the noise that each client adds to a statistic, in units of its sensitivity: z / √(K − c)."""
    return z / math.sqrt(clients - colluding)


def check_shares(run: Any) -> None:
    """Raise ``ValueError`` unless the clients of a run add the noise of its trust model and mechanism."""
    clients, statistics = run.clients, run.statistics
    planned = run.client_mechanism
    if run.unit == "client":
        client_unit.check_run(run)
        return
    if any(s.client_bound is not None for s in statistics):
        raise ValueError("client_bound: needs the unit 'client'")
    if run.adaptive_clip is not None or (run.participation and run.participation.kind == "poisson"):
        raise ValueError("adaptive_clip, participation 'poisson': need the unit 'client'")
    if run.trust == "local":
        if run.colluding or any(x.noise_share is not None for x in statistics):
            raise ValueError("noise_share, colluding: only where the server sees sums")
        for client in clients:
            own = None if planned is None else planned.gradient_noise(client.noise_multiplier)
            if client.noise_share != own:
                raise ValueError(f"noise_share = {client.noise_share}: must be {own}")
        return
    if run.scales_gradients:
        raise ValueError(f"trust {run.trust!r}: clients clip to training.clip")
    weights = [c.weight or 0.0 for c in clients]
    if not math.isclose(math.fsum(weights), 1.0, rel_tol=TOLERANCE) or min(weights) <= 0:
        raise ValueError("clients.weight: not greater than 0 with a sum of 1")
    if any(c.steps != 1 for c in clients) or run.on_failure != "abort":
        raise ValueError(f"trust {run.trust!r}: needs one local step, and every reply")
    if len({c.noise_multiplier for c in clients}) > 1:
        raise ValueError("clients.noise_multiplier: a sum has one noise")
    if run.participation is not None:
        raise ValueError(f"trust {run.trust!r}: needs all clients in every round")
    shared = run.trust == "secure-aggregation"
    if not 0 <= run.colluding < (len(clients) if shared else 1):
        raise ValueError(f"colluding = {run.colluding}: must be less than the number of clients")
    batches = [c.batch_size for c in clients]
    expected = noise_shares(clients[0].noise_multiplier, weights, batches, run.colluding)
    expected += [statistic_share(s.noise_multiplier, len(clients), run.colluding) for s in statistics]
    for plan, share in zip((*clients, *statistics), expected, strict=True):
        found, due = plan.noise_share, share if shared else 0.0
        if found is None or not math.isclose(found, due, rel_tol=TOLERANCE, abs_tol=0.0):
            raise ValueError(f"noise_share = {found}: must be {due:g}")
