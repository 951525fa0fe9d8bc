"""The conformance kit for personal models: what a client does follows from the models it is given alone.

``fedtoll check-personal-model X`` prints what ``conform`` returns. In your own tests::

    from fedtoll.clients.personal_models.conformance import assert_conforms

    def test_mine():
        assert_conforms(Mine(share=0.3))

The kit takes several clients through rounds. In place of DP-SGD it adds random numbers to the models that are
trained, and it records what each method was given and returned. The engine charges the steps that a class
declares and shows its methods nothing but models, so a class spends no more than ε, whatever it returns; the
gate measures the engine. What the kit finds is what makes results wrong: other shapes, a memory besides the
model that is kept, or a result that differs when a message is repeated. It also finds a class that looks for
records elsewhere in the process: a client's steps are run twice, on other records but with the same trained
models, and nothing that leaves a method may differ.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedtoll.clients.engines.base import Job, Task, Trained
from fedtoll.clients.personal import asked, task_of, train_together
from fedtoll.clients.personal_models.base import Model, PersonalModel
from fedtoll.clients.personal_models.registry import REGISTRY, declared
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.foreign import contained
from fedtoll.scenarios.run import ClientPlan, Run
from fedtoll.scenarios.verdicts import Verdict, assert_none_failed, judge

SHAPES = (((1, 5), (1,)), ((4, 3), (4,), (2, 4), (2,)))
"""The parameter arrays of a linear model and of one with a hidden layer."""

CLIENTS, ROUNDS = 3, 4

METHODS = ("begin", "send", "own_begin", "keep", "score")


@dataclass(frozen=True)
class Call:
    """One call of a method: the arguments, and what was returned."""

    name: str
    given: tuple[Model | None, ...]
    returned: list[NDArray[Any]]

    def again(self, method: PersonalModel) -> list[NDArray[Any]]:
        """Return what the method returns now for the same arguments."""
        return asked(method, self.name, *self.given, like=self.returned)


@dataclass
class Walk:
    """What clients did in several rounds."""

    method: PersonalModel
    calls: list[Call] = field(default_factory=list)

    def ask(self, name: str, *given: Model | None, like: Model) -> list[NDArray[Any]]:
        """Call a method, and record what it returns."""
        returned = asked(self.method, name, *given, like=like)
        kept = tuple(model if model is None else [np.array(x) for x in model] for model in given)
        self.calls.append(Call(name, kept, [x.copy() for x in returned]))
        return returned


def walks(method: PersonalModel, seed: int) -> Iterator[Walk]:
    """Take clients through some rounds of a linear model in float32, and of a larger one in float64."""
    rng = np.random.default_rng(seed)
    for shapes, precision in zip(SHAPES, (np.float32, np.float64), strict=True):

        def noisy(model: Model, kind: Any = precision) -> list[NDArray[Any]]:
            return [x + rng.standard_normal(x.shape).astype(kind) for x in model]

        walk = Walk(method)
        sent = noisy([np.zeros(shape, dtype=precision) for shape in shapes])
        kept: list[Model] = [sent] * CLIENTS
        for _ in range(ROUNDS):
            messages = []
            for client in range(CLIENTS):
                trained = noisy(walk.ask("begin", sent, kept[client], like=sent))
                own = None
                if method.own_steps != 0:
                    own = noisy(walk.ask("own_begin", sent, kept[client], like=sent))
                messages.append(walk.ask("send", trained, sent, like=sent))
                kept[client] = walk.ask("keep", trained, own, sent, like=sent)
                walk.ask("score", kept[client], sent, like=sent)
            sent = [np.mean(arrays, axis=0, dtype=precision) for arrays in zip(*messages, strict=True)]
        yield walk


def _equal(a: Model, b: Model) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


Complaints = Iterator[str]


def _parameters(method: PersonalModel, seed: int) -> Complaints:
    """Parameters are the fields of a frozen dataclass, and can be written in a scenario file."""
    cls = type(method)
    try:
        values = REGISTRY.check(cls, vars(method))
        if cls(**values) != method:
            yield "a personal model with the same parameters is not equal to it"
    except ScenarioError as error:
        yield str(error)


def _declared(method: PersonalModel, seed: int) -> Complaints:
    """Own steps are a whole number or None, and pulls are finite numbers of 0 or more."""
    try:
        found = [(declared(method), method.pull, method.own_pull) for _ in range(3)]
    except ScenarioError as error:
        yield str(error)
        return
    if any(each != found[0] for each in found):
        yield "own_steps, pull or own_pull differ from one reading to the next"


def _models(method: PersonalModel, seed: int) -> Complaints:
    """Every method returns a finite model of the shapes it was given, and writes into none."""
    for walk in walks(method, seed):
        for call in walk.calls:
            if not all(np.isfinite(x).all() for x in call.returned):
                yield f"{call.name} returned numbers that are not finite"


def _pure(method: PersonalModel, seed: int) -> Complaints:
    """Equal arguments give equal results, and the personal model itself does not change."""
    before = copy.deepcopy(vars(method))
    for walk in walks(method, seed):
        for call in walk.calls:
            if not _equal(call.again(method), call.again(method)):
                yield f"{call.name}: two calls with the same arguments differ"
    if vars(method) != before:
        yield "it keeps something besides its parameters; memory belongs in the model that a client keeps"


def _memory(method: PersonalModel, seed: int) -> Complaints:
    """No call depends on other clients or on calls before it, but by its arguments."""
    for walk in walks(method, seed):
        for call in reversed(walk.calls):
            if not _equal(call.again(method), call.returned):
                yield f"{call.name}: depends on calls before it, not on its arguments alone"


@dataclass(frozen=True)
class _Public:
    """What the engine's way round a method reads of a run."""

    method: PersonalModel
    personal: bool = True
    learning_rate: float = 0.5

    def own_steps(self, client: ClientPlan) -> int:
        """Return the declared own steps."""
        return client.steps if self.method.own_steps is None else self.method.own_steps


@dataclass
class _Blind:
    """An engine that trains on no record: it adds random numbers, whatever clients hold."""

    rng: np.random.Generator
    name: str = "blind"

    def train(self, run: Run, tasks: Sequence[Task]) -> list[Trained]:
        """Return the parameters of every task, with numbers added."""
        return [
            Trained([x + self.rng.standard_normal(x.shape) for x in task.parameters], task.plan.steps)
            for task in tasks
        ]

    def train_together(self, jobs: Sequence[Job]) -> list[list[Trained]]:
        """Train several runs, one after another."""
        return [self.train(run, tasks) for run, tasks in jobs]


def _steps(method: PersonalModel, seed: int, record: float) -> Iterator[tuple[str, list[NDArray[Any]]]]:
    """Take a client through rounds as the engine does, and yield what it sends, keeps and is scored by."""
    run: Any = _Public(method)
    engine = _Blind(np.random.default_rng(seed))
    constants: Any = {"sampling_rate": 0.5, "batch_size": 4.5, "steps": 2, "noise_multiplier": 1.0}
    client = ClientPlan(id=0, group="", size=9, **constants)
    kept: Model = [np.zeros(shape) for shape in SHAPES[1]]
    sent = kept
    features, codes = torch.full((9, 3), record), torch.full((9,), int(record > 0))
    for round in range(1, ROUNDS + 1):
        usual = Task(client, round, sent, features, codes, groups_N=codes)
        task = task_of(run, method, kept, usual)
        ((result,),) = train_together(engine, [(run, [task])])
        assert result.own is not None
        scored = asked(method, "score", result.own, task.sent, like=task.sent)
        sent, kept = result.trained.parameters, result.own
        for name, model in (("sends", sent), ("keeps", kept), ("is scored by", scored)):
            yield name, [np.array(x) for x in model]


def _unseen(method: PersonalModel, seed: int) -> Complaints:
    """With the same trained models, what a client sends and keeps does not change with its records."""
    first, second = ([*_steps(method, seed, record)] for record in (-1.0, 7.0))
    for (name, one), (_, other) in zip(first, second, strict=True):
        if not _equal(one, other):
            yield f"what a client {name} depends on its records, not on trained models alone"


PROPERTIES: dict[str, Callable[[PersonalModel, int], Complaints]] = {
    "parameters checked": _parameters,
    "steps and pulls declared": _declared,
    "models": _models,
    "same inputs, same outputs": _pure,
    "no other memory": _memory,
    "no record seen": _unseen,
}
"""The properties that are judged, by name."""


def conform(method: PersonalModel, *, seed: int = 0) -> list[Verdict]:
    """Run the kit on a personal model.

    Parameters
    ----------
    method
        An instance, with its parameters.
    seed
        Seed of the synthetic models.

    Returns
    -------
    list of Verdict
        One per property, in the order of ``PROPERTIES``, and what was measured.
    """
    with contained(), np.errstate(all="ignore"):
        verdicts = [judge(name, property_, method, seed) for name, property_ in PROPERTIES.items()]
        if all(v.outcome == "passed" for v in verdicts):
            verdicts += _shown(method, seed)
    return verdicts


def _shown(method: PersonalModel, seed: int) -> list[Verdict]:
    """Return what was measured: the steps, what stays with the client, and which strategies go with it."""
    steps = "as many as those that are sent" if method.own_steps is None else str(method.own_steps)
    sends = [call for walk in walks(method, seed) for call in walk.calls if call.name == "send"]
    stays = [_stays([call for call in sends if len(call.returned) == len(shapes)]) for shapes in SHAPES]
    strategies = "all" if method.usual else "those whose weights follow from public facts"
    return [
        Verdict("own steps a round", "shown", steps),
        Verdict("arrays that stay", "shown", " and ".join(stays)),
        Verdict("strategies", "shown", strategies),
    ]


def _stays(calls: Sequence[Call]) -> str:
    """Return how many arrays of a model are sent back as the server sent them."""
    pairs = [zip(call.returned, call.given[1] or (), strict=True) for call in calls]
    same = [[np.array_equal(x, y) for x, y in pair] for pair in pairs]
    return f"{sum(map(all, zip(*same, strict=True)))} of {len(same[0])}"


def assert_conforms(method: PersonalModel, *, seed: int = 0) -> None:
    """Raise an AssertionError that lists every property that the personal model fails."""
    assert_none_failed(method, conform(method, seed=seed))
