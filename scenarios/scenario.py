"""The schema of a scenario: one TOML file, one question.

Every section forbids unknown keys. :mod:`fedtoll.scenarios.read` reads a file
and turns every mistake in it into one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from fedtoll.scenarios.calibration import Calibration
from fedtoll.scenarios.calibration import check as check_calibration
from fedtoll.scenarios.claims import Claim, Setting, Source, consistent
from fedtoll.scenarios.client import Client
from fedtoll.scenarios.client import check as check_client
from fedtoll.scenarios.client_unit import Unit
from fedtoll.scenarios.compare import Compare
from fedtoll.scenarios.data.config import Data
from fedtoll.scenarios.errors import nearest
from fedtoll.scenarios.fields import (
    Count,
    Counts,
    Epsilon,
    OnFailure,
    Positive,
    Rate,
    Section,
    Seed,
    Seeds,
    only_with,
    without_default,
)
from fedtoll.scenarios.participation import Participation
from fedtoll.scenarios.personal import Personal
from fedtoll.scenarios.personal import check as check_personal
from fedtoll.scenarios.schedule import CONSTANT, Schedule
from fedtoll.scenarios.trust import Trust
from fedtoll.scenarios.trust import check as check_trust
from fedtoll.scenarios.tune import Tune
from fedtoll.scenarios.tune import check as check_tune


class Split(Section):
    """How records are held out: stratified folds (fold = seed mod ``folds``) or the source's own split.

    ``validation`` is the share of the records (with the source's own split, of its training part) that is
    declared public. It is the same for every seed: no client holds it and no seed tests on it.
    """

    kind: Literal["folds", "canonical"] = "folds"
    folds: Annotated[int, Field(strict=True, ge=2, le=100)] = 5
    validation: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0


class Holder(Section):
    """A client that holds records of its own: what it declares about them.

    Parameters
    ----------
    size
        Its declared number of records, which q, B and T follow from.
    group
        The group that all its records belong to; empty if they may be of any group.
    """

    size: Count
    group: str = ""


class Partition(Section):
    """How training records become clients.

    - ``group``: every client holds records of one group; ``clients`` is the number of clients per group
      (``"*"`` for groups not named; 1 by default); a client's group is public
    - ``column``: the same by the values of another attribute (``column = "state"``); groups are not public
    - ``iid``: records are dealt at random to ``clients`` (a number); with ``skew`` s > 0, client sizes are
      proportional to 1, 2^−s, 3^−s, ...
    - ``dirichlet``: each client's share of every group (or label: ``over``) is drawn from
      Dirichlet(``alpha``), with ``draw`` as the seed, and is the same in every run
    - ``shares``: a matrix of shares, with one row per client and one column per group
    - ``declared``: nothing is partitioned, because every client is a SuperNode with a file of its own
      records; ``holders`` declares them, and all records of ``data.file`` are held out

    ``keep``: the share of a group's training records that clients hold at all. ``copies``: the number of
    clients that hold each record; the ε of a record is then what all of them spend together.
    """

    kind: Literal["group", "column", "iid", "dirichlet", "shares", "declared"] = "group"
    clients: Counts = Field(default_factory=dict)
    column: str = ""
    skew: Annotated[float, Field(ge=0, le=10)] = 0.0
    alpha: Positive | None = None
    over: Literal["group", "label"] = "group"
    draw: Seed = 0
    shares: tuple[tuple[Annotated[float, Field(ge=0, le=1)], ...], ...] = ()
    keep: dict[str, Rate] = Field(default_factory=dict)
    copies: Count = 1
    holders: tuple[Holder, ...] = ()

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a later key that has its default, so that older runs keep their JSON and hash."""
        content: dict[str, Any] = handler(self)
        return content if self.holders else {k: v for k, v in content.items() if k != "holders"}

    @model_validator(mode="after")
    def _check(self) -> Partition:
        numbered = self.kind in {"iid", "dirichlet"}
        if self.kind != "shares" and numbered == isinstance(self.clients, dict):
            wanted = "a number" if numbered else "a table"
            raise ValueError(f"clients: must be {wanted} with kind = {self.kind!r}")
        for key, value, kind in (
            ("column", self.column, "column"),
            ("alpha", self.alpha, "dirichlet"),
            ("shares", self.shares, "shares"),
            ("holders", self.holders, "declared"),
        ):
            only_with(key, bool(value), self.kind == kind, f"kind = {kind!r}")
        if self.skew and self.kind != "iid":
            raise ValueError("skew: needs kind = 'iid'")
        if self.copies > 1 and self.kind in {"dirichlet", "shares"}:
            raise ValueError(f"copies: must be 1 with kind = {self.kind!r}")
        if self.kind == "declared" and (self.clients or self.keep or self.copies > 1):
            raise ValueError("clients, keep, copies: not with kind = 'declared', where holders say it all")
        if len({len(row) for row in self.shares}) > 1:
            raise ValueError("shares: rows have different lengths")
        for number, column in enumerate(zip(*self.shares, strict=True), 1):
            if abs(sum(column) - 1) > 1e-6:
                raise ValueError(f"shares: column {number} adds up to {sum(column):.6g}, not 1")
        return self


class Model(Section):
    """The model: ``logistic``, ``mlp`` with ``hidden`` layers, or a factory of the user's.

    A factory is ``file.py:factory`` or ``package.module:factory``.
    The path of a file starts at the folder where fedtoll runs, as that of a strategy does.
    """

    kind: str = "logistic"
    hidden: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Model:
        if self.kind not in {"logistic", "mlp"} and ":" not in self.kind:
            known = nearest(self.kind, ["logistic", "mlp"])
            raise ValueError(f"kind = {self.kind!r}: neither a model nor a 'file.py:factory'{known}")
        only_with("hidden", bool(self.hidden), self.kind == "mlp", "kind = 'mlp'", "hidden = [64, 32]")
        return self


class Training(Section):
    """Local training. Rates and steps refer to a client's *public* size n.

    Batches are Poisson samples. Give ``sampling_rate`` q or ``batch_size`` B = q·n, and ``local_steps`` T
    per round or ``local_epochs`` = T·q. ``engine = "auto"`` takes the cohort engine if it can train the
    model, else Opacus; ``device = "auto"`` takes a GPU if one is available. ``average``: evaluate and store
    the mean of the models of all rounds so far (Polyak and Juditsky 1992); clients continue from the last
    model. ``server_schedule``: the share of the aggregated update that the server takes in each round,
    ``constant`` (all of it), ``inverse-time(τ)`` or ``cosine``. ``start``: ``initial``, or a ``public``
    model, trained on the records of ``split.validation``; ``pull``: the share λ of the way back to the public
    model that the server goes after every round. ``on_failure``: a reply that is missing, failed, malformed
    or not finite ends the run (``abort``) or is left out of its round (``skip``), in which case it is still
    charged, and recorded. ``timeout``: seconds after which a reply over Flower counts as missing; 3,600 if
    not given.
    """

    rounds: Count
    learning_rate: Positive
    clip: Positive
    sampling_rate: Rate | None = None
    batch_size: Count | None = None
    local_steps: Count | None = None
    local_epochs: Positive | None = None
    engine: Literal["auto", "cohort", "opacus"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "float64"] = "float32"
    average: Annotated[bool, Field(strict=True)] = False
    server_schedule: Schedule = CONSTANT
    start: Literal["initial", "public"] = "initial"
    pull: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    on_failure: OnFailure = "abort"
    timeout: Positive | None = None

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later keys that have their default, so that older stored scenarios stay the same."""
        later = {"start": "initial", "pull": 0.0, "on_failure": "abort", "timeout": None}
        return without_default(handler(self), server_schedule=CONSTANT, **later)

    @model_validator(mode="after")
    def _check(self) -> Training:
        for a, b in (("sampling_rate", "batch_size"), ("local_steps", "local_epochs")):
            if (getattr(self, a) is None) == (getattr(self, b) is None):
                raise ValueError(f"{a}, {b}: give exactly one of them")
        return self


class Privacy(Section):
    """The budgets ε, each the *total* of a client over all rounds, statistics included.

    ``trust``: who sees what (:mod:`fedtoll.scenarios.trust`). ``colluding``: how many clients may tell the
    adversary their share of the noise under secure aggregation.
    ``unit``: what is protected, a record, or a client with all its records
    (:mod:`fedtoll.scenarios.client_unit`). ``adaptive_clip``: the quantile of the updates' norms that C
    follows, starting from ``training.clip``. ``weight_cap``: the largest weight, in units of the mean.
    ``epsilon_factor``: the share of ε that clients of a group, or a client, spend at most, by name; 1 for
    those not named. ε is then the most that any client spends.
    """

    epsilons: tuple[Epsilon, ...] = Field(min_length=1)
    delta: Annotated[float, Field(strict=True, gt=0, lt=1)] = 1e-5
    accountant: Literal["pld", "rdp", "prv"] = "pld"
    noise_seed: Seed | None = None
    epsilon_factor: dict[str, Rate] = Field(default_factory=dict)
    trust: Trust = "local"
    colluding: Annotated[int, Field(strict=True, ge=0)] = 0
    unit: Unit = "record"
    adaptive_clip: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    weight_cap: Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)] | None = None

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later keys that have their default, so that older stored scenarios stay the same."""
        later = {"unit": "record", "adaptive_clip": None, "weight_cap": None}
        return without_default(handler(self), epsilon_factor={}, trust="local", colluding=0, **later)

    @field_validator("epsilons")
    @classmethod
    def _distinct(cls, value: tuple[float | str, ...]) -> tuple[float | str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("the same ε twice")
        return value


class Statistics(Section):
    """How clients release the statistics that a strategy requests: noised, and charged to the same ε.

    Give ``noise_multiplier`` z (sd = z · sensitivity) or ``budget_share``, the share of ε that a client's
    statistics would spend on their own; the default is z = 100. Training gets the noise at which the total
    is ε. ``every``: rounds from one release to the next; in between, strategies see the last release.

    Post-processing improves releases at no cost: ``smoothing`` s is a moving average
    (s · previous + (1 − s) · new), ``shrinkage`` shrinks noisy scalars towards the clients' mean.

    Where a client is the unit of privacy, it counts as at most ``record_cap`` records in a sum over clients
    (by default as many as the largest public size), and the default is ``budget_share`` = 0.1
    (:mod:`fedtoll.scenarios.client_unit`).
    """

    noise_multiplier: Positive | None = None
    budget_share: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    every: Count = 1
    smoothing: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    shrinkage: Annotated[bool, Field(strict=True)] = False
    record_cap: Positive | None = None

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a later key that has its default, so that older stored scenarios stay the same."""
        return without_default(handler(self), record_cap=None)

    @model_validator(mode="after")
    def _check(self) -> Statistics:
        if self.noise_multiplier is not None and self.budget_share is not None:
            raise ValueError("noise_multiplier, budget_share: give at most one of them")
        return self


class StrategySpec(BaseModel):
    """A strategy by name, import path or ``file.py:Class``; all other keys are its parameters."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that the scenario states."""
        return dict(self.model_extra or {})

    @property
    def label(self) -> str:
        """The name and its stated parameters, e.g. ``term(t=5)``, as tables show them."""
        parameters = _join(self.parameters)
        short = self.name.rsplit(":", 1)[-1]
        return f"{short}({parameters})" if parameters else short


def _join(parameters: Mapping[str, Any]) -> str:
    """Return parameters on one line, by name: ``clip=1, t=5``."""
    return ", ".join(f"{name}={_format(value)}" for name, value in sorted(parameters.items()))


def _format(value: Any) -> str:
    """Write a parameter's value: a float in six digits where they are exact, else in all of them."""
    if isinstance(value, dict):
        return f"{{{_join(value)}}}"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


class Results(Section):
    """What the results folder holds.

    ``predictions``: whether the final score of every held-out record is stored, with its row, group and
    label. By default it is for a built-in source, whose records are public, and not for your own records.
    """

    predictions: Annotated[bool, Field(strict=True)] | None = None


class Scenario(Section):
    """One question: data, groups, partition, model, privacy budgets, strategies and seeds."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    title: str
    description: str = ""
    seeds: Seeds
    data: Data
    split: Split = Split()
    partition: Partition = Partition()
    model: Model = Model()
    training: Training
    client: Client = Client()
    participation: Participation = Participation()
    personal: Personal | None = None
    privacy: Privacy
    statistics: Statistics = Statistics()
    calibration: Calibration | None = None
    strategies: tuple[StrategySpec, ...] = Field(min_length=1)
    compare: Compare | None = None
    source: Source | None = None
    setting: tuple[Setting, ...] = ()
    claim: tuple[Claim, ...] = ()
    tune: Tune | None = None
    results: Results = Results()

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a later section that has its default, so that older stored scenarios stay the same."""
        sections = {"results": Results(), "participation": Participation(), "client": Client()}
        later = {name: section.model_dump() for name, section in sections.items()}
        return without_default(handler(self), personal=None, calibration=None, **later)

    @property
    def keeps_predictions(self) -> bool:
        """Whether the score of every held-out record is stored."""
        stated = self.results.predictions
        return not self.data.is_own if stated is None else stated

    @model_validator(mode="after")
    def _check(self) -> Scenario:
        consistent(self.source, self.setting, self.claim, self.tune)
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: the same seed twice")
        known: dict[str, StrategySpec] = {}
        for spec in self.strategies:
            other = known.setdefault(spec.label, spec)
            if other.name != spec.name:
                both = f"{other.name!r} and {spec.name!r}"
                raise ValueError(
                    f"strategies: {both} are both called {spec.label} in tables; rename one class"
                )
            if other is not spec:
                raise ValueError(f"strategies: {spec.label} appears twice")
        if self.partition.kind == "declared":
            self._check_declared()
        check_trust(self)
        check_client(self)
        check_personal(self)
        check_tune(self)
        check_calibration(self)
        return self

    def _check_declared(self) -> None:
        if not self.data.file:
            raise ValueError("partition.kind: 'declared' needs data.file, the table that is held out")
        if self.data.floor:
            raise ValueError(
                "data.floor: must be 0 with partition.kind = 'declared'; nobody counts the records"
            )
        if self.split != Split():
            raise ValueError("split: not with partition.kind = 'declared'; all of data.file is held out")
