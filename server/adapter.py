"""Run our strategies as Flower strategies, and Flower's own strategies by import path."""

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

from fedtoll.clients import wire
from fedtoll.clients.train import BOUND, only
from fedtoll.privacy.ledger import ALL_CLIENTS
from fedtoll.privacy.update_noise import noise_variance
from fedtoll.scenarios.errors import DivergedError, RunError, ScenarioError, nearest
from fedtoll.scenarios.foreign import contained
from fedtoll.scenarios.plugins import path_of
from fedtoll.scenarios.run import ClientPlan, Run
from fedtoll.scenarios.schedule import step
from fedtoll.scenarios.statistics import Estimate
from fedtoll.server.client_sums import ClientSums
from fedtoll.server.strict import Strict
from fedtoll.server.sums import Sums
from fedtoll.strategies import registry
from fedtoll.strategies.base import Arrays, Member, Report, Strategy, Weights, weights_and_state
from fedtoll.strategies.new_model import like, partly
from fedtoll.strategies.postprocess import Released
from fedtoll.strategies.simplex import NOT_FINITE, simplex_violation


@dataclass
class Aggregation:
    """A record of one round's aggregation. Lists are of the clients that took part, in the plan's order.

    Parameters
    ----------
    weights, coefficients
        p_k and a_k of every such client, 0 where the reply was skipped; ``None`` for Flower's own strategies,
        which do not report them.
    statistics
        Their statistics as the strategy saw them; undefined (NaN) where the reply was skipped.
        Empty if it saw sums only.
    total
        The statistics of the sum, if it saw sums only.
    noise_variances
        v_k of their updates; NaN where there is no update.
    clip, added
        Where a client is the unit of privacy: the bound of the round's updates, and the variance of the noise
        that the server added to a coordinate of the model.
    """

    weights: Weights | None = None
    coefficients: Weights | None = None
    statistics: Sequence[Mapping[str, Estimate]] = field(default_factory=list)
    noise_variances: list[float] = field(default_factory=list)
    total: Mapping[str, Estimate] = field(default_factory=dict)
    clip: float | None = None
    added: float = 0.0


class Adapted(FlowerStrategy):
    """Drives one of our strategies through Flower's Message API.

    Clients return weights, as Flower strategies expect; updates are computed here. A strategy sees declared
    statistics only: clients send what the plan lists, and ``Strict`` rejects anything else. The weights that
    it returns are checked: finite, not negative, summing to 1.
    """

    def __init__(self, strategy: Strategy, run: Run, strict: Strict) -> None:
        self.strategy = strategy
        self._name = type(strategy).__name__
        self.history: dict[int, Aggregation] = {}
        self._run = run
        self._strict = strict
        self._sums = None if run.trust == "local" else Sums(run) if run.unit == "record" else ClientSums(run)
        self._members = [Member(c.id, c.size, c.group) for c in run.clients]
        self._state = strategy.init([self._sums.member] if self._sums else self._members)
        self._released = Released(run)
        self._params: Arrays = ()
        self._instructions: Mapping[str, Any] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message to every client that takes part: the model and the strategy's instructions."""
        self._params, self._round = tuple(wire.arrays(arrays)), server_round
        places = self._strict.attendance.clients(server_round)
        self._strict.charge_hidden(server_round)
        if not places and not self._run.hides_clients:
            return []
        members = [self._sums.member] if self._sums else [self._members[i] for i in places]
        self._state = self.strategy.begin(server_round, members, self._state)
        instructions: dict[str, Any] = {
            k: np.asarray(v, dtype=np.float64).tolist()  # plain numbers, or a list of them
            for k, v in self.strategy.instructions(server_round, self._state).items()
        }
        self._instructions = instructions
        own = {} if self._sums is None else self._sums.instructions()
        if reserved := sorted({*config, *own, "server-round"} & set(instructions)):
            raise RunError(
                f"round {server_round}: {self._name} may not send the reserved instruction {reserved[0]!r}"
            )
        record = ConfigRecord({**config, **instructions, **own, "server-round": server_round})
        content = RecordDict({"arrays": arrays, "config": record})
        return [
            Message(content, self._strict.node_of[self._run.clients[i].id], MessageType.TRAIN) for i in places
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord | None]:
        """Weigh the reports of the clients that replied, in the plan's order, and combine their updates.

        In a round in which nobody takes part, the model stays as it is, unless that is a secret.
        """
        places = self._strict.attendance.clients(server_round)
        clients = [self._run.clients[i] for i in places]
        if not clients and not self._run.hides_clients:
            self.history[server_round] = Aggregation(np.empty(0), np.empty(0))
            return wire.encoded(self._params), None
        received: dict[int, Any] = {
            self._strict.client_of[reply.metadata.src_node_id]: only(MetricRecord, reply.content)
            for reply in replies
        }
        metrics = [received.get(c.id) for c in clients]
        present = [i for i, content in enumerate(metrics) if content is not None]
        statistics: Sequence[Mapping[str, Estimate]] = []
        noise, clip = [], None
        if self._sums is None:
            statistics = self._released.update(clients, metrics)
            reports = [self._report(clients[i], statistics[i], received) for i in present]
        else:
            noise, clip = self._sums.variances(clients, self._instructions), self._sums.clip
            reports = [self._sum(self._sums, server_round, places, metrics, noise)]
        returned = self.strategy.weigh(reports, self._state)
        try:
            weights, state = weights_and_state(returned)
        except TypeError as error:
            raise RunError(f"round {server_round}: {self._name}: {error}") from None
        if problem := simplex_violation(weights, len(reports)):
            kind = DivergedError if problem == NOT_FINITE else RunError
            raise kind(f"round {server_round}: the weights of {self._name} are not on the simplex: {problem}")
        combined, self._state, coefficients = self.strategy.combine(self._params, reports, weights, state)
        if coefficients is None:
            raise RunError(
                f"round {server_round}: combine of {self._name} returned None for the coefficients; return "
                "one number per client, e.g. the weights"
            )
        if np.shape(coefficients) != weights.shape:
            raise RunError(f"round {server_round}: {self._name} did not return one coefficient per client")
        params = like(self._params, combined, f"round {server_round}: {self._name} returned a model")
        if (share := step(self._run.server_schedule, server_round, self._run.rounds)) != 1:
            params, coefficients = partly(self._params, params, share), share * coefficients
        variances, added = np.array([r.noise_variance for r in reports]), 0.0
        if self._sums is not None:
            added = float(coefficients[0]) ** 2 * self._sums.added
            weights = self._sums.weights[places]
            coefficients, variances = weights * coefficients, np.array(noise)
        weights, coefficients, variances = (
            _filled(values, present, len(clients), absent)
            for values, absent in ((weights, 0.0), (coefficients, 0.0), (variances, math.nan))
        )
        self.history[server_round] = Aggregation(
            *(weights, coefficients, statistics, variances.tolist()),
            total={} if self._sums is None else reports[0].statistics,
            clip=clip,
            added=added,
        )
        return wire.encoded(params), None

    def output(self, arrays: ArrayRecord) -> Arrays:
        """Return the model to evaluate, which may differ from the broadcast model."""
        current = tuple(wire.arrays(arrays))
        output = self.strategy.output(current, self._state)
        return tuple(like(current, output, f"{self._name}.output returned a model"))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return no messages: evaluation on clients would release numbers without noise."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return ``None``: clients do not evaluate."""
        return None

    def summary(self) -> None:
        """Do not log a summary."""

    def _sum(
        self, sums: Sums, round: int, places: Sequence[int], metrics: Sequence[Any], noise: Sequence[float]
    ) -> Report:
        """Return the report of the sum; every reply is there, since such runs skip none."""
        ids = [self._run.clients[i].id for i in places]
        received = [self._strict.parameters[i] for i in ids]
        spent = max(map(self._strict.ledger.epsilon, [ALL_CLIENTS] if self._run.hides_clients else ids))
        return sums.report(round, places, self._params, received, metrics, noise, spent)

    def _report(self, client: ClientPlan, statistics: Mapping[str, Estimate], received: Any) -> Report:
        mu, bound = self._instructions.get("proximal_mu", 0.0), received[client.id].get(BOUND)
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
            noise_variance=noise_variance(self._run, client, mu, self._round, bound),
            learning_rate=self._run.learning_rate,
        )


def _filled(values: Weights, present: Sequence[int], count: int, absent: float) -> Weights:
    """Return this many numbers: ``values`` at the places that are ``present``, else ``absent``."""
    filled = np.full(count, absent)
    filled[present] = values
    return filled


def build(run: Run, strict: Strict) -> FlowerStrategy:
    """Return the Flower strategy of a run."""
    cls = registry.load(run.strategy.path)
    if issubclass(cls, Strategy):
        return Adapted(registry.build(run.strategy.path, run.strategy.parameters), run, strict)
    clients = len(run.clients) if run.participation is None else 1
    return _adapt(_instantiate(cls, clients, run.strategy.parameters), run, strict)


def _instantiate(cls: Any, clients: int, parameters: Mapping[str, Any]) -> FlowerStrategy:
    """Return one of Flower's strategies, set to train every client that the Grid has and evaluate none.

    ``clients`` is the least number of a round.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    fixed = {**_FRACTIONS, **dict.fromkeys(_COUNTS, clients)}
    strategy: FlowerStrategy = cls(**fixed, **parameters)
    return strategy


_RENAMED = {"proximal-mu": "proximal_mu"}
"""Instructions of Flower's strategies by their names in fedtoll."""


def _adapt(strategy: Any, run: Run, strict: Strict) -> FlowerStrategy:
    """Rename a Flower strategy's instructions, and reject a model that is missing or not finite.

    The Grid has only the nodes of the clients that take part in a round; if there are none, the strategy is
    not asked and the model stays as it is. The server takes the share of its step that
    the schedule of the run says.

    Where a strategy returns no model, Flower continues with the old one. Some (``FedAdam``) return a model
    in another precision than the one they received.
    """
    configure, aggregate = strategy.configure_train, strategy.aggregate_train
    strategy_name = type(strategy).__name__
    broadcast = ArrayRecord()

    def configure_train(
        server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        nonlocal broadcast
        broadcast = arrays.copy()
        if not strict.attendance.clients(server_round):
            return []
        messages: list[Message] = list(configure(server_round, arrays, config, grid))
        for message in messages:
            for record in message.content.config_records.values():
                for name in _RENAMED.keys() & record.keys():
                    record[_RENAMED[name]] = record.pop(name)
        return messages

    def aggregate_train(
        server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord | None]:
        if not strict.attendance.clients(server_round):
            return broadcast, None
        returned, metrics = aggregate(server_round, replies)
        where = f"round {server_round}: {strategy_name} returned"
        if returned is None:
            raise RunError(f"{where} no model: too few clients for its parameters?")
        current = tuple(wire.arrays(broadcast))
        new = like(current, returned.to_numpy_ndarrays(), f"{where} a model")
        return ArrayRecord(partly(current, new, step(run.server_schedule, server_round, run.rounds))), metrics

    strategy.configure_train, strategy.aggregate_train = configure_train, aggregate_train
    adapted: FlowerStrategy = strategy
    return adapted


_FRACTIONS = {"fraction_train": 1.0, "fraction_evaluate": 0.0}
_FRACTION_KEYS = {"fraction_train", "fraction-train"}
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
    "QFedAvg": "reads a training loss, which clients would send without noise",
    "FedXgb": "aggregates trees, which no client trains",
    "DifferentialPrivacy": "wraps another strategy, which a scenario cannot express",
}
"""Prefixes of the names of Flower's strategies that cannot run here, with the reason."""


def check_flower(cls: type, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Check one of Flower's strategies and its parameters by instantiating it.

    ``[participation]`` says who trains in a round, nobody evaluates, and replies have one form. A scenario
    therefore cannot set the parameters that control these (``fraction_train``, ``min_train_nodes``,
    ``weighted_by_key``, ...).

    Raises
    ------
    ScenarioError
        In one line: the strategy cannot run here, with the reason, or a parameter is unknown, missing, of
        the wrong type or out of range.
    """
    if not issubclass(cls, FlowerStrategy):
        raise ScenarioError(f"strategies: {path_of(cls)} is neither a fedtoll nor a Flower strategy")
    where = f"strategies: {cls.__name__}"
    for base in cls.__mro__:
        for name, reason in _REFUSED.items():
            if base.__module__.startswith("flwr.") and base.__name__.startswith(name):
                raise ScenarioError(f"{where} cannot run here: it {reason}")
    known = _init_parameters(cls)
    if missing := [p for p in (*_FRACTIONS, *_COUNTS) if p not in known]:
        raise ScenarioError(f"{where} cannot run here: it has no parameter {missing[0]!r}")
    settable = set(known) - _PLUMBING
    for key, value in parameters.items():
        if key in _FRACTION_KEYS:
            raise ScenarioError(
                f"{where}: {key} = {value!r}: state it for all strategies, as [participation] with "
                "kind = 'fraction' and a fraction"
            )
        if key not in settable:
            raise ScenarioError(f"{where}: unknown parameter {key!r}{nearest(key, settable)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ScenarioError(f"{where}: {key} = {value!r}: must be finite")
        default = known[key].default
        if isinstance(default, int | float) and not isinstance(value, type(default) | int):
            raise ScenarioError(f"{where}: {key} = {value!r}: must be a number such as {default!r}")
    try:
        with contained():
            _instantiate(cls, 2, parameters)
    except (ValueError, TypeError) as error:
        raise ScenarioError(f"{where}: {error}") from None
    except (Exception, SystemExit) as error:
        raise ScenarioError(f"{where}: cannot be instantiated: {error!r}") from None
    return dict(parameters)


def _init_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return a constructor's parameters, including those it passes to its bases by ``**kwargs``."""
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
    """Return a function from the broadcast arrays to the model to evaluate."""
    if isinstance(strategy, Adapted):
        return strategy.output
    return lambda arrays: tuple(wire.arrays(arrays))
