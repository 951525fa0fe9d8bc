"""(f) the limit: only the operations that DP-SGD cannot do without, on one core.

These are the matrix products of the forward and backward pass, at the expected batch of every client and
step, and one normal draw for every parameter of every client and step. Left out: gathering of rows, norms,
clipping, activations, biases, updates, random masks and allocation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks import measure, work
from fedtoll.clients import model
from fedtoll.scenarios.run import Run

Product = Callable[[int], object]
"""A matrix product of one step, of the number of clients that are active."""


class Limit:
    """The matrix products and the normal draws of one round."""

    def __init__(self, run: Run) -> None:
        torch.set_num_threads(1)
        tasks = work.tasks(run, round=1)
        module = model.build(run.model, tasks[0].features_ND.shape[1], run.classes, run.precision)
        self._parameters = sum(p.numel() for p in module.parameters())
        layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
        steps = sorted((t.plan.steps for t in tasks), reverse=True)
        self._active = [sum(s > step for s in steps) for step in range(steps[0])]
        rows = round(max(t.plan.batch_size for t in tasks))
        self._products = [
            product
            for x in layers
            for product in _products(x.in_features, x.out_features, len(tasks), rows, first=x is layers[0])
        ]
        self._noise = torch.empty(len(tasks), self._parameters)
        self._generator = torch.Generator()

    def round(self) -> float:
        """Return the seconds of products and draws of one round."""
        return self.products() + self.draws()

    def products(self) -> float:
        """Return the seconds of the matrix products alone."""
        with measure.one_core(), torch.no_grad():
            return measure.seconds(lambda: [run(k) for k in self._active for run in self._products])

    def draws(self) -> float:
        """Return the seconds of the normal draws alone."""
        with measure.one_core():
            return measure.seconds(
                lambda: [self._noise[:k].normal_(generator=self._generator) for k in self._active]
            )


def _products(inputs: int, outputs: int, clients: int, rows: int, *, first: bool) -> list[Product]:
    """Return the products of one layer: outputs, gradient of the weights and gradient of the inputs."""
    a, z = torch.randn(clients, rows, inputs), torch.randn(clients, rows, outputs)
    d = torch.randn_like(z)
    weight, gradient = torch.randn(clients, outputs, inputs), torch.empty(clients, outputs, inputs)
    before = torch.empty_like(a)
    products: list[Product] = [
        lambda k: torch.bmm(a[:k], weight[:k].mT, out=z[:k]),
        lambda k: torch.bmm(d[:k].mT, a[:k], out=gradient[:k]),
    ]
    if not first:  # the records need no gradient
        products.append(lambda k: torch.bmm(d[:k], weight[:k], out=before[:k]))
    return products
