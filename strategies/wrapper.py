"""Shared code of the strategies that wrap another one, their target."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from fedtoll.scenarios.statistics import Statistic
from fedtoll.strategies import registry
from fedtoll.strategies.base import Arrays, Instructions, Member, Report, State, Strategy, Weights
from fedtoll.strategies.fedavgm import FedAvgM
from fedtoll.strategies.server_optimizer import Adaptive


class Wrapper(Strategy):
    """Base class of strategies that wrap a target, by default in every respect.

    The target requests its statistics, instructs the clients and updates its state as if it ran alone. A
    subclass is a frozen dataclass with the fields ``target`` and ``target_parameters``, and calls
    ``check_target`` in its ``__post_init__``.
    """

    if TYPE_CHECKING:  # fields of the subclasses, after their own
        target: str
        target_parameters: dict[str, bool | int | float | str]

    def check_target(self, *, adds_updates: bool = False) -> None:
        """Raise a ValueError unless the target is another strategy of fedtoll's own with these parameters.

        With ``adds_updates``, it must also move the model by a weighted sum of the round's updates.
        """
        path, digest = registry.resolve(self.target)
        if digest:
            raise ValueError(f"target = {self.target!r}: must be one of fedtoll's own strategies")
        if issubclass(registry.load(path), type(self)):
            raise ValueError(f"target = {self.target!r}: must be a strategy other than this one")
        built = registry.build(path, self.target_parameters)
        if adds_updates and not _adds_updates(built):
            raise ValueError(
                f"target = {self.target!r}: must be a strategy that adds up the updates of the round; its "
                "own optimizer mixes them with former rounds, whose noise is not known here"
            )

    @cached_property
    def wrapped(self) -> Strategy:
        """The target."""
        return registry.build(registry.resolve(self.target)[0], self.target_parameters)

    @property
    def requests(self) -> tuple[Statistic, ...]:
        """The statistics that the target requests."""
        return self.wrapped.requests

    def unsuited(self, classes: int) -> str:
        """Return why the target cannot run."""
        return self.wrapped.unsuited(classes)

    def init(self, cohort: Sequence[Member]) -> State:
        """Return the target's initial state."""
        return self.wrapped.init(cohort)

    def instructions(self, round: int, state: State) -> Instructions:
        """Return the target's instructions to the clients."""
        return self.wrapped.instructions(round, state)

    def weigh(self, reports: Sequence[Report], state: State) -> tuple[Weights, State]:
        """Return the target's weights and new state."""
        return self.wrapped.weigh(reports, state)

    def combine(
        self, params: Arrays, reports: Sequence[Report], weights: Weights, state: State
    ) -> tuple[Arrays, State, Weights]:
        """Build the next model as the target does, with these weights."""
        return self.wrapped.combine(params, reports, weights, state)

    def output(self, params: Arrays, state: State) -> Arrays:
        """Return the model that the target would return."""
        return self.wrapped.output(params, state)


def _adds_updates(strategy: Strategy) -> bool:
    """Return whether a strategy moves the model by Σ_k a_k Δ_k, with the coefficients a_k that it returns."""
    if isinstance(strategy, Wrapper):
        return type(strategy).combine is Wrapper.combine and _adds_updates(strategy.wrapped)
    return not isinstance(strategy, FedAvgM | Adaptive)
