"""What a client does with a model of its own: how it trains it, keeps it, and sends it to be scored.

See :mod:`fedtoll.scenarios.personal` for the methods. The model is stored in Flower's state of the client,
so that it lasts from round to round on a node too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, RecordDict
from numpy.typing import NDArray

from fedtoll.clients import wire
from fedtoll.clients.engines.base import Engine, Job, Task, Trained
from fedtoll.clients.state import entered
from fedtoll.privacy.ledger import OWN, Release
from fedtoll.scenarios.run import Run

RECORD = "personal"
"""The name of the record of a reply with the client's own model. Only the experimenter's scoring reads it."""

KEPT = "fedtoll.personal"
"""The name of the record in a client's state with its own model."""

BEFORE = "fedtoll.personal.before"
"""The same before the last answered round, which a repeated message starts from."""

Model = Sequence[NDArray[np.floating]]


@dataclass(frozen=True)
class Result:
    """What a client has after a round: what it sends, its own model, and the steps of that model alone."""

    trained: Trained
    own: Model | None = None
    own_steps: int = 0


@dataclass(frozen=True)
class PersonalTask(Task):
    """A task of a client with a model of its own, which is ``kept``; ``sent`` is the server's model."""

    sent: Model = ()
    kept: Model = ()


def task(run: Run, state: RecordDict, usual: Task) -> Task:
    """Return how a client trains in a round, given its state and how it would without a model of its own.

    In its first round the client's own model is the server's.
    """
    personal = run.personal
    if personal is None:
        return usual
    sent = usual.parameters
    name = BEFORE if entered(state, usual.round) else KEPT
    kept: Model = wire.arrays(state.array_records[name]) if name in state else sent
    values = {field: getattr(usual, field) for field in Task.__dataclass_fields__}
    mine = PersonalTask(**values, sent=sent, kept=kept)
    if personal.kind == "mr-mtl":
        return replace(mine, parameters=kept, proximal_mu=personal.mu(run.learning_rate), anchor=sent)
    if personal.kind == "fedper":
        return replace(mine, parameters=_joined(sent, kept, personal.last or 0))
    return mine


def train_together(engine: Engine, jobs: Sequence[Job]) -> list[list[Result]]:
    """Return what the clients of several runs have after a round.

    What they send is trained first, by the same calls as without models of their own, and so with the same
    bits. Ditto's own models follow.
    """
    trained = engine.train_together(jobs)
    own = [i for i, (run, _) in enumerate(jobs) if run.personal is not None and run.personal.kind == "ditto"]
    second = engine.train_together([(jobs[i][0], _own_tasks(*jobs[i])) for i in own]) if own else []
    steps = dict(zip(own, second, strict=True))
    return [
        [
            _result(run, each, result, steps[i][k] if i in steps else None)
            for k, (each, result) in enumerate(zip(tasks, trained[i], strict=True))
        ]
        for i, (run, tasks) in enumerate(jobs)
    ]


def _own_tasks(run: Run, tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks that train the clients' own models, pulled towards the server's."""
    found: list[Task] = []
    for each in tasks:
        assert isinstance(each, PersonalTask)
        assert run.personal is not None
        found.append(
            replace(
                each,
                plan=each.plan.model_copy(update={"steps": run.own_steps(each.plan)}),
                parameters=each.kept,
                proximal_mu=run.personal.mu(run.learning_rate),
                anchor=each.sent,
                own=True,
                weights_N=None,
            )
        )
    return found


def _result(run: Run, each: Task, trained: Trained, own: Trained | None) -> Result:
    """Separate what a client sends from its own model."""
    if run.personal is None or not isinstance(each, PersonalTask):
        return Result(trained)
    if own is not None:
        return Result(trained, own.parameters, own.steps)
    if run.personal.kind == "fedper":  # the head that the server has stays as it is
        sent = _joined(trained.parameters, each.sent, run.personal.last or 0)
        return Result(replace(trained, parameters=list(sent)), trained.parameters)
    return Result(trained, trained.parameters)


def _joined(body: Model, head: Model, last: int) -> Model:
    """Return a model whose last arrays are those of ``head``, and the others those of ``body``."""
    first = len(body) - last
    return [*body[:first], *head[first:]]


def released(each: Task, result: Result) -> list[Release]:
    """Return the releases of the steps that trained the client's own model alone."""
    plan = each.plan
    if not result.own_steps:
        return []
    return [Release(plan.id, each.round, OWN, plan.sampling_rate, plan.noise_multiplier, result.own_steps)]


def keep(state: RecordDict, each: Task, result: Result) -> dict[str, Any]:
    """Store a client's own model, and return what its reply holds besides: the same, to be scored.

    The model is private: every gradient in it was noised and charged. A repeated message changes nothing.
    """
    if result.own is None or not isinstance(each, PersonalTask):
        return {}
    own = wire.encoded(result.own)
    if not entered(state, each.round):
        state[BEFORE], state[KEPT] = _stored(each.kept), own
    return {RECORD: own}


def _stored(model: Model) -> ArrayRecord:
    return wire.encoded([np.ascontiguousarray(x) for x in model])
