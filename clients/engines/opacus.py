"""The reference engine: Opacus, one client at a time.

Opacus computes per-sample gradients, clips and sums them, adds noise and divides. It usually derives q, T and
the normaliser B from the data set; here they come from the client's public size. The noise comes from our
own stream for each (client, round, step) and is added by ``fedtoll.clients.noise``; sampling is Poisson.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
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
from fedtoll.scenarios.errors import RunError
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
                _check_counts(parameters, len(rows))
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

    DP-SGD clips the gradient of each record. So what Opacus takes for the gradient of an example must depend
    on one record alone, and on all of it. Opacus names the layers that it knows to mix examples. All modules
    are also tried on a batch of random records: in training mode, each layer must see as many examples as
    there are records, and replacing one record must change no other's gradient. As far as the module is not
    random, each record must also get the same outputs and gradients in a batch as alone. Opacus's hooks stay
    in the module: train another one.
    """
    from opacus.grad_sample import GradSampleModule
    from opacus.validators import ModuleValidator

    if errors := ModuleValidator.validate(module, strict=False):
        return " ".join(str(errors[0]).split())
    dtype = next(module.parameters()).dtype
    x_BD, other_BD = torch.randn(2, 6, inputs, generator=torch.Generator().manual_seed(1), dtype=dtype)
    warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
    with torch.random.fork_rng(devices=[]):
        tried = GradSampleModule(module, loss_reduction="sum")
        tried.train()
        try:
            for seed in range(3):
                _check_others_stay(tried, x_BD, other_BD, seed)
            for layer in tried.modules():
                if isinstance(layer, nn.modules.dropout._DropoutNd):
                    layer.eval()
            if torch.equal(*(_gradients(tried, x_BD, seed) for seed in (0, 1))):  # not random otherwise
                _check_alone(lambda x_BD: _gradients(tried, x_BD, 0), x_BD)
            with torch.no_grad():
                _check_empty(module.eval(), x_BD)
                _check_alone(lambda x_BD: _outputs(module.eval(), x_BD, 0), x_BD)
        except _MixesError as error:
            return str(error)
    return ""


_MIXED = "an example's output depends on the other examples of its batch"


class _MixesError(Exception):
    """The gradient of an example is not that of one record. The message says why."""


def _outputs(module: nn.Module, x_BD: torch.Tensor, seed: int) -> torch.Tensor:
    model.seed_torch(seed)
    outputs: torch.Tensor = module(x_BD)
    return outputs


def _gradients(module: Any, x_BD: torch.Tensor, seed: int) -> torch.Tensor:
    """Return what Opacus takes for the gradient of each example: ``[B, number of parameters]``."""
    module.zero_grad()
    logits = _outputs(module, x_BD, seed)
    if len(logits) != len(x_BD):
        raise _MixesError(f"it has {len(logits)} outputs for a batch of {len(x_BD)} examples")
    losses = per_example(logits, torch.zeros(len(x_BD), dtype=torch.int64))
    losses.sum().backward()  # type: ignore[no-untyped-call]
    found = []
    for name, p in module.named_parameters():
        where, count = name.removeprefix("_module."), _examples(p)
        if not count:
            raise _MixesError(f"its parameter {where} is not used")
        if count != len(x_BD):
            sees = f"the layer of {where} sees {count} examples in a batch of {len(x_BD)}"
            raise _MixesError(f"{sees}, so whole records would not be clipped")
        found.append(p.grad_sample.flatten(1))
    return torch.cat(found, dim=1).clone()


def _examples(parameter: Any) -> int:
    """Return for how many examples Opacus has a gradient of a parameter."""
    return 0 if parameter.grad_sample is None else len(parameter.grad_sample)


def _check_others_stay(module: Any, x_BD: torch.Tensor, other_BD: torch.Tensor, seed: int) -> None:
    """Raise if replacing one example of a batch changes the gradient of another one."""
    before_BP = _gradients(module, x_BD, seed)
    for i in range(len(x_BD)):
        changed_BD = x_BD.clone()
        changed_BD[i] = other_BD[i]
        after_BP = _gradients(module, changed_BD, seed)
        after_BP[i] = before_BP[i]
        if not _close(before_BP, after_BP):
            raise _MixesError(_MIXED)


def _check_alone(compute: Callable[[torch.Tensor], torch.Tensor], x_BD: torch.Tensor) -> None:
    """Raise if what is computed for an example of a batch is not what is computed for it alone."""
    together = compute(x_BD)
    try:
        alone = torch.cat([compute(x_BD[i : i + 1]) for i in range(len(x_BD))])
    except _MixesError:
        raise
    except Exception as error:
        raise _MixesError(f"it fails on a batch of one example: {' '.join(str(error).split())}") from None
    if together.shape != alone.shape or not _close(together, alone):
        raise _MixesError(_MIXED)


def _check_empty(module: nn.Module, x_BD: torch.Tensor) -> None:
    """Raise if a batch of no examples, which Poisson sampling may draw, is an error."""
    try:
        module(x_BD[:0])
    except Exception as error:
        raise _MixesError(f"it fails on an empty batch: {' '.join(str(error).split())}") from None


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * max(1.0, float(one.abs().max())))


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
                if sd != 0:
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


def _check_counts(parameters: list[Any], records: int) -> None:
    """Raise unless there is one gradient of every parameter for each record of a batch."""
    if any(_examples(p) != records for p in parameters):
        raise RunError("a gradient is not that of one record: the model mixes or splits examples")


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
