"""The typed scenario: one TOML file, one question.

Every section forbids unknown keys. A mistake raises a
:class:`~fedtoll.scenarios.errors.ScenarioError` of one line that names the
file, the key, the value and the nearest right word.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from fedtoll.scenarios.errors import ScenarioError, nearest

CLIP_ONLY = "clip-only"


def _number(value: object) -> object:
    """Read ``"inf"`` as infinity and refuse what is neither a number nor that word."""
    if isinstance(value, str) and value.strip().lower() in {"inf", "infinity", "∞"}:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError('must be a number greater than 0, "inf" or "clip-only"')
    return float(value)


def _epsilon(value: object) -> object:
    if value == CLIP_ONLY:
        return value
    number = _number(value)
    assert isinstance(number, float)
    if math.isnan(number) or number <= 0:
        raise ValueError("must be greater than 0")
    return number


def _write_number(value: float | str) -> float | str:
    return "inf" if value == math.inf else value


Epsilon = Annotated[
    float | Literal["clip-only"],
    BeforeValidator(_epsilon),
    PlainSerializer(_write_number, when_used="json"),
]
"""A privacy budget: a number > 0, infinity (the non-private reference) or ``"clip-only"``."""

Count = Annotated[int, Field(strict=True, ge=1)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(strict=True, gt=0, le=1)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]


class Section(BaseModel):
    """A table of the scenario file: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(Section):
    """Which records, which subgroups of them, and which columns the model may not see."""

    source: str
    groups: tuple[str, ...] = Field(min_length=1)
    exclude: tuple[str, ...] = ()


class Split(Section):
    """How records are held out: stratified folds (fold = seed mod ``folds``) or the source's own split."""

    kind: Literal["folds", "canonical"] = "folds"
    folds: Annotated[int, Field(strict=True, ge=2, le=100)] = 5


class Partition(Section):
    """How training records become clients.

    ``group``: clients of one group each, ``clients`` says how many of which (``"*"`` for groups not
    named), and the group of each is public. ``iid``: records are dealt to ``clients`` (a number) at
    random, whatever their group.
    """

    kind: Literal["group", "iid"] = "group"
    clients: Count | dict[str, Count] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Partition:
        if (self.kind == "iid") == isinstance(self.clients, dict):
            wanted = "a number" if self.kind == "iid" else "a table of groups"
            raise ValueError(f"clients: kind = {self.kind!r} needs {wanted}")
        return self


class Model(Section):
    """What is trained: ``logistic``, ``mlp`` with ``hidden`` layers, or any ``package.module:factory``."""

    kind: str = "logistic"
    hidden: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Model:
        if self.kind not in {"logistic", "mlp"} and ":" not in self.kind:
            known = nearest(self.kind, ["logistic", "mlp"])
            raise ValueError(f"kind = {self.kind!r}: neither a model nor a 'package.module:factory'{known}")
        if (self.kind == "mlp") != bool(self.hidden):
            raise ValueError("hidden: belongs to kind = 'mlp', and that needs it, e.g. hidden = [64, 32]")
        return self


class Training(Section):
    """Local training. Rates and steps apply to a client's *public* size n.

    ``sampling_rate`` q, or ``batch_size`` B = q·n; ``local_steps`` T a round,
    or ``local_epochs`` = T·q. Poisson sampling always. ``engine = "auto"`` takes the cohort engine
    where it can train the model and Opacus elsewhere; ``device = "auto"`` a GPU where there is one.
    ``average``: what is evaluated and kept is the mean of the models of all rounds so far (Polyak and
    Juditsky 1992); clients go on from the last one.
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

    @model_validator(mode="after")
    def _check(self) -> Training:
        for a, b in (("sampling_rate", "batch_size"), ("local_steps", "local_epochs")):
            if (getattr(self, a) is None) == (getattr(self, b) is None):
                raise ValueError(f"{a}, {b}: give exactly one of the two")
        return self


class Privacy(Section):
    """The budgets ε, each the *total* of a client over all rounds, statistics included."""

    epsilons: tuple[Epsilon, ...] = Field(min_length=1)
    delta: Annotated[float, Field(strict=True, gt=0, lt=1)] = 1e-5
    accountant: Literal["rdp", "prv"] = "rdp"
    noise_seed: Seed | None = None

    @field_validator("epsilons")
    @classmethod
    def _distinct(cls, value: tuple[float | str, ...]) -> tuple[float | str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("the same ε twice")
        return value


class Statistics(Section):
    """How clients release what a strategy asks of them: noised, and paid from the same ε.

    Give ``noise_multiplier`` z (sd = z · sensitivity; 100 where neither is given) or ``budget_share``,
    the share of ε that the statistics of a client would spend alone; training gets the noise at which
    the total is ε. ``every``: rounds from one release to the next; between, strategies see the last.

    What is released may be improved without cost: ``smoothing`` s gives a moving average
    (s · before + (1 − s) · new), ``shrinkage`` draws noisy scalars towards the clients' mean.
    """

    noise_multiplier: Positive | None = None
    budget_share: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    every: Count = 1
    smoothing: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    shrinkage: Annotated[bool, Field(strict=True)] = False

    @model_validator(mode="after")
    def _check(self) -> Statistics:
        if self.noise_multiplier is not None and self.budget_share is not None:
            raise ValueError("noise_multiplier, budget_share: give one of the two")
        return self


class StrategySpec(BaseModel):
    """A strategy by name (or import path, or ``file.py:Class``), and its parameters beside it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that the scenario states."""
        return dict(self.model_extra or {})

    @property
    def label(self) -> str:
        """The name with its stated parameters, e.g. ``term(t=5)``: how tables call it."""
        stated = ", ".join(
            f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in sorted(self.parameters.items())
        )
        short = self.name.rsplit(":", 1)[-1]
        return f"{short}({stated})" if stated else short


def _seeds(value: object) -> object:
    if isinstance(value, str):
        first, colon, last = value.partition(":")
        if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
            raise ValueError('must be a list such as [0, 1, 2] or a range such as "0:5"')
        if int(last) - int(first) > 10_000:
            raise ValueError("more than 10,000 seeds")
        return list(range(int(first), int(last)))
    return value


class Scenario(Section):
    """One question: data, groups, partition, model, privacy budgets, strategies and seeds."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    title: str
    description: str = ""
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_seeds), Field(min_length=1)]
    data: Data
    split: Split = Split()
    partition: Partition = Partition()
    model: Model = Model()
    training: Training
    privacy: Privacy
    statistics: Statistics = Statistics()
    strategies: tuple[StrategySpec, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Scenario:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds: the same seed twice")
        labels = [s.label for s in self.strategies]
        twice = sorted({x for x in labels if labels.count(x) > 1})
        if twice:
            raise ValueError(f"strategies: {twice[0]} stands twice")
        return self


def library() -> dict[str, Path]:
    """Return the built-in scenarios by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "library").glob("*.toml"))}


def find(name: str) -> Path:
    """Return the file of a built-in scenario's name or of a path.

    Raises
    ------
    ScenarioError
        When it is neither.
    """
    builtin = library()
    if name in builtin:
        return builtin[name]
    path = Path(name)
    if path.suffix in {".toml", ".json"}:
        if path.is_file():
            return path
        raise ScenarioError(f"{name}: no such file")
    raise ScenarioError(f"{name}: no built-in scenario of this name{nearest(name, builtin)}")


def read(name: str, overrides: Sequence[str] = (), seeds: str | None = None) -> Scenario:
    """Read and validate a scenario by built-in name or path.

    Parameters
    ----------
    name
        A built-in name (``adult-race``) or the path of a TOML file (or of the same tables as JSON).
    overrides
        ``key=value`` pairs, the key dotted (``training.rounds=10``), the value a TOML literal.
    seeds
        A range such as ``"0:5"`` that takes the place of the scenario's seeds.

    Raises
    ------
    ScenarioError
        One line that names the file, the key, the value and the nearest right word.
    """
    path = find(name)
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ScenarioError(f"{path.name}: not a {path.suffix[1:].upper()} file: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path.name}: cannot be read: {error}") from None
    for override in overrides:
        _override(table, override)
    if seeds is not None:
        table["seeds"] = seeds
    return validate(table, path.name)


def validate(table: Mapping[str, Any], file: str) -> Scenario:
    """Turn a parsed table into a :class:`Scenario`; mistakes become one line that begins with ``file``."""
    try:
        return Scenario.model_validate(table)
    except ValidationError as error:
        raise ScenarioError(f"{file}: {_one_line(error)}") from None


def _override(table: dict[str, Any], override: str) -> None:
    key, equals, literal = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ScenarioError(f"--set {override}: must be key=value, e.g. training.rounds=10")
    try:
        value = tomllib.loads(f"x = {literal}")["x"]
    except tomllib.TOMLDecodeError:
        raise ScenarioError(
            f"--set {override}: {literal.strip()!r} is not a TOML literal (a text needs quotes)"
        ) from None
    *sections, last = key.split(".")
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ScenarioError(f"--set {override}: {section!r} is not a section")
        table = inner
    table[last] = value


def _one_line(error: ValidationError) -> str:
    """Tell the first mistake, an unknown key before its consequences, and count the others."""
    details = sorted(error.errors(), key=lambda d: d["type"] != "extra_forbidden")
    first, others = details[0], len(details) - 1
    location = [part for part in first["loc"] if part not in {"float", "literal['clip-only']"}]
    key = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    value = first["input"]
    if first["type"] == "extra_forbidden":
        text = f"{key}: unknown key{nearest(str(location[-1]), _known(location[:-1]))}"
    elif first["type"] == "missing":
        text = f"{key}: missing"
    else:
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "literal_error":
            words = str(first.get("ctx", {}).get("expected", "")).replace("'", "")
            message = (
                f"unknown{nearest(str(value), [w for w in words.replace(' or ', ', ').split(', ') if w])}"
            )
        elif first["type"] == "string_pattern_mismatch":
            message = "must be small letters, digits and hyphens only"
        shown = "" if isinstance(value, dict | Section) else f" = {value!r}"
        text = f"{key}{shown}: {message[:1].lower()}{message[1:]}" if key else message
    return text + (f" (and {others} more)" if others else "")


def _known(location: Sequence[int | str]) -> list[str]:
    """Return the keys that a section at this place of the file has."""
    section: type[BaseModel] = Scenario
    for part in location:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)
