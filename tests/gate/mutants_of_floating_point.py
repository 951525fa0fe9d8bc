"""Broken floating point: noise from few random bits, and releases that are not rounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

import torch

from fedtoll.clients import mechanisms, noise
from fedtoll.clients.engines import cohort, draws, opacus
from fedtoll.clients.engines.base import Task
from fedtoll.scenarios.run import Run
from tests.gate.mutants import mutant, optimizer


@mutant("the noise is drawn and added in float32, by torch's own generator, without rounding")
def noise_of_float32() -> list[Any]:
    def float32(like: torch.Tensor, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.empty_like(like, dtype=torch.float32).normal_(generator=generator)

    def normals(run: Run, tasks: Sequence[Task], parameters: Any, kept: Any) -> Iterator[list[torch.Tensor]]:
        for step, drawn in enumerate(draws.normals(run, tasks, parameters, kept)):
            seeds = [hash((run.noise_seed, t.plan.id, t.round, step)) % 2**32 for t in tasks]
            yield [
                torch.stack([float32(z, seed + i) for z, seed in zip(x, seeds, strict=False)]).double()
                for i, x in enumerate(drawn)
            ]

    def change(dp: Any, run: Run, task: Task) -> None:
        class Drawn:
            """A generator of torch's normals."""

            bit_generator = dp.generator.bit_generator

            def standard_normal(self, shape: Any) -> Any:
                seed = int(self.bit_generator.random_raw() % 2**32)
                return float32(torch.empty(shape), seed).double().numpy()

        dp.generator = Drawn()

    return [patch.object(cohort, "normals", normals), optimizer(change), *releases_not_rounded()]


@mutant("releases are not rounded: the last bits of float64 depend on the exact value")
def releases_not_rounded() -> list[Any]:
    return [patch.object(noise, "grid_step", lambda sd: 0.0)]


@mutant("updates are rounded, statistics are not")
def statistics_not_rounded() -> list[Any]:
    return [patch.object(mechanisms, "noised", _exact)]


@mutant("statistics are rounded, updates are not")
def updates_not_rounded() -> list[Any]:
    return [patch.object(owner, "noised", _exact) for owner in (cohort, opacus)]


@mutant("the grid is as fine as the last bits of float64")
def grid_too_fine() -> list[Any]:
    original = noise.grid_step
    return [patch.object(noise, "grid_step", lambda sd: original(sd) / 2**30)]


def _exact(*args: Any) -> torch.Tensor:
    with patch.object(noise, "grid_step", lambda sd: 0.0):
        return noise.noised(*args)
