"""Broken models of clients' own. Client and server are broken alike, so that neither refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from fedtoll.clients import personal, train
from fedtoll.clients.engines import sampling
from fedtoll.clients.engines.base import Task
from fedtoll.clients.personal import PersonalTask, Result
from fedtoll.privacy import constants, ledger
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.personal import Personal, PersonalPlan
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.streams import Purpose
from fedtoll.server import personal as server
from fedtoll.server import strict
from fedtoll.server.evaluate import HeldOut
from tests.gate.mutants import mutant, noising


def _trained(change: Any) -> list[Any]:
    """Change what the clients of one or more runs have after a round."""
    original = personal.train_together

    def train_together(engine: Any, jobs: Any) -> Any:
        found = original(engine, jobs)
        return [
            [change(engine, run, task, result) for task, result in zip(tasks, results, strict=True)]
            for (run, tasks), results in zip(jobs, found, strict=True)
        ]

    return [patch.object(personal, "train_together", train_together)]


# What leaves a client.


@mutant("FedPer’s clients send their heads too, and the server averages them")
def heads_are_sent() -> list[Any]:
    def change(engine: Any, run: Run, task: Task, result: Result) -> Result:
        return result if run.own_steps(task.plan) else replace(result, trained=_whole(result))

    return _trained(change)


def _whole(result: Result) -> Any:
    return replace(result.trained, parameters=list(result.own or ()))


@mutant("the own model is sent as it would be without noise in this round")
def own_model_without_noise() -> list[Any]:
    def change(engine: Any, run: Run, task: Task, result: Result) -> Result:
        exact = run.model_copy(update={"mechanism": "clip-only"})
        work = personal._own_tasks(run, [task]) if run.own_steps(task.plan) else [task]
        return replace(result, own=engine.train(exact, work)[0].parameters)

    return _trained(change)


@mutant("the own model stays in the reply that strategies are shown")
def own_model_is_shown() -> list[Any]:
    original = server.taken

    def taken(run: Any, sent: Any, content: Any) -> Any:
        record = content.array_records[personal.RECORD]
        found = original(run, sent, content)
        content[personal.RECORD] = record
        return found

    def only(kind: Any, content: Any) -> Any:
        return next(record for record in content.values() if isinstance(record, kind))

    names = patch.object(strict, "_check_names", lambda content: None)
    return [patch.object(strict, "taken", taken), patch.object(train, "only", only), names]


# Noise, clipping and batches.


@mutant("the steps that train only the own model add a tenth of the noise")
def own_steps_with_less_noise() -> list[Any]:
    return noising(lambda run, task: 0.1 if task.own else 1.0)


@mutant("the noise is a tenth where clients keep models of their own")
def less_noise_with_own_models() -> list[Any]:
    return noising(lambda run, task: 0.1 if isinstance(task, PersonalTask) and not task.own else 1.0)


@mutant("both models of a client get the same noise, which cancels in their difference")
def own_noise_is_that_of_the_message() -> list[Any]:
    return [patch.object(sampling, "Purpose", _same("OWN_NOISE", Purpose.NOISE))]


@mutant("both models of a client are trained on the same batches, while the ledger charges two samples")
def own_batches_are_those_of_the_message() -> list[Any]:
    return [patch.object(sampling, "Purpose", _same("OWN_POISSON", Purpose.POISSON))]


def _same(name: str, purpose: Purpose) -> Any:
    return type("Streams", (), {**{p.name: p for p in Purpose}, name: purpose})


@mutant("gradients of the own model are clipped at 2 C, with the noise for C")
def own_gradients_clipped_at_two_C() -> list[Any]:
    def change(engine: Any, run: Run, task: Task, result: Result) -> Result:
        if not run.own_steps(task.plan):
            return result
        (own,) = personal._own_tasks(run, [task])
        halved = own.plan.model_copy(update={"noise_multiplier": own.plan.noise_multiplier / 2})
        loose = run.model_copy(update={"clip": 2 * (run.clip or 0)})
        return replace(result, own=engine.train(loose, [replace(own, plan=halved)])[0].parameters)

    return _trained(change)


# The ledger.


@mutant("neither client nor server charges the steps that train only the own model")
def own_steps_not_charged() -> list[Any]:
    return [
        patch.object(ledger, "owed_for_own", lambda *_: ()),
        patch.object(personal, "released", lambda *_: []),
    ]


@mutant("the noise is calibrated for the steps of what is sent only")
def own_steps_not_calibrated() -> list[Any]:
    original = constants.client_of

    def client_of(scenario: Any, *args: Any, **more: Any) -> Any:
        return original(scenario.model_copy(update={"personal": None}), *args, **more)

    return [patch.object(constants, "client_of", client_of)]


@mutant("the own model gets one step more than is charged")
def own_step_too_many() -> list[Any]:
    original = personal._own_tasks

    def tasks(run: Run, usual: Sequence[Task]) -> list[Task]:
        found = original(run, usual)
        return [replace(t, plan=t.plan.model_copy(update={"steps": t.plan.steps + 1})) for t in found]

    fewer = _trained(
        lambda engine, run, task, result: (
            replace(result, own_steps=result.own_steps - 1) if result.own_steps else result
        )
    )
    return [patch.object(personal, "_own_tasks", tasks), *fewer]


@mutant("what a plugged-in class says of its own steps is forgotten when noise is calibrated and charged")
def plugged_in_steps_are_free() -> list[Any]:
    steps, own = PersonalPlan.extra_steps, Run.own_steps
    owed, released = ledger.owed_for_own, personal.released

    def foreign(run: Run) -> bool:
        return run.personal is not None and not run.personal.built_in

    def own_steps(run: Run, client: Any) -> int:
        return (run.personal and run.personal.own_steps) or 0 if foreign(run) else own(run, client)

    return [
        patch.object(PersonalPlan, "extra_steps", lambda self, n: steps(self, n) if self.built_in else 0),
        patch.object(Run, "own_steps", own_steps),
        patch.object(ledger, "owed_for_own", lambda run, *rest: () if foreign(run) else owed(run, *rest)),
        patch.object(personal, "released", lambda t, r: [] if _plugged(t) else released(t, r)),
    ]


def _plugged(task: Task) -> bool:
    return isinstance(task, PersonalTask) and type(task.method).__module__.startswith("tests")


# What a client remembers.


@mutant("a client goes on from the own model of the client that trained before it")
def another_clients_own_model() -> list[Any]:
    original, last = personal.keep, dict[int, Any]()

    def keep(state: Any, task: Task, result: Result) -> Any:
        found = original(state, task, result)
        if task.plan.id == 0:
            last.clear()
        state[personal.KEPT] = last.get(task.round, state[personal.KEPT])
        last[task.round] = found[personal.RECORD]
        return found

    return [patch.object(personal, "keep", keep)]


@mutant("a client goes on from the model that scores it instead of the one that it keeps")
def score_is_kept() -> list[Any]:
    original = personal.keep

    def keep(state: Any, task: Task, result: Result) -> Any:
        found = original(state, task, result)
        state[personal.KEPT] = found[personal.RECORD]
        return found

    return [patch.object(personal, "keep", keep)]


@mutant("a client forgets its own model and begins every round with the server’s")
def own_model_forgotten() -> list[Any]:
    original = personal.task

    def task(run: Run, state: Any, usual: Task) -> Task:
        for name in (personal.KEPT, personal.BEFORE):
            state.pop(name, None)
        found: Task = original(run, state, usual)
        return found

    return [patch.object(personal, "task", task)]


@mutant("a repeated message trains the own model once more, with the batches and noise of the first time")
def own_model_moves_at_a_retry() -> list[Any]:
    return [patch.object(personal, "BEFORE", personal.KEPT)]


# The figures.


@mutant("groups are scored by the server’s model instead of the own models of their clients")
def scored_by_the_servers_model() -> list[Any]:
    original = HeldOut.probabilities
    return [patch.object(HeldOut, "probabilities", lambda self, model, own=None: original(self, model))]


@mutant("held-out records are dealt to clients of another kind")
def scored_by_other_clients() -> list[Any]:
    original = Federation.owners

    def owners(self: Federation, rows: Any, seed: int) -> Any:
        return np.asarray(len(self.layout.clients) - 1 - original(self, rows, seed))

    return [patch.object(Federation, "owners", owners)]


@mutant(
    "what Ditto’s clients spend on their own models is left out when rounds are planned, and of the ledger"
)
def personal_steps_are_free() -> list[Any]:
    return [
        *own_steps_not_charged(),
        patch.object(Personal, "extra_steps", lambda self, steps: 0),
        patch.object(
            Run, "own_steps", lambda self, client: (self.personal.steps or 0) if self.personal else 0
        ),
    ]
