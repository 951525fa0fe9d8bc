"""Our strategies as Flower strategies, and Flower's own by their import path."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message_type import MessageType
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from numpy.typing import NDArray

from fedtoll.clients.train import only
from fedtoll.scenarios.errors import RunError, ScenarioError, nearest
from fedtoll.scenarios.run import ClientPlan, Run
from fedtoll.scenarios.statistics import Estimate
from fedtoll.server.postprocess import Released
from fedtoll.server.strict import Strict
from fedtoll.strategies import registry
from fedtoll.strategies.base import Arrays, Member, Report, Strategy, Weights, weights_and_state
from fedtoll.strategies.simplex import simplex_violation


@dataclass
class Aggregation:
    """What one round's aggregation did, for the record.

    Parameters
    ----------
    weights, coefficients
        p_k and a_k of every client in the order of the plan, 0 where its reply was skipped; ``None`` for
        Flower's own strategies, which do not tell.
    statistics
        What the strategy saw of every client, in the order of the plan; undefined (NaN) where its reply was
        skipped.
    noise_variances
        v_k of every client's update, in the order of the plan; NaN where there is none.
    """

    weights: Weights | None = None
    coefficients: Weights | None = None
    statistics: Sequence[Mapping[str, Estimate]] = field(default_factory=list)
    noise_variances: list[float] = field(default_factory=list)


class Adapted(FlowerStrategy):
    """One of our strategies, driven by Flower's Message API.

    Clients return weights, as Flower strategies expect; updates are formed here. Undeclared
    statistics cannot arrive (clients answer what the plan asks, ``Strict`` refuses the rest), and a
    strategy's weights are checked: finite, not negative, sum 1.
    """

    def __init__(self, strategy: Strategy, run: Run, strict: Strict) -> None:
        self.strategy = strategy
        self._name = type(strategy).__name__
        self.history: dict[int, Aggregation] = {}
        self._run = run
        self._strict = strict
        self._state = strategy.init([Member(c.id, c.size, c.group) for c in run.clients])
        self._released = Released(run)
        self._params: Arrays = ()
        self._told: Mapping[str, Any] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address every client of the plan with the parameters and the strategy's instructions."""
        self._params = tuple(arrays.to_numpy_ndarrays())
        told: dict[str, Any] = {
            k: np.asarray(v, dtype=np.float64).tolist()  # plain numbers, or a list of them
            for k, v in self.strategy.instructions(server_round, self._state).items()
        }
        self._told = told
        if taken := sorted({*config, "server-round"} & set(told)):
            raise RunError(f"round {server_round}: {self._name} may not tell clients another {taken[0]!r}")
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
        """Weigh the reports of the clients that answered, in the plan's order, and combine their updates."""
        answers: dict[int, Any] = {
            self._strict.client_of[reply.metadata.src_node_id]: only(MetricRecord, reply.content)
            for reply in replies
        }
        metrics = [answers.get(c.id) for c in self._run.clients]
        statistics = self._released.update(server_round, metrics)
        there = [i for i, told in enumerate(metrics) if told is not None]
        reports = [self._report(self._run.clients[i], statistics[i]) for i in there]
        answer = self.strategy.weigh(reports, self._state)
        try:
            weights, state = weights_and_state(answer)
        except TypeError as error:
            raise RunError(f"round {server_round}: {self._name}: {error}") from None
        if problem := simplex_violation(weights, len(reports)):
            raise RunError(
                f"round {server_round}: the weights of {self._name} are not on the simplex: {problem}"
            )
        made, self._state, coefficients = self.strategy.combine(self._params, reports, weights, state)
        params = _like(self._params, made, f"round {server_round}: {self._name} made a model")
        if np.shape(coefficients) != weights.shape:
            raise RunError(f"round {server_round}: {self._name} gave no coefficient for every client")
        variances = np.array([r.noise_variance for r in reports])
        weights, coefficients, variances = (
            self._of_all(values, there, absent)
            for values, absent in ((weights, 0.0), (coefficients, 0.0), (variances, math.nan))
        )
        self.history[server_round] = Aggregation(weights, coefficients, statistics, variances.tolist())
        return ArrayRecord(params), None

    def output(self, arrays: ArrayRecord) -> Arrays:
        """Return the model to evaluate, which need not be the one that is broadcast."""
        current = tuple(arrays.to_numpy_ndarrays())
        made = self.strategy.output(current, self._state)
        return tuple(_like(current, made, f"{self._name}.output returned a model"))

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

    def _of_all(self, values: Weights, there: Sequence[int], absent: float) -> Weights:
        """Return one number for every client of the plan, from those of the clients that answered."""
        filled = np.full(len(self._run.clients), absent)
        filled[there] = values
        return filled

    def _report(self, client: ClientPlan, statistics: Mapping[str, Estimate]) -> Report:
        update = tuple(
            new.astype(np.float64) - old
            for new, old in zip(self._strict.parameters[client.id], self._params, strict=True)
        )
        return Report(
            client=client.id,
            size=client.size,
            group=client.group,
            update=update,
            statistics=statistics,
            epsilon=self._strict.ledger.epsilon(client.id),
            noise_variance=noise_variance(self._run, client, self._told.get("proximal_mu", 0.0)),
            learning_rate=self._run.learning_rate,
        )


def noise_variance(run: Run, client: ClientPlan, proximal_mu: float = 0.0) -> float:
    """Return v_k, the variance of the noise in one coordinate of a client's update.

    T (η σ C / B)² for T steps of plain local SGD. FedProx's term draws each step back by 1 − ημ, and
    with it the noise of the steps before: then (η σ C / B)² Σ_{j<T} (1 − ημ)^{2j} (derived here, and as
    the first, without the curvature of the loss).
    """
    scale = run.learning_rate * client.noise_multiplier * (run.clip or 0.0) / client.batch_size
    kept = (1 - run.learning_rate * proximal_mu) ** 2
    return scale**2 * sum(kept**j for j in range(client.steps))


def build(run: Run, strict: Strict) -> FlowerStrategy:
    """Return the Flower strategy of a run."""
    cls = registry.load(run.strategy.path)
    if issubclass(cls, Strategy):
        return Adapted(registry.build(run.strategy.path, run.strategy.parameters), run, strict)
    return _adapt(_make(cls, len(run.clients), run.strategy.parameters))


def _make(cls: Any, clients: int, given: Mapping[str, Any]) -> FlowerStrategy:
    """Make one of Flower's strategies, of which every client trains in every round and none evaluates."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    fixed = {**_FRACTIONS, **dict.fromkeys(_COUNTS, clients)}
    strategy: FlowerStrategy = cls(**fixed, **given)
    return strategy


_WORDS = {"proximal-mu": "proximal_mu"}
"""What Flower's strategies tell clients, and our word for it."""


def _adapt(strategy: Any) -> FlowerStrategy:
    """Let a strategy of Flower's speak our words, and refuse a model that is missing or not finite.

    Flower goes on with the old model where a strategy makes none, and some (``FedAdam``) make one in
    another precision than the model that they were given.
    """
    configure, aggregate = strategy.configure_train, strategy.aggregate_train
    name = type(strategy).__name__
    broadcast = ArrayRecord()

    def configure_train(
        server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        nonlocal broadcast
        broadcast = arrays.copy()
        messages: list[Message] = list(configure(server_round, arrays, config, grid))
        for message in messages:
            for record in message.content.config_records.values():
                for theirs in _WORDS.keys() & record.keys():
                    record[_WORDS[theirs]] = record.pop(theirs)
        return messages

    def aggregate_train(
        server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord | None]:
        made, metrics = aggregate(server_round, replies)
        if made is None:
            raise RunError(f"round {server_round}: {name} made no model: too few clients for its parameters?")
        current = tuple(broadcast.to_numpy_ndarrays())
        what = f"round {server_round}: {name} made a model"
        return ArrayRecord(_like(current, made.to_numpy_ndarrays(), what)), metrics

    strategy.configure_train, strategy.aggregate_train = configure_train, aggregate_train
    adapted: FlowerStrategy = strategy
    return adapted


_FRACTIONS = {"fraction_train": 1.0, "fraction_evaluate": 0.0}
_COUNTS = ("min_train_nodes", "min_available_nodes")
_PLUMBING = {
    *_FRACTIONS,
    *_COUNTS,
    "min_evaluate_nodes",
    "weighted_by_key",
    "arrayrecord_key",
    "configrecord_key",
    "train_metrics_aggr_fn",
    "evaluate_metrics_aggr_fn",
}
_REFUSED = {
    "QFedAvg": "reads a training loss, which clients would send un-noised",
    "FedXgb": "aggregates trees, which no client trains",
    "DifferentialPrivacy": "wraps another strategy, which a scenario cannot state",
}
"""How the names of Flower's strategies that cannot run here begin, and why they cannot."""


def check_flower(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check one of Flower's strategies and its parameters, by making one.

    Every client trains in every round, none evaluates, and replies have one form, so the parameters
    that say otherwise (``fraction_train``, ``min_train_nodes``, ``weighted_by_key``, ...) are not the
    scenario's to set.

    Raises
    ------
    ScenarioError
        One line: a strategy that cannot run here, with the reason, or a parameter that is unknown,
        missing, of the wrong type or out of range.
    """
    if not issubclass(cls, FlowerStrategy):
        raise ScenarioError(
            f"strategies: {cls.__module__}:{cls.__qualname__} is neither a fedtoll nor a Flower strategy"
        )
    who = f"strategies: {cls.__name__}"
    for base in cls.__mro__:
        for name, reason in _REFUSED.items():
            if base.__module__.startswith("flwr.") and base.__name__.startswith(name):
                raise ScenarioError(f"{who} cannot run here: it {reason}")
    known = _init_parameters(cls)
    if missing := [p for p in (*_FRACTIONS, *_COUNTS) if p not in known]:
        raise ScenarioError(f"{who} cannot run here: it takes no {missing[0]!r}")
    own = set(known) - _PLUMBING
    for key, value in given.items():
        if key not in own:
            raise ScenarioError(f"{who}: unknown parameter {key!r}{nearest(key, own)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ScenarioError(f"{who}: {key} = {value!r}: must be finite")
        default = known[key].default
        if isinstance(default, int | float) and not isinstance(value, type(default) | int):
            raise ScenarioError(f"{who}: {key} = {value!r}: must be a number such as {default!r}")
    try:
        _make(cls, 2, given)
    except (ValueError, TypeError) as error:
        raise ScenarioError(f"{who}: {error}") from None
    except Exception as error:
        raise ScenarioError(f"{who}: cannot be made: {error!r}") from None
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


def _like(current: Arrays, made: Sequence[Any], what: str) -> list[NDArray[np.floating]]:
    """Return a model in the precision of the current one; refuse one of other shapes, or not finite."""
    wanted = [array.shape for array in current]
    if (shapes := [np.shape(array) for array in made]) != wanted:
        raise RunError(f"{what} of shapes {shapes} instead of {wanted}")
    with np.errstate(over="ignore"):
        model = [np.asarray(array, dtype=old.dtype) for array, old in zip(made, current, strict=True)]
    if not all(np.isfinite(array).all() for array in model):
        raise RunError(f"{what} that is not finite")
    return model
