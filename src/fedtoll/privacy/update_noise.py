"""The noise of training in a client's update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fedtoll.scenarios.run import ClientPlan, Run


def noise_variance(
    run: Run, client: ClientPlan, proximal_mu: float = 0.0, round: int = 1, bound: float | None = None
) -> float:
    """Return v_k, the variance of the noise in one coordinate of a client's update.

    T (η σ C / B)² for T steps of plain local SGD. FedProx's term shrinks the distance from the broadcast
    model by 1 − ημ at each step, including the noise of earlier steps: (η σ C / B)² Σ_{j<T} (1 − ημ)^{2j}.
    With momentum, the noise of a step enters all later ones: the factor is Σ_{j<T} x_j², where x_j is what is
    left, after j more steps, of a unit added in one. Derived here; all ignore the curvature of the loss.

    MR-MTL's clients go on from their own model, so its noise is that of the steps of all rounds so far, each
    shrunk by 1 − ηλ at every later step. The noise of the mean that they are pulled towards is left out.

    What a class of the user's sends has a noise that only the class knows, unless it is the usual.

    A client-side mechanism has another ``bound`` than C: the root mean square over steps that a client says.
    NaN if it is not known.
    """
    if bound is None:
        mechanism = run.client_mechanism
        known = mechanism is None or not mechanism.statistic_share or not client.added_noise
        bound = (run.clip or 0.0) if known else math.nan
    scale = run.learning_rate * client.added_noise * bound / client.batch_size
    steps = client.steps
    if run.personal is not None and not (run.personal.built_in or run.personal.usual):
        return math.nan
    if run.personal is not None and run.personal.kind == "mr-mtl":
        proximal_mu, steps = run.personal.mu(run.learning_rate), client.steps * round
    pull = run.learning_rate * proximal_mu
    if run.momentum:
        return scale**2 * sum(x**2 for x in _responses(run.momentum, pull, steps))
    decay = (1 - pull) ** 2
    return scale**2 * sum(decay**j for j in range(steps))


def _responses(momentum: float, pull: float, steps: int) -> list[float]:
    """Return what is left of a unit step after 0, 1, ... further steps."""
    found, place, velocity = [], 0.0, 1.0
    for _ in range(steps):
        place += velocity
        found.append(place)
        velocity = momentum * velocity - pull * place
    return found


def variances_of(
    run: Run, instructions: Mapping[str, Any], clients: Sequence[ClientPlan] | None = None, round: int = 1
) -> list[float]:
    """Return the variance of the noise in a coordinate of clients' updates, by default of all."""
    mu = instructions.get("proximal_mu", 0.0)
    return [noise_variance(run, c, mu, round) for c in (run.clients if clients is None else clients)]
