"""The noise of training in a client's update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedtoll.scenarios.run import ClientPlan, Run


def noise_variance(run: Run, client: ClientPlan, proximal_mu: float = 0.0) -> float:
    """Return v_k, the variance of the noise in one coordinate of a client's update.

    T (η σ C / B)² for T steps of plain local SGD. FedProx's term shrinks the distance from the broadcast
    model by 1 − ημ at each step, including the noise of earlier steps: (η σ C / B)² Σ_{j<T} (1 − ημ)^{2j}.
    Derived here; both ignore the curvature of the loss.
    """
    scale = run.learning_rate * client.added_noise * (run.clip or 0.0) / client.batch_size
    decay = (1 - run.learning_rate * proximal_mu) ** 2
    return scale**2 * sum(decay**j for j in range(client.steps))


def variances_of(run: Run, instructions: Mapping[str, Any]) -> list[float]:
    """Return the variance of the noise in a coordinate of every client's update, under instructions."""
    return [noise_variance(run, client, instructions.get("proximal_mu", 0.0)) for client in run.clients]
