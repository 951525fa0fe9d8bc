"""A model trained on public records: where a run starts, and what its model is pulled back to.

The records of ``split.validation`` are declared public: no client holds them and no seed tests on them. What
follows from them alone costs no privacy, and neither does moving a released model towards it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedtoll.clients import losses, model, wire
from fedtoll.scenarios.errors import DivergedError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run

PENALTY = 1e-3
"""Weight of the squared norm of the public model, so that a small public part determines it."""

ITERATIONS = 200
"""The most iterations of L-BFGS."""

Model = list[NDArray[np.floating]]


def start(run: Run, federation: Federation) -> Model:
    """Return the model that round 1 broadcasts: the module's initial one, or one trained on public records.

    Raises
    ------
    DivergedError
        If the public model is not finite.
    """
    features = federation.table.features.shape[1]
    initial = model.initial(run.model, features, run.classes, run.precision, run.seed)
    return initial if run.start == "initial" else _trained(run, federation, initial)


def _trained(run: Run, federation: Federation, initial: Model) -> Model:
    """Return the model that fits the public records best, from the initial one, by L-BFGS in float64."""
    records = federation.records(run.seed)
    rows = records.validation
    features = torch.from_numpy(records.table.features[rows]).double()
    labels = torch.from_numpy(records.table.label[rows])
    module = model.build(run.model, features.shape[1], run.classes, "float64").eval()
    model.put(module, [a.astype(np.float64) for a in initial])
    parameters = list(module.parameters())
    optimizer = torch.optim.LBFGS(parameters, max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimizer.zero_grad()
        penalty = sum(p.square().sum() for p in parameters)
        total = losses.per_example(module(features), labels).mean() + PENALTY / 2 * penalty
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = [a.astype(run.precision) for a in model.get(module)]
    if not all(np.isfinite(a).all() for a in found):
        raise DivergedError("training.start = 'public': the model trained on public records is not finite")
    return found


def pulls(strategy: Any, run: Run, prior: Model) -> None:
    """Let the new model of every round move back towards a prior: w ← (1 − λ) w + λ w_pub.

    ``strategy`` is a Flower strategy, fedtoll's own as Flower drives them or another.

    It is the step of a squared distance to the prior with weight λ (Berrada et al. 2023, arXiv 2308.10888,
    find such priors to narrow disparities; this rule is fedtoll's own).
    """
    if not run.pull:
        return
    aggregate = strategy.aggregate_train

    def aggregate_train(server_round: int, replies: Any) -> tuple[Any, Any]:
        arrays, metrics = aggregate(server_round, replies)
        if arrays is None:
            return None, metrics
        moved = [
            (w + run.pull * (public.astype(np.float64) - w)).astype(w.dtype)
            for w, public in zip(wire.arrays(arrays), prior, strict=True)
        ]
        return wire.encoded(moved), metrics

    strategy.aggregate_train = aggregate_train
