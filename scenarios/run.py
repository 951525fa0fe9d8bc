"""One run: the training of one (strategy, ε, seed) of a scenario.

A :class:`Run` holds everything that the training depends on and nothing else. It
is sent to processes and clients as JSON, and its hash names its results.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from fedtoll.scenarios.budgets import Mechanism, budget_of
from fedtoll.scenarios.calibration import CalibrationPlan
from fedtoll.scenarios.choice import Choice
from fedtoll.scenarios.client import MechanismPlan
from fedtoll.scenarios.client_unit import Unit
from fedtoll.scenarios.data.config import WORDS, Data
from fedtoll.scenarios.fields import (
    Count,
    Noise,
    OnFailure,
    Positive,
    Rate,
    Section,
    without_default,
)
from fedtoll.scenarios.numbers import read_number, write_number
from fedtoll.scenarios.participation import Attendance, Participation
from fedtoll.scenarios.personal import PersonalPlan
from fedtoll.scenarios.scenario import Model, Partition, Split
from fedtoll.scenarios.schedule import CONSTANT, Schedule
from fedtoll.scenarios.shares import check_shares
from fedtoll.scenarios.statistics import STATISTICS, Statistic
from fedtoll.scenarios.trust import Trust

NUMERICS = 2
"""Incremented whenever a change in fedtoll's arithmetic changes a result; part of every hash."""

_LATER: dict[str, Any] = {
    "on_failure": "abort",
    "server_schedule": CONSTANT,
    "choice": None,
    "predictions": True,
    "timeout": None,
    "trust": "local",
    "colluding": 0,
    "participation": None,
    "client_mechanism": None,
    "start": "initial",
    "pull": 0.0,
    "unit": "record",
    "adaptive_clip": None,
    "personal": None,
    "calibration": None,
}
"""The defaults of keys that were added later: a run with them keeps its JSON and hash."""

_LATER_OF_CLIENTS: dict[str, Any] = {
    "epsilon_factor": 1.0,
    "rounds": None,
    "weight": None,
    "noise_share": None,
}
"""The same for the keys of a client."""

_Infinite = Annotated[
    float,
    BeforeValidator(read_number),
    PlainSerializer(write_number, when_used="json"),
]


class ClientPlan(Section):
    """The public facts of one client: every value is a constant of the plan.

    ``group`` is empty if it is not public. ``batch_size`` is DP-SGD's normaliser B = q·n (a real number),
    ``steps`` the number T of local steps per round, ``noise_multiplier`` σ in units of the clip.
    ``epsilon_factor`` is the share of the run's ε that the client may spend, ``rounds`` the number of rounds
    in which it takes part, if that may not be all.

    If the server sees sums only, ``noise_multiplier`` is σ of the sum, in units of its sensitivity: what is
    charged. ``weight`` is the client's weight in the sum, and ``noise_share`` the noise that the client adds
    itself, in units of the clip. If a client is the unit of privacy, both are about its clipped update.
    A client that releases counts with its gradients divides ``noise_multiplier`` among the two;
    ``noise_share`` is then that of the gradient, in units of its bound.
    """

    id: Annotated[int, Field(ge=0)]
    group: str
    size: Count
    sampling_rate: Rate
    batch_size: Positive
    steps: Count
    noise_multiplier: Noise
    epsilon_factor: Rate = 1.0
    rounds: Annotated[int, Field(ge=0)] | None = None
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    noise_share: Noise | None = None

    @property
    def added_noise(self) -> float:
        """The noise that the client itself adds to a sum of gradients, in units of the clip."""
        return self.noise_multiplier if self.noise_share is None else self.noise_share


class StatisticPlan(Section):
    """A statistic that every client releases with sd z · sensitivity.

    It is due in a client's first round, and in every ``every``-th of its rounds after that. If the server
    sees sums only, ``noise_multiplier`` is z of the sum, and ``noise_share`` the noise that each client adds
    itself, in units of the sensitivity.

    If a client is the unit of privacy, the sensitivity is ``client_bound``, the largest norm of all that a
    client adds to the sum; the statistic is due in round 1, and in every ``every``-th round after that,
    whoever takes part.
    """

    name: str
    parameters: dict[str, float]
    noise_multiplier: Noise
    every: Count = 1
    noise_share: Noise | None = None
    client_bound: Positive | None = None

    @property
    def added_noise(self) -> float:
        """The noise that a client itself adds, in units of the sensitivity."""
        return self.noise_multiplier if self.noise_share is None else self.noise_share

    def sensitivity(self, size: int) -> float:
        """Return the L2 sensitivity to one record of a client of this size, or to a whole client."""
        return self.declaration.sensitivity(size) if self.client_bound is None else self.client_bound

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a later key that has its default, so that older runs keep their JSON and hash."""
        return without_default(handler(self), noise_share=None, client_bound=None)

    def due(self, turn: int) -> bool:
        """Return whether a client releases the statistic in this one of its rounds, counted from 1."""
        return (turn - 1) % self.every == 0

    def releases(self, rounds: int) -> int:
        """Return the number of a client's releases in this many of its rounds."""
        return -(-rounds // self.every)

    @property
    def declaration(self) -> Statistic:
        """The public declaration, with shape and sensitivity."""
        return STATISTICS[self.name](**self.parameters)


class StrategyPlan(Section):
    """A resolved strategy: the path of its class, its parameters, and a digest of source outside fedtoll.

    ``revision`` counts the changes of what fedtoll's own strategies compute; the first is left out.
    """

    name: str
    path: str
    parameters: dict[str, Any]
    digest: str = ""
    revision: int = 1

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the first revision, so that strategies that never changed keep their JSON and hash."""
        return without_default(handler(self), revision=1)


class Run(Section):
    """Everything that one training depends on: frozen, convertible to and from JSON, hashed by content."""

    data: Data
    checksum: str
    split: Split
    partition: Partition
    model: Model
    model_digest: str = ""
    classes: int
    groups: tuple[str, ...]
    rounds: Count
    learning_rate: float
    clip: Positive | None
    engine: Literal["cohort", "opacus"]
    device: Literal["cpu", "cuda"]
    precision: Literal["float32", "float64"]
    mechanism: Mechanism
    epsilon: _Infinite
    delta: Annotated[float, Field(gt=0, lt=1)] | None
    accountant: Literal["pld", "rdp", "prv"] | None
    strategy: StrategyPlan
    statistics: tuple[StatisticPlan, ...]
    smoothing: float = 0.0
    shrinkage: bool = False
    average: bool = False
    server_schedule: Schedule = CONSTANT
    on_failure: OnFailure = "abort"
    clients: tuple[ClientPlan, ...]
    seed: int
    noise_seed: int
    numerics: int = NUMERICS
    choice: Choice | None = None
    predictions: bool = True
    timeout: float | None = None
    trust: Trust = "local"
    colluding: int = 0
    participation: Participation | None = None
    client_mechanism: MechanismPlan | None = None
    start: Literal["initial", "public"] = "initial"
    pull: float = 0.0
    unit: Unit = "record"
    adaptive_clip: float | None = None
    personal: PersonalPlan | None = None
    calibration: CalibrationPlan | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Run:
        """Reject a clip or noise that contradicts the mechanism: dp-sgd without noise, or noise elsewhere."""
        private, clipped = self.mechanism == "dp-sgd", self.mechanism != "none"
        noises = [c.noise_multiplier for c in self.clients] + [s.noise_multiplier for s in self.statistics]
        noises += [self.calibration.noise_multiplier] if self.calibration else []
        if (self.clip is not None) != clipped or any((z > 0) != private for z in noises):
            raise ValueError(f"mechanism {self.mechanism!r} does not go with this clip and noise")
        if self.choice is not None:
            if not private or self.accountant != "rdp":
                raise ValueError("choice: only dp-sgd under the accountant 'rdp' can pay for it")
            if len(self.choice.others) not in {0, 1, len(self.clients)}:
                raise ValueError(f"choice.others: not one entry for each of {len(self.clients)} clients")
        declared = self.partition.holders
        if declared and [(c.size, c.group) for c in self.clients] != [(h.size, h.group) for h in declared]:
            raise ValueError("clients: not those of partition.holders")
        check_shares(self)
        return self

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later keys that have their default, so that older runs keep their JSON and hash."""
        content = without_default(handler(self), **_LATER)
        for client in content["clients"]:
            for key, value in _LATER_OF_CLIENTS.items():
                if client[key] == value:
                    del client[key]
        return content

    def target_of(self, client: ClientPlan) -> float:
        """Return the ε that a client may spend in total."""
        return self.epsilon * client.epsilon_factor

    def rounds_of(self, client: ClientPlan) -> int:
        """Return the number of rounds in which a client takes part."""
        return self.rounds if client.rounds is None else client.rounds

    def own_steps(self, client: ClientPlan) -> int:
        """Return how many steps a client takes in a round besides those of what it sends."""
        return self.personal.extra_steps(client.steps) if self.personal else 0

    @property
    def attendance(self) -> Attendance:
        """Who takes part in which round; drawn anew at every call."""
        return Attendance.draw(self.participation, self.clients, self.rounds, self.seed)

    @property
    def hides_clients(self) -> bool:
        """Whether nobody but a trusted server knows who takes part, so that sampling clients amplifies."""
        return self.participation is not None and self.participation.kind == "poisson"

    def trained(self, client: ClientPlan) -> tuple[float, int]:
        """Return the sampling rate and the number of releases that one round of training is charged with.

        For records it is that of the client's batches and its steps; for clients, that of the clients and 1.
        """
        if self.unit == "record":
            return client.sampling_rate, client.steps
        return (self.participation and self.participation.rate) or 1.0, 1

    def due(self, round: int, turn: int) -> list[tuple[int, StatisticPlan]]:
        """Return the statistics, each with its index, that a client releases in a round, its ``turn``-th.

        Where a client is the unit, all take part in one sum, so that the round alone decides.
        """
        place = turn if self.unit == "record" else round
        return [(i, s) for i, s in enumerate(self.statistics) if s.due(place)]

    @property
    def local(self) -> Run:
        """The run as engines see it: without clip and noise for records, if a client is the unit."""
        return self if self.unit == "record" else self.model_copy(update={"mechanism": "none", "clip": None})

    @property
    def has_personal_budgets(self) -> bool:
        """Whether some clients may spend less than the run's ε."""
        return any(client.epsilon_factor != 1 for client in self.clients)

    @property
    def has_own_code(self) -> bool:
        """Whether the strategy, the model or what clients do is not fedtoll's or Flower's."""
        own = any(part is not None and part.digest for part in (self.client_mechanism, self.personal))
        return bool(self.strategy.digest or self.model_digest or own)

    @property
    def scales_gradients(self) -> bool:
        """Whether clients scale gradients in another way than plain DP-SGD does."""
        return self.client_mechanism is not None and bool(self.client_mechanism.path)

    @property
    def momentum(self) -> float:
        """The momentum of local SGD."""
        return 0.0 if self.client_mechanism is None else self.client_mechanism.momentum

    @property
    def guarantee(self) -> tuple[float, str]:
        """δ and the accountant; a run without noise has none of its own: δ = 0, ``"rdp"``."""
        return self.delta or 0.0, self.accountant or "rdp"

    def released(self, client: ClientPlan, statistic: StatisticPlan) -> tuple[int, ...]:
        """Return the shape of a client's release: if its group is public, of that group's cells alone.

        In a sum every client releases all cells, because each of them needs the whole noise.
        """
        shape = statistic.declaration.shape(len(self.groups), self.classes)
        return shape[1:] if client.group and self.trust == "local" else shape

    def to_json(self) -> str:
        """Return the run as JSON, without white space and with infinity as ``"inf"``.

        Keys keep their order, because the order of a user's columns and groups is the order of the features
        and of the groups' codes.
        """
        return json.dumps(self.model_dump(mode="json"), separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Run:
        """Parse the output of :meth:`to_json`."""
        return Run.model_validate_json(text)

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that cover everything that can change a number.

        Left out are the strategy's short name (an alias of the same class is the same run), the folder of a
        user's strategy, model or source file (the digest covers its content), the path of a user's table (the
        checksum covers its content), what is said about it, whether predictions are stored, and how long
        a round waits for replies.
        """
        content = self.model_dump(mode="json")
        content.pop("predictions", None)
        content.pop("timeout", None)
        del content["strategy"]["name"]
        content["strategy"]["path"] = self.strategy.path.rsplit("/", 1)[-1]
        content["model"]["kind"] = self.model.kind.rsplit("/", 1)[-1]
        if mechanism := content.get("client_mechanism"):
            del mechanism["name"]
            mechanism["path"] = mechanism["path"].rsplit("/", 1)[-1]
        if self.personal and not self.personal.built_in:
            del content["personal"]["kind"]
            content["personal"]["path"] = self.personal.path.rsplit("/", 1)[-1]
        content["data"]["file"] = ""
        content["data"]["source"] = self.data.source.rsplit("/", 1)[-1]
        for word in WORDS:
            (content["data"].get("own") or {}).pop(word, None)
        if self.split.validation:  # the rule that draws the public part; other runs keep their hash
            content["split"]["public"] = "of all records, the same for every seed"
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """Strategy, ε and seed in a few words, for people."""
        epsilon = budget_of(self.mechanism, self.epsilon)
        stated = epsilon if isinstance(epsilon, str) else "∞" if epsilon == math.inf else f"{epsilon:g}"
        return f"{self.strategy.name}, ε = {stated}, seed {self.seed}"
