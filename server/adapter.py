"""Our strategies as Flower strategies, and Flower's own by their import path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message_type import MessageType
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedtoll.scenarios.errors import RunError, ScenarioError, nearest
from fedtoll.scenarios.run import ClientPlan, Run
from fedtoll.scenarios.statistics import Estimate
from fedtoll.server.grid import Strict
from fedtoll.strategies import registry
from fedtoll.strategies.base import Arrays, Member, Report, Strategy, Weights

TOLERANCE = 1e-9
"""How far a strategy's weights may be from summing to 1."""


@dataclass
class Aggregation:
    """What one round's aggregation did, for the record.

    Parameters
    ----------
    weights, coefficients
        p_k and a_k of every client in the order of the plan; ``None`` for Flower's own strategies,
        which do not tell.
    reports
        What the strategy saw.
    """

    weights: Weights | None = None
    coefficients: Weights | None = None
    reports: list[Report] = field(default_factory=list)


class Adapted(FlowerStrategy):
    """One of our strategies, driven by Flower's Message API.

    Clients return weights, as Flower strategies expect; updates are formed here. Undeclared
    statistics cannot arrive (clients answer what the plan asks, ``Strict`` refuses the rest), and a
    strategy's weights are checked: finite, not negative, sum 1.
    """

    def __init__(self, strategy: Strategy, run: Run, strict: Strict) -> None:
        self.strategy = strategy
        self.history: dict[int, Aggregation] = {}
        self._run = run
        self._strict = strict
        self._state = strategy.init([Member(c.id, c.size, c.group) for c in run.clients])
        self._params: Arrays = ()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address every client of the plan with the parameters and the strategy's instructions."""
        self._params = tuple(arrays.to_numpy_ndarrays())
        told = self.strategy.instructions(server_round, self._state)
        record = ConfigRecord({**config, **told, "server-round": server_round})
        return [
            Message(
                RecordDict({"arrays": arrays, "config": record}),
                self._strict.node_of[client.id],
                MessageType.TRAIN,
            )
            for client in self._run.clients
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord | None]:
        """Weigh the reports and combine their updates."""
        reports = [self._report(c, r) for c, r in zip(self._run.clients, replies, strict=True)]
        weights, state = self.strategy.weigh(reports, self._state)
        _check_weights(weights, len(reports), type(self.strategy).__name__, server_round)
        params, self._state, coefficients = self.strategy.combine(self._params, reports, weights, state)
        for array in params:
            if not np.isfinite(array).all():
                raise RunError(
                    f"round {server_round}: {type(self.strategy).__name__} made a model that is not finite"
                )
        self.history[server_round] = Aggregation(weights, coefficients, reports)
        return ArrayRecord(list(params)), None

    def output(self, arrays: ArrayRecord) -> Arrays:
        """Return the model to evaluate, which need not be the one that is broadcast."""
        return self.strategy.output(tuple(arrays.to_numpy_ndarrays()), self._state)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nothing: clients evaluate nothing, for that would leave them un-noised."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate nothing."""
        return None

    def summary(self) -> None:
        """Log nothing."""

    def _report(self, client: ClientPlan, reply: Message) -> Report:
        (record,) = reply.content.array_records.values()
        (metrics,) = reply.content.metric_records.values()
        update = tuple(
            new.astype(np.float64) - old
            for new, old in zip(record.to_numpy_ndarrays(), self._params, strict=True)
        )
        statistics = {
            s.name: Estimate(float(metrics[s.name]), float(metrics[f"{s.name}.sd"]))  # type: ignore[arg-type]
            for s in self._run.statistics
        }
        return Report(
            client=client.id,
            size=client.size,
            group=client.group,
            update=update,
            statistics=statistics,
            epsilon=self._strict.ledger.epsilon(client.id),
            noise_variance=noise_variance(self._run, client),
        )


def noise_variance(run: Run, client: ClientPlan) -> float:
    """Return v_k = T (η σ C / B)², the variance of the noise in one coordinate of a client's update."""
    scale = run.learning_rate * client.noise_multiplier * (run.clip or 0.0) / client.batch_size
    return client.steps * scale**2


def build(run: Run, strict: Strict) -> FlowerStrategy:
    """Return the Flower strategy of a run."""
    cls = registry.load(run.strategy.path)
    if issubclass(cls, Strategy):
        return Adapted(registry.build(run.strategy.path, run.strategy.parameters), run, strict)
    flower: type[Any] = cls
    everybody = len(run.clients)
    fixed = {"min_train_nodes": everybody, "min_available_nodes": everybody}
    strategy: FlowerStrategy = flower(**_FULL_PARTICIPATION, **fixed, **run.strategy.parameters)
    return strategy


_FULL_PARTICIPATION: Mapping[str, float] = {"fraction_train": 1.0, "fraction_evaluate": 0.0}
_OURS = {*_FULL_PARTICIPATION, "min_train_nodes", "min_available_nodes", "min_evaluate_nodes"}


def check_flower(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the parameters of one of Flower's strategies.

    Every client trains in every round and none evaluates, so the parameters that say otherwise
    (``fraction_train``, ``min_train_nodes``, ...) are not the scenario's to set.
    """
    if not issubclass(cls, FlowerStrategy):
        raise ScenarioError(
            f"strategies: {cls.__module__}:{cls.__qualname__} is neither a fedtoll nor a Flower strategy"
        )
    known = {**_init_parameters(cls)}
    for key in given:
        if key in _OURS or key not in known:
            raise ScenarioError(
                f"strategies: {cls.__name__}: unknown parameter {key!r}{nearest(key, set(known) - _OURS)}"
            )
    if missing := set(_FULL_PARTICIPATION) - set(known):
        raise ScenarioError(f"strategies: {cls.__name__} takes no {sorted(missing)[0]!r}, so cannot run here")
    return dict(given)


def _init_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a constructor, those it passes on to its base by ``**kwargs`` included."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        signature = inspect.signature(base.__init__)  # type: ignore[misc]
        kinds = {p.kind for p in signature.parameters.values()}
        found |= {
            k: p
            for k, p in signature.parameters.items()
            if k != "self" and p.kind not in {p.VAR_KEYWORD, p.VAR_POSITIONAL} and k not in found
        }
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    return found


def model_of(strategy: FlowerStrategy) -> Callable[[ArrayRecord], Arrays]:
    """Return how to read the model to evaluate from what a strategy broadcasts."""
    if isinstance(strategy, Adapted):
        return strategy.output
    return lambda arrays: tuple(arrays.to_numpy_ndarrays())


def _check_weights(weights: Weights, count: int, name: str, round: int) -> None:
    problem = ""
    if not isinstance(weights, np.ndarray) or weights.shape != (count,):
        problem = f"shape {np.shape(weights)} instead of ({count},)"
    elif not np.isfinite(weights).all():
        problem = "not finite"
    elif (weights < 0).any():
        problem = f"{weights.min():.3g} is negative"
    elif abs(weights.sum() - 1) > TOLERANCE:
        problem = f"sum {weights.sum():.6g} instead of 1"
    if problem:
        raise RunError(f"round {round}: the weights of {name} are not on the simplex: {problem}")
