"""(b) sequential Opacus and (d) the cohort engine: the same run in this process, on one core and thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal
from unittest import mock

import torch

from benchmarks import measure, work
from benchmarks.synthetic import reseeded
from fedtoll.clients.engines.base import Job, Trained
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import ClientPlan, Run
from fedtoll.server.trainer import Trainer


class InProcess:
    """One engine on one core: whole runs, and the training of single rounds.

    Every repetition has its own seed, so that the cohort engine cannot reuse cached draws. (In a sweep
    it can, because several runs share a seed.)
    """

    def __init__(self, run: Run, engine: Literal["opacus", "cohort"]) -> None:
        torch.set_num_threads(1)
        self.run = run.model_copy(update={"engine": engine})
        self.accuracy = 0.0
        self.training: list[float] = []
        self._trainer = Trainer(Federation.of(self.run))
        self._engine = self._trainer.clients.engine(self.run)
        self._tasks = work.tasks(self.run, round=1)
        self._engine.train(self.run, self._tasks[-1:])  # imports, hooks and caches
        self._seed = 1_000

    def whole(self) -> float:
        """Return the seconds of one whole run, including messages, evaluation, ledger and tables.

        Appends the seconds that the engine took to ``training``.
        """
        train, inside = self._engine.train_together, 0.0

        def timed(jobs: Sequence[Job]) -> list[list[Trained]]:
            nonlocal inside
            start = time.perf_counter()
            trained = train(jobs)
            inside += time.perf_counter() - start
            return trained

        run = self._fresh()
        self._trainer.clients.federation(run).records(
            run.seed
        )  # records are dealt before the clock starts, as with the peers
        with measure.one_core(), mock.patch.object(self._engine, "train_together", timed):
            took = measure.seconds(lambda: self._simulate(run))
        self.training.append(inside)
        return took

    def rounds(self, count: int) -> float:
        """Return the seconds of training one round: the mean of ``count`` rounds with a new seed.

        An uncounted round before them gathers the records of the seed, like the first round of every run.
        """
        run = self._fresh()
        with measure.one_core():
            self._engine.train(run, self._tasks)
            tasks = [[replace(t, round=1 + r) for t in self._tasks] for r in range(1, 1 + count)]
            return sum(measure.seconds(partial(self._engine.train, run, t)) for t in tasks) / count

    def group(self, size: int) -> float:
        """Return the seconds of training one round of several runs of one seed in step.

        Runs differ in σ, as those of another ε do. An uncounted round before gathers the seed's records.
        """
        run = self._fresh()
        with measure.one_core():
            self._engine.train(run, self._tasks)
            jobs = []
            for i in range(size):
                tasks = [replace(t, round=2) for t in self._tasks]
                jobs.append((run.local, [replace(t, plan=_noisier(t.plan, 1 + i / size)) for t in tasks]))
            return measure.seconds(partial(self._engine.train_together, jobs))

    def _fresh(self) -> Run:
        """Return the run with a new seed for noise and batches."""
        self._seed += 1
        return reseeded(self.run, self._seed)

    def _simulate(self, run: Run) -> None:
        groups = self._trainer.train(run)["groups"]
        last = groups[(groups["round"] == self.run.rounds) & (groups["group"] == "(all)")]
        self.accuracy = float(last["accuracy"].iloc[0])


def _noisier(plan: ClientPlan, factor: float) -> ClientPlan:
    return plan.model_copy(update={"noise_multiplier": plan.noise_multiplier * factor})
