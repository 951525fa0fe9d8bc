"""The section ``[tune]``: constants that are chosen at every ε, on records that are declared public."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedtoll.scenarios.fields import Count, Positive, Section, Seed


class Tune(Section):
    """The values from which each ε, including infinity, chooses its own.

    All combinations are trained. The one with the least mean log-loss on the validation part
    (``split.validation``, which is declared public) wins, either over everybody or for the worst group. The
    mean is over all strategies of the scenario, which share the choice. An empty list leaves the
    scenario's value. Candidates are trained on private records, so choosing among them costs
    their composed ε, which is not counted.
    """

    learning_rates: tuple[Positive, ...] = ()
    clips: tuple[Positive, ...] = ()
    batch_sizes: tuple[Count, ...] = ()
    by: Literal["everybody", "worst group"] = "everybody"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1000, 1001)

    @model_validator(mode="after")
    def _check(self) -> Tune:
        for key in ("learning_rates", "clips", "batch_sizes", "seeds"):
            values = getattr(self, key)
            if len(set(values)) != len(values):
                raise ValueError(f"{key}: the same value twice")
        if max(len(self.learning_rates), len(self.clips), len(self.batch_sizes)) < 2:
            raise ValueError("nothing to choose from; give two values or more of one constant")
        return self
