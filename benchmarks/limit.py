"""(f) the limit: what DP-SGD cannot do without, and nothing else, on one core.

The matrix products of forward and backward, at the sampling's expected batch for each client and step, and
one normal draw for every parameter of every client and step. No gathering of rows, no norms, no clipping,
no activations, no bias, no update, no random masks; into memory that is there already.
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
    """The matrix products and the draws of one round."""

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
    """Return one layer's products: its outputs, its weights' gradient and its inputs' gradient."""
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
