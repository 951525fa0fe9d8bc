"""The section ``[tune]``: constants that every strategy chooses at every ε, on public records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedtoll.scenarios.choice import Distribution, TruncatedNegativeBinomial
from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.fields import Count, Positive, Rate, Section, Seed
from fedtoll.scenarios.schedule import Schedule

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

Flag = Annotated[bool, Field(strict=True)]


class Tune(Section):
    """The values among which every strategy chooses at every ε, including infinity.

    A candidate is one combination of the values. It is trained under each of ``seeds``, and the one with the
    least mean log-loss on the validation part (``split.validation``, which is declared public) wins: over
    everybody or, with ``by = "worst group"``, in the worst group. An empty list leaves the scenario's value.
    ``strategies`` has lists of parameters by a strategy's name or label: ``{ term = { t = [1.0, 5.0] } }``.

    All strategies try the same number of candidates at one ε: ``candidates``, or as many as the smallest grid
    has. A strategy with more combinations tries a sample, which is the same in every sweep. At ε = ∞ nothing
    is clipped, so there are no clips to try.

    ``method = "halving"`` drops the worse half of the candidates after one seed, then after two, four, ...
    (successive halving, Jamieson and Talwalkar 2016, with seeds as the resource).

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
    strategies: dict[str, dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]] = Field(
        default_factory=dict
    )
    candidates: Count | None = None
    by: Literal["everybody", "worst group"] = "everybody"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1000, 1001)
    method: Literal["grid", "halving"] = "grid"
    charge: Literal["none", "random-stopping"] = "none"
    stopping: Annotated[Distribution, Field(discriminator="kind")] | None = None

    @model_validator(mode="after")
    def _check(self) -> Tune:
        lists = {key: getattr(self, key) for key in (*AXES, "seeds")}
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
