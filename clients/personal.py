"""What a client does with a model of its own: how it trains it, keeps it, and sends it to be scored.

See :mod:`fedtoll.clients.personal_models` for the methods. The model is stored in Flower's state of the
client, so that it lasts from round to round on a node too.
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
from fedtoll.clients.personal_models.base import PLAIN, Model, PersonalModel
from fedtoll.clients.personal_models.registry import built
from fedtoll.clients.state import entered
from fedtoll.privacy.ledger import OWN, Release
from fedtoll.scenarios.foreign import contained
from fedtoll.scenarios.run import Run

RECORD = "personal"
"""The name of the record of a reply with the model that scores the client. Only the experimenter reads it."""

KEPT = "fedtoll.personal"
"""The name of the record in a client's state with its own model."""

BEFORE = "fedtoll.personal.before"
"""The same before the last answered round, which a repeated message starts from."""


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
    method: PersonalModel = PLAIN


def task(run: Run, state: RecordDict, usual: Task) -> Task:
    """Return how a client trains in a round, given its state and how it would without a model of its own.

    In its first round the client's own model is the server's.
    """
    if run.personal is None:
        return usual
    method, sent = built(run.personal), usual.parameters
    name = BEFORE if entered(state, usual.round) else KEPT
    kept: Model = wire.arrays(state.array_records[name]) if name in state else sent
    return task_of(run, method, kept, usual)


def task_of(run: Run, method: PersonalModel, kept: Model, usual: Task) -> PersonalTask:
    """Return how a client trains that keeps a model of its own, given how it would without one."""
    sent = usual.parameters
    values = {field: getattr(usual, field) for field in Task.__dataclass_fields__}
    mine = PersonalTask(**values, sent=sent, kept=kept, method=method)
    if method.usual:
        return mine
    begin = asked(method, "begin", sent, kept, like=sent)
    return replace(mine, parameters=begin, proximal_mu=_mu(run, method.pull), anchor=sent)


def train_together(engine: Engine, jobs: Sequence[Job]) -> list[list[Result]]:
    """Return what the clients of several runs have after a round.

    What they send is trained first, by the same calls as without models of their own, and so with the same
    bits. The steps that train only own models follow.
    """
    trained = engine.train_together(jobs)
    own = [i for i, (run, tasks) in enumerate(jobs) if any(_own_steps(run, each) for each in tasks)]
    second = engine.train_together([(jobs[i][0], _own_tasks(*jobs[i])) for i in own]) if own else []
    steps = dict(zip(own, second, strict=True))
    return [
        [
            _result(each, result, steps[i][k] if i in steps else None)
            for k, (each, result) in enumerate(zip(tasks, trained[i], strict=True))
        ]
        for i, (_, tasks) in enumerate(jobs)
    ]


def _own_steps(run: Run, each: Task) -> int:
    return run.own_steps(each.plan) if run.personal else 0


def _own_tasks(run: Run, tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks of the steps that train only the clients' own models."""
    found: list[Task] = []
    for each in tasks:
        assert isinstance(each, PersonalTask)
        method = each.method
        found.append(
            replace(
                each,
                plan=each.plan.model_copy(update={"steps": run.own_steps(each.plan)}),
                parameters=asked(method, "own_begin", each.sent, each.kept, like=each.sent),
                proximal_mu=_mu(run, method.own_pull),
                anchor=each.sent,
                own=True,
                weights_N=None,
                score_weights_N=None,
            )
        )
    return found


def _mu(run: Run, pull: float) -> float:
    """Return the λ in force: a step pulls no further than to the server's model."""
    return min(pull, 1 / run.learning_rate)


def _result(each: Task, trained: Trained, own: Trained | None) -> Result:
    """Separate what a client sends from its own model."""
    if not isinstance(each, PersonalTask):
        return Result(trained)
    method, result = each.method, trained.parameters
    sent = result if method.usual else asked(method, "send", result, each.sent, like=each.sent)
    if own is None:
        kept = asked(method, "keep", result, None, each.sent, like=each.sent)
        return Result(replace(trained, parameters=sent), kept)
    kept = asked(method, "keep", result, own.parameters, each.sent, like=each.sent)
    return Result(replace(trained, parameters=sent), kept, own.steps)


def asked(method: PersonalModel, name: str, *given: Model | None, like: Model) -> list[NDArray[Any]]:
    """Return the model that a method returns, given models that it cannot write.

    Raises
    ------
    ValueError
        If it returns something else than arrays of the shapes of the model ``like``.
    """
    with contained():
        found = getattr(method, name)(*(model if model is None else _readonly(model) for model in given))
    try:
        arrays = [np.array(x, dtype=y.dtype) for x, y in zip(found, like, strict=True)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} returned no model: {error}") from None
    for k, (x, y) in enumerate(zip(arrays, like, strict=True)):
        if x.shape != y.shape:
            raise ValueError(f"{name} returned array {k} of the shape {x.shape}, not {y.shape}")
    return arrays


def _readonly(model: Model) -> list[NDArray[Any]]:
    """Return copies that cannot be written: a view would lead to the memory of other clients' models."""
    copies = [np.array(x) for x in model]
    for copy in copies:
        copy.flags.writeable = False
    return copies


def released(each: Task, result: Result) -> list[Release]:
    """Return the releases of the steps that trained the client's own model alone."""
    plan = each.plan
    if not result.own_steps:
        return []
    return [Release(plan.id, each.round, OWN, plan.sampling_rate, plan.noise_multiplier, result.own_steps)]


def keep(state: RecordDict, each: Task, result: Result) -> dict[str, Any]:
    """Store a client's own model, and return what its reply holds besides: the model that scores it.

    Both are private: every gradient in them was noised and charged. A repeated message changes nothing.
    """
    if result.own is None or not isinstance(each, PersonalTask):
        return {}
    scored = asked(each.method, "score", result.own, each.sent, like=each.sent)
    if not entered(state, each.round):
        state[BEFORE], state[KEPT] = _stored(each.kept), _stored(result.own)
    return {RECORD: wire.encoded(scored)}


def _stored(model: Model) -> ArrayRecord:
    return wire.encoded([np.ascontiguousarray(x) for x in model])
