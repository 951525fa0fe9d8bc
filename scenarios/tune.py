"""The section ``[tune]``: constants that every strategy chooses at every ε, on public records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from fedtoll.scenarios.choice import Distribution, TruncatedNegativeBinomial
from fedtoll.scenarios.client import check as check_client
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.fields import (
    CLIP_ONLY,
    Count,
    Positive,
    Rate,
    Section,
    Seeds,
    listed_seeds,
    without_default,
)
from fedtoll.scenarios.personal import check as check_personal
from fedtoll.scenarios.schedule import Schedule
from fedtoll.scenarios.validation import describe_error

AXES = {
    "learning_rates": "learning_rate",
    "clips": "clip",
    "sampling_rates": "sampling_rate",
    "batch_sizes": "batch_size",
    "local_steps": "local_steps",
    "rounds": "rounds",
    "averages": "average",
    "server_schedules": "server_schedule",
}
"""The lists of ``[tune]``, and the key of ``[training]`` that each gives values for."""

ALTERNATIVES = {"sampling_rate": "batch_size", "local_steps": "local_epochs"}
"""Keys of ``[training]`` that state the same thing: exactly one of each pair is given."""
ALTERNATIVES |= {b: a for a, b in ALTERNATIVES.items()}

SECTIONS = {"client": "mechanism", "personal": "kind"}
"""The sections whose constants can be chosen too, each with its key that is no constant."""

Flag = Annotated[bool, Field(strict=True)]
Lists = dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]


class Tune(Section):
    """The values among which every strategy chooses at every ε, including infinity.

    A candidate is one combination of the values. It is trained under each of ``seeds``, and the one with the
    least mean log-loss on the validation part (``split.validation``, which is declared public) wins: over
    everybody or, with ``by = "worst group"``, in the worst group. An empty list leaves the scenario's value.
    ``strategies`` has lists of parameters by a strategy's name or label: ``{ term = { t = [1.0, 5.0] } }``.
    ``client`` and ``personal`` have lists by the keys of these sections, which all strategies try.

    All strategies try the same number of candidates at one ε: ``candidates``, or as many as the smallest grid
    has. A strategy with more combinations tries a sample, which is the same in every sweep. At ε = ∞ nothing
    is clipped, so there are no clips and no parameters of a mechanism to try.

    ``method = "halving"`` drops the worse half of the candidates after one seed, then after two, four, ...
    (successive halving, Jamieson and Talwalkar 2016, with seeds as the resource). It is the default, with
    eight seeds: with two, copies of one strategy that choose on their own differ too often
    (docs/definitions.md). A grid has two seeds by default, and so has a choice that is charged, which is one.

    Candidates are trained on private records. With ``charge = "none"``, what the choice reveals is not
    counted in ε, and the privacy card says so. With ``charge = "random-stopping"``, their number is drawn
    from ``stopping`` (by default, eight on average), each is drawn uniformly from the whole grid, and ε
    includes the choice (Papernot and Steinke 2022): for those who see its result, not the trainings.
    """

    learning_rates: tuple[Positive, ...] = ()
    clips: tuple[Positive, ...] = ()
    sampling_rates: tuple[Rate, ...] = ()
    batch_sizes: tuple[Count, ...] = ()
    local_steps: tuple[Count, ...] = ()
    rounds: tuple[Count, ...] = ()
    averages: tuple[Flag, ...] = ()
    server_schedules: tuple[Schedule, ...] = ()
    client: Lists = Field(default_factory=dict)
    personal: Lists = Field(default_factory=dict)
    strategies: dict[str, Lists] = Field(default_factory=dict)
    candidates: Count | None = None
    by: Literal["everybody", "worst group"] = "everybody"
    seeds: Seeds = tuple(range(1000, 1008))
    method: Literal["grid", "halving"] = "halving"
    charge: Literal["none", "random-stopping"] = "none"
    stopping: Annotated[Distribution, Field(discriminator="kind")] | None = None

    @model_serializer(mode="wrap")
    def _write(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later keys that have their default, so that older stored scenarios stay the same."""
        return without_default(handler(self), client={}, personal={})

    @model_validator(mode="before")
    @classmethod
    def _grid(cls, stated: Any) -> Any:
        """Fill in the defaults of a grid."""
        if not isinstance(stated, Mapping):
            return stated
        one = False
        with suppress(ValueError):  # which the field reports
            seeds = listed_seeds(stated.get("seeds"))
            one = isinstance(seeds, list | tuple) and len(seeds) == 1
        grid = one or stated.get("charge", "none") != "none" or stated.get("method") == "grid"
        return {"method": "grid", "seeds": (1000, 1001), **stated} if grid else stated

    @model_validator(mode="after")
    def _check(self) -> Tune:
        lists = {key: getattr(self, key) for key in (*AXES, "seeds")}
        for section in SECTIONS:
            lists |= {f"{section}.{key}": values for key, values in getattr(self, section).items()}
        for name, parameters in self.strategies.items():
            lists |= {f"strategies.{name}.{key}": values for key, values in parameters.items()}
        for key, values in lists.items():
            if any(value in values[:i] for i, value in enumerate(values)):
                raise ValueError(f"{key}: the same value twice")
        del lists["seeds"]
        if max(len(values) for values in lists.values()) < 2:
            raise ValueError("nothing to choose from; give two values or more of one constant")
        if self.sampling_rates and self.batch_sizes:
            raise ValueError("sampling_rates, batch_sizes: give at most one of them")
        if self.candidates == 1:
            raise ValueError("candidates: must be 2 or more")
        if self.charge == "none" and self.stopping is not None:
            raise ValueError("stopping: needs charge = 'random-stopping'")
        for key, stated in (("candidates", self.candidates is not None), ("method", self.method != "grid")):
            if stated and self.charge != "none":
                raise ValueError(f"{key}: not with charge = 'random-stopping', whose candidates are drawn")
        if self.method == "halving" and len(self.seeds) < 2:
            raise ValueError("method: 'halving' needs two seeds or more")
        return self

    @property
    def distribution(self) -> Distribution | None:
        """The distribution of the number of candidates, if the choice is charged."""
        if self.charge == "none":
            return None
        return self.stopping or TruncatedNegativeBinomial(eta=1.0, gamma=0.125)

    def parameters(self, label: str, name: str) -> Mapping[str, tuple[Any, ...]]:
        """Return the lists of one strategy's parameters, given its label and its name."""
        found: Mapping[str, tuple[Any, ...]] = self.strategies.get(label, self.strategies.get(name, {}))
        return found


def in_force(section: str, key: str, epsilon: float | str) -> bool:
    """Return whether a key of ``[training]``, ``[client]`` or ``[personal]`` can change a run at an ε.

    Without clipping only the momentum is left of what clients do to gradients, and without noise no share of
    it.

    Examples
    --------
    >>> [in_force("client", key, math.inf) for key in ("momentum", "quantile")]
    [True, False]
    """
    if epsilon == math.inf:
        return (section, key) != ("training", "clip") and (section != "client" or key == "momentum")
    return epsilon != CLIP_ONLY or (section, key) != ("client", "statistic_share")


def check(scenario: Any) -> None:
    """Raise ``ValueError`` in one line if ``[tune]`` does not go with the scenario's other sections."""
    tune = scenario.tune
    if tune is None:
        return
    if not scenario.split.validation:
        raise ValueError("tune: needs split.validation, the share of records that is declared public")
    if shared := sorted({*tune.seeds} & {*scenario.seeds}):
        raise ValueError(f"tune.seeds: {shared[0]} is also in seeds; a choice needs seeds of its own")
    if tune.charge != "none" and scenario.privacy.accountant != "rdp":
        raise ValueError("tune.charge: 'random-stopping' needs privacy.accountant = 'rdp'")
    if tune.charge != "none" and scenario.partition.copies > 1:
        raise ValueError("tune.charge: 'random-stopping' needs partition.copies = 1")
    names = {s.label: s.name for s in scenario.strategies}
    try:
        check_strategies(tune, names, {s.label: s.parameters for s in scenario.strategies})
    except ScenarioError as error:
        raise ValueError(str(error)) from None
    for section in SECTIONS:
        _check_section(scenario, section)


def _check_section(scenario: Any, name: str) -> None:
    """Check every value of a section's lists as if the section stated it."""
    lists, section = getattr(scenario.tune, name), getattr(scenario, name)
    if lists and section is None:
        raise ValueError(f"tune.{name}: needs [{name}]")
    for key, value in ((key, value) for key, values in lists.items() for value in values):
        if key == SECTIONS[name]:
            raise ValueError(f"tune.{name}.{key}: not a constant; compare two scenarios instead")
        try:
            stated = section.changed(**{key: value})
        except ValidationError as error:
            raise ValueError(f"tune.{name}.{describe_error(error, type(section))}") from None
        variant = scenario.model_copy(update={name: stated})
        try:
            check_client(variant)
            check_personal(variant)
        except ValueError as error:
            raise ValueError(f"tune.{error}") from None


def check_strategies(
    tune: Tune, strategies: Mapping[str, str], stated: Mapping[str, Mapping[str, Any]]
) -> None:
    """Reject lists of parameters of unknown strategies, and of parameters that a strategy states.

    Parameters
    ----------
    tune
        The section.
    strategies
        The name of every strategy by its label.
    stated
        The parameters that every strategy states, by its label.

    Raises
    ------
    ScenarioError
        In one line that names the key and suggests the nearest right word.
    """
    for key, parameters in tune.strategies.items():
        labels = [label for label, name in strategies.items() if key in {label, name}]
        if not labels:
            known = nearest(key, dict.fromkeys([*strategies.values(), *strategies]))
            raise ScenarioError(f"tune.strategies: {key!r}: not a strategy of this scenario{known}")
        for parameter in parameters:
            if parameter == "name":  # the strategy's own, in its table
                raise ScenarioError(f"tune.strategies.{key}.name: not a parameter of a strategy")
            for label in labels:
                if parameter in stated[label]:
                    raise ScenarioError(
                        f"tune.strategies.{key}.{parameter}: {label} states it too; leave it out in one place"
                    )
    lists = [len(values) for key in AXES if (values := getattr(tune, key))]
    lists += [len(values) for section in SECTIONS for values in getattr(tune, section).values()]
    for label, name in strategies.items():
        size = math.prod([*lists, *map(len, tune.parameters(label, name).values())])
        if tune.candidates is not None and tune.candidates > size:
            raise ScenarioError(
                f"tune.candidates = {tune.candidates}: {label} has {size} combinations, and all strategies "
                "try the same number"
            )
