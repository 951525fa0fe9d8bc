"""The reference engine: Opacus, one client at a time.

Opacus computes per-sample gradients, clips and sums them, adds noise and divides. It usually derives q, T and
the normaliser B from the data set; here they come from the client's public size. The noise comes from our
own stream for each (client, round, step) and is added by ``fedtoll.clients.noise``; sampling is Poisson.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from fedtoll.clients import model
from fedtoll.clients.clipping.steps import Steps
from fedtoll.clients.engines.base import Job, Task, Trained
from fedtoll.clients.engines.sampling import batches, begin, noise_generator, noise_keys
from fedtoll.clients.losses import per_example, positive
from fedtoll.clients.noise import noised
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.streams import Purpose, torch_seeds


class OpacusEngine:
    """DP-SGD by Opacus's ``GradSampleModule`` and ``DPOptimizer``; plain SGD at ε = ∞."""

    name = "opacus"

    def train(self, run: Run, tasks: Sequence[Task]) -> list[Trained]:
        """Train each client in turn."""
        with torch.random.fork_rng(devices=[]):  # building a module draws random numbers, and training it may
            module = model.build(run.model, tasks[0].features_ND.shape[1], run.classes, run.precision)
            private = run.mechanism != "none"
            if private:
                from opacus.grad_sample import GradSampleModule

                # torch warns Opacus's hooks that the inputs need no gradient, which is intended.
                warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
                module = GradSampleModule(module, loss_reduction="sum")
            module.train()
            return [self._train_one(run, task, module, private) for task in tasks]

    def train_together(self, jobs: Sequence[Job]) -> list[list[Trained]]:
        """Train several runs, one after another."""
        return [self.train(run, tasks) for run, tasks in jobs]

    def _train_one(self, run: Run, task: Task, module: nn.Module, private: bool) -> Trained:
        model.put(module, task.parameters)
        plan = task.plan
        parameters: list[Any] = list(module.parameters())
        anchor = [p.detach().clone() for p in parameters]
        if task.anchor is not None:
            anchor = [torch.from_numpy(np.asarray(x)) for x in task.anchor]
        optimizer: Any = torch.optim.SGD(parameters, lr=run.learning_rate, momentum=run.momentum)
        steps = Steps(run, task) if run.scales_gradients else None

        def proximal(_: object = None) -> None:
            if task.proximal_mu:
                for p, p0 in zip(parameters, anchor, strict=True):
                    p.grad = p.grad + task.proximal_mu * (p.detach() - p0)

        if private:
            optimizer = _private(optimizer, run, task)
            optimizer.steps = steps
            optimizer.attach_step_hook(proximal)  # after the noise, before the step
        purpose = Purpose.OWN_MODULE if task.own else Purpose.MODULE
        seeds = torch_seeds(run.seed, purpose, plan.id, task.round, steps=plan.steps)
        for rows, key, seed in zip(batches(run, task), noise_keys(run, task), seeds, strict=True):
            model.seed_torch(seed)  # for randomness inside the module, such as dropout
            optimizer.zero_grad()
            logits = module(task.features_ND[rows])
            losses = per_example(logits, task.labels_N[rows])
            if task.weights_N is not None:
                losses = losses * task.weights_N[rows]
            if task.score_weights_N is not None:
                losses = losses + task.score_weights_N[rows] * positive(logits)
            losses.sum().backward()  # type: ignore[no-untyped-call]
            if private:
                begin(optimizer.generator, key)
                optimizer.rows = rows
                optimizer.absent = _drop_non_finite(parameters)
            else:
                for p in parameters:
                    p.grad = p.grad / plan.batch_size
                proximal()
            optimizer.step()
        return Trained(model.get(module), plan.steps, *(() if steps is None else steps.outcome))


def refusal(module: nn.Module, inputs: int) -> str:
    """Return why DP-SGD cannot train a module, or an empty string.

    Per-example gradients require that an example's output does not depend on the rest of its batch. Opacus
    names the layers that it knows to mix examples; all other modules are tried on a batch of random records,
    in training and in evaluation mode.
    """
    from opacus.validators import ModuleValidator

    if errors := ModuleValidator.validate(module, strict=False):
        return " ".join(str(errors[0]).split())
    dtype = next(module.parameters()).dtype
    x = torch.randn(6, inputs, generator=torch.Generator().manual_seed(1), dtype=dtype)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for mode in (True, False):
            module.train(mode)
            together = _seeded(module, x)
            if mode and not torch.equal(together, _seeded(module, x, seed=1)):
                continue  # the module is random, as with dropout: compare in evaluation mode only
            try:
                separate = torch.cat([_seeded(module, x[i : i + 1]) for i in range(len(x))])
            except Exception as error:
                return f"it fails on a batch of one example: {' '.join(str(error).split())}"
            if together.shape != separate.shape or not torch.allclose(
                together, separate, rtol=1e-4, atol=1e-5
            ):
                return "an example's output depends on the other examples of its batch"
    return ""


def _seeded(module: nn.Module, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    model.seed_torch(seed)
    output: torch.Tensor = module(x)
    return output


def _private(sgd: torch.optim.Optimizer, run: Run, task: Task) -> Any:
    """Wrap SGD so that each step is (Σ clipped gradients + N(0, σ²C²)) / B, with B from the public size."""
    from opacus.optimizers import DPOptimizer

    class RoundedNoise(DPOptimizer):  # type: ignore[misc]
        """Opacus's optimizer, with noise that is drawn and added in float64, and rounded to a grid.

        A client-side mechanism, if there is one, takes the place of clipping.
        """

        steps: Steps | None = None

        def clip_and_accumulate(self) -> None:
            if self.steps is None:
                super().clip_and_accumulate()
                return
            samples = [g.flatten(1) for g in self.grad_samples]
            norms = torch.stack([g.norm(dim=1) for g in samples], dim=1).norm(dim=1)
            norms_N = norms.double().masked_fill(self.absent, math.inf).numpy()
            factors = torch.from_numpy(self.steps.factors(norms_N, self.rows)).to(norms)
            for p, g in zip(self.params, self.grad_samples, strict=True):
                p.summed_grad = torch.einsum("i,i...", factors, g)

        def add_noise(self) -> None:
            bound = self.max_grad_norm if self.steps is None else self.steps.bounds[-1]
            sd = self.noise_multiplier * bound
            for p in self.params:
                p.grad = p.summed_grad.view_as(p)
                if sd > 0:
                    normals = torch.from_numpy(self.generator.standard_normal(tuple(p.shape)))
                    p.grad = noised(p.grad.unsqueeze(0), normals.unsqueeze(0), [sd])[0].to(p.dtype)

    return RoundedNoise(
        sgd,
        noise_multiplier=task.plan.added_noise,
        max_grad_norm=run.clip,
        expected_batch_size=task.plan.batch_size,
        loss_reduction="mean",
        generator=noise_generator(),
    )


def _drop_non_finite(parameters: list[Any]) -> torch.Tensor:
    """Zero the gradients of examples that are not finite, so that these examples count as absent.

    Returns
    -------
    torch.Tensor
        Which examples are absent.
    """
    absent = ~torch.stack([torch.isfinite(p.grad_sample).flatten(1).all(1) for p in parameters]).all(0)
    if absent.any():
        for p in parameters:
            p.grad_sample[absent] = 0.0
    return absent
