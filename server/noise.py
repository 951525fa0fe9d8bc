"""The noise of training in a client's update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedtoll.scenarios.run import ClientPlan, Run


def noise_variance(run: Run, client: ClientPlan, proximal_mu: float = 0.0, round: int = 1) -> float:
    """Return v_k, the variance of the noise in one coordinate of a client's update.

    T (η σ C / B)² for T steps of plain local SGD. FedProx's term shrinks the distance from the broadcast
    model by 1 − ημ at each step, including the noise of earlier steps: (η σ C / B)² Σ_{j<T} (1 − ημ)^{2j}.
    Derived here; both ignore the curvature of the loss.

    MR-MTL's clients go on from their own model, so its noise is that of the steps of all rounds so far, each
    shrunk by 1 − ηλ at every later step. The noise of the mean that they are pulled towards is left out.
    """
    scale = run.learning_rate * client.added_noise * (run.clip or 0.0) / client.batch_size
    steps = client.steps
    if run.personal is not None and run.personal.kind == "mr-mtl":
        proximal_mu, steps = run.personal.mu(run.learning_rate), client.steps * round
    decay = (1 - run.learning_rate * proximal_mu) ** 2
    return scale**2 * sum(decay**j for j in range(steps))


def variances_of(
    run: Run, instructions: Mapping[str, Any], clients: Sequence[ClientPlan] | None = None, round: int = 1
) -> list[float]:
    """Return the variance of the noise in a coordinate of clients' updates, by default of all."""
    mu = instructions.get("proximal_mu", 0.0)
    return [noise_variance(run, c, mu, round) for c in (run.clients if clients is None else clients)]
