"""The reference engine: Opacus, one client at a time.

Opacus computes per-sample gradients, clips, sums, noises and divides. What
it derives from the data set elsewhere (q, T and the normaliser B) is given
here from the client's public size, the noise comes from our own stream for
each (client, round, step), and sampling is Poisson.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fedtoll.clients import model
from fedtoll.clients.engines.base import Task, Trained
from fedtoll.clients.engines.sampling import batches, noise_seeds
from fedtoll.clients.losses import per_example
from fedtoll.scenarios.run import Run


class OpacusEngine:
    """DP-SGD by Opacus's ``GradSampleModule`` and ``DPOptimizer``; plain SGD at ε = ∞."""

    name = "opacus"

    def train(self, run: Run, tasks: Sequence[Task]) -> list[Trained]:
        """Train each client in turn."""
        private = run.mechanism != "none"
        inputs = tasks[0].features_ND.shape[1]
        module = model.build(run.model, inputs, run.classes, run.precision)
        if private:
            from opacus.grad_sample import GradSampleModule

            # torch tells Opacus's hooks that inputs need no gradient: they do not.
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            module = GradSampleModule(module, loss_reduction="sum")
        return [self._train_one(run, task, module, private) for task in tasks]

    def _train_one(self, run: Run, task: Task, module: nn.Module, private: bool) -> Trained:
        model.put(module, task.parameters)
        plan = task.plan
        parameters: list[Any] = list(module.parameters())
        start = [p.detach().clone() for p in parameters]
        optimizer: Any = torch.optim.SGD(parameters, lr=run.learning_rate)

        def proximal(_: object = None) -> None:
            if task.proximal_mu:
                for p, p0 in zip(parameters, start, strict=True):
                    p.grad = p.grad + task.proximal_mu * (p.detach() - p0)

        if private:
            optimizer = _private(optimizer, run, task)
            optimizer.attach_step_hook(proximal)  # after the noise, before the step
        for rows, noise_seed in zip(batches(run, task), noise_seeds(run, task), strict=True):
            optimizer.zero_grad()
            losses = per_example(module(task.features_ND[rows]), task.labels_N[rows])
            if task.weights_N is not None:
                losses = losses * task.weights_N[rows]
            losses.sum().backward()  # type: ignore[no-untyped-call]
            if private:
                optimizer.generator.manual_seed(noise_seed)
                _drop_non_finite(parameters)
            else:
                for p in parameters:
                    p.grad = p.grad / plan.batch_size
                proximal()
            optimizer.step()
        return Trained(model.get(module), plan.steps)


def _private(sgd: torch.optim.Optimizer, run: Run, task: Task) -> Any:
    """Wrap SGD so that each step is (Σ clipped gradients + N(0, σ²C²)) / B, with B from the public size."""
    from opacus.optimizers import DPOptimizer

    return DPOptimizer(
        sgd,
        noise_multiplier=task.plan.noise_multiplier,
        max_grad_norm=run.clip,
        expected_batch_size=task.plan.batch_size,
        loss_reduction="mean",
        generator=torch.Generator(),
    )


def _drop_non_finite(parameters: list[Any]) -> None:
    """Zero the gradient of an example that is not finite, so that it counts as an example that is absent."""
    finite = torch.stack([torch.isfinite(p.grad_sample).flatten(1).all(1) for p in parameters]).all(0)
    if not finite.all():
        for p in parameters:
            p.grad_sample[~finite] = 0.0
