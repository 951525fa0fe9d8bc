"""Where a strategy is shown sums only: which strategies can run, their weights, and the report of a sum.

Under ``secure-aggregation`` the sum arrives with its noise. Under ``central`` the trusted server adds it.
Secure aggregation is simulated: the messages of single clients reach this process, under ``flwr run`` too,
and are added up before a strategy sees anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.clients.noise import noised_array
from fedtoll.privacy.update_noise import variances_of
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.run import ClientPlan, Run, StatisticPlan, StrategyPlan
from fedtoll.scenarios.scenario import Privacy
from fedtoll.scenarios.shares import largest_ratio, noise_shares, statistic_share
from fedtoll.scenarios.statistics import ADDITIVE, Estimate
from fedtoll.scenarios.streams import Purpose, stream
from fedtoll.strategies import registry
from fedtoll.strategies.base import Arrays, Member, Report, Strategy, Weights
from fedtoll.strategies.postprocess import smooth
from fedtoll.strategies.simplex import simplex_violation

COHORT = -1
"""The client number of the report of a sum."""


def refusal(plan: StrategyPlan, requested: Sequence[str]) -> str:
    """Return why a strategy cannot work with sums and public weights, or an empty string.

    Parameters
    ----------
    plan
        The resolved strategy.
    requested
        The names of the statistics that it requests.
    """
    cls = registry.load(plan.path)
    if not issubclass(cls, Strategy):
        return "Flower's own strategies read the reply of each client"
    if alone := [name for name in requested if name not in ADDITIVE]:
        return f"it needs each client's own {alone[0]}"
    if _definer(cls, "public_weights") is Strategy:
        return "its weights depend on what single clients report (it defines no public_weights)"
    if not issubclass(_definer(cls, "public_weights"), _definer(cls, "weigh")):
        return "it overrides weigh without public_weights, so its weights may depend on single clients"
    return ""


def _definer(cls: type, method: str) -> type:
    return next(base for base in cls.__mro__ if method in vars(base))


def check(privacy: Privacy, plan: StrategyPlan, requested: Sequence[tuple[str, Any]]) -> None:
    """Raise ``ScenarioError`` in one line if a strategy cannot run under the trust model of a scenario.

    ``requested`` has the name and parameters of each statistic that the strategy requests.
    """
    if privacy.trust != "local" and (reason := refusal(plan, [name for name, _ in requested])):
        raise ScenarioError(
            f"privacy.trust = {privacy.trust!r}: strategy {plan.name!r} sees only sums and public weights "
            f"there, but {reason}"
        )


def planned(
    privacy: Privacy,
    plan: StrategyPlan,
    statistics: Sequence[StatisticPlan],
    clients: Sequence[ClientPlan],
) -> tuple[tuple[StatisticPlan, ...], tuple[ClientPlan, ...]]:
    """Return statistics and clients with their weights in the sum and their shares of its noise.

    The sum has the largest σ of any client, so that every record spends at most ε; records of clients with
    smaller sampling rates spend less.

    Raises
    ------
    ScenarioError
        If the strategy cannot run on sums, its public weights are not valid, or too many clients collude.
    """
    check(privacy, plan, [(s.name, s.parameters) for s in statistics])
    if privacy.trust == "local":
        return tuple(statistics), tuple(clients)
    if privacy.colluding >= len(clients):
        raise ScenarioError(
            f"privacy.colluding = {privacy.colluding}: must be less than the {len(clients)} clients"
        )
    weights = public_weights(plan, clients)
    sigma = max(c.noise_multiplier for c in clients)
    shared = privacy.trust == "secure-aggregation" and sigma > 0
    shares = [0.0] * len(clients)
    if shared:
        shares = noise_shares(sigma, weights, [c.batch_size for c in clients], privacy.colluding)
    return (
        tuple(
            s.changed(
                noise_share=statistic_share(s.noise_multiplier, len(clients), privacy.colluding)
                if shared
                else 0.0
            )
            for s in statistics
        ),
        tuple(
            c.changed(noise_multiplier=sigma, weight=weight, noise_share=share)
            for c, weight, share in zip(clients, weights, shares, strict=True)
        ),
    )


def public_weights(plan: StrategyPlan, clients: Sequence[ClientPlan]) -> list[float]:
    """Return the public weight of every client under a strategy, each greater than 0, with sum 1.

    Raises
    ------
    ScenarioError
        If the strategy returns anything else.
    """
    strategy = registry.build(plan.path, plan.parameters)
    members = [Member(c.id, c.size, c.group) for c in clients]
    returned = registry.asked(strategy, "public_weights", members)
    problem = simplex_violation(returned, len(clients))
    if not problem and not (returned > 0).all():
        problem = "a client has no weight, so it cannot add its part to the sum"
    if problem:
        raise ScenarioError(f"strategies: {plan.name}: public_weights: {problem}")
    return [float(w) for w in returned]


def added_variance(run: Run) -> float:
    """Return the variance of the noise that the server adds to a coordinate of the sum: (σ η S)², or 0."""
    if run.trust != "central" or run.clip is None:
        return 0.0
    largest = largest_ratio([c.weight or 0.0 for c in run.clients], [c.batch_size for c in run.clients])
    return float((run.clients[0].noise_multiplier * run.learning_rate * run.clip * largest) ** 2)


class Sums:
    """Makes the single report that a strategy sees of every round.

    Parameters
    ----------
    run
        A run whose trust model is not ``local``.
    """

    first_stream = 0
    """The number of the first statistic's stream of noise in a round."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.member = Member(COHORT, sum(c.size for c in run.clients), "")
        self.weights: Weights = np.array([c.weight for c in run.clients], dtype=np.float64)
        self.added = 0.0  # the variance that the server added to a coordinate of the last sum
        self.clip: float | None = None  # of whole updates, if a client is the unit
        self.scale = 1.0  # the sums of a statistic are shown times this public number
        self._last: dict[str, Estimate] = {}

    def instructions(self) -> dict[str, float]:
        """Return what clients are sent besides what the strategy asks."""
        return {}

    def variances(self, clients: Sequence[ClientPlan], instructions: Mapping[str, Any]) -> list[float]:
        """Return the variance of the noise in a coordinate of every client's update."""
        return variances_of(self._run, instructions)

    def report(
        self,
        round: int,
        places: Sequence[int],
        params: Arrays,
        received: Sequence[Sequence[NDArray[np.floating]]],
        metrics: Sequence[Mapping[str, Any]],
        variances: Sequence[float],
        epsilon: float,
    ) -> Report:
        """Return the report of a round's sum.

        Parameters
        ----------
        round, places, params
            The round, from 1, the clients that take part in it, and the broadcast model.
        received, metrics
            Their new models and metrics, in the order of the plan.
        variances
            The variance of the noise in a coordinate of each client's update.
        epsilon
            The largest ε that a record has spent.
        """
        run, weights = self._run, self.weights[list(places)]
        total = self.total(params, weights, received)
        added = self.added = self._variance()
        return Report(
            client=COHORT,
            size=self.member.size,
            group="",
            update=self._with_noise(total, added**0.5, round) if added else total,
            statistics={s.name: self._statistic(i, s, round, metrics) for i, s in enumerate(run.statistics)},
            epsilon=epsilon,
            noise_variance=float(weights**2 @ np.asarray(variances)) + added,
            learning_rate=run.learning_rate,
        )

    def _variance(self) -> float:
        """Return the variance of the noise that a trusted server adds to a coordinate."""
        return added_variance(self._run)

    @staticmethod
    def total(params: Arrays, weights: Weights, received: Sequence[Sequence[NDArray[np.floating]]]) -> Arrays:
        """Return the weighted sum of the updates of some clients."""
        return tuple(
            np.asarray(
                sum(
                    (p * (w[i].astype(np.float64) - old) for p, w in zip(weights, received, strict=True)),
                    start=np.zeros(old.shape),
                )
            )
            for i, old in enumerate(params)
        )

    def _with_noise(self, total: Arrays, sd: float, round: int) -> Arrays:
        """Return the sum of the updates with the noise that a trusted server adds."""
        rng = stream(self._run.noise_seed, Purpose.SUM_NOISE, round)
        return tuple(noised_array(array, rng.standard_normal(array.shape), sd) for array in total)

    def _statistic(
        self, index: int, plan: StatisticPlan, round: int, metrics: Sequence[Mapping[str, Any]]
    ) -> Estimate:
        """Return the sum of a statistic over the clients, scaled; between releases, the last one."""
        run = self._run
        if not plan.due(round):
            return self._last[plan.name]
        shape = plan.declaration.shape(len(run.groups), run.classes)
        sent = [np.reshape(m[plan.name], shape) for m in metrics]
        value = np.sum(sent, axis=0) if sent else np.zeros(shape)
        sd = float(np.sqrt(np.sum([m[f"{plan.name}.sd"] ** 2 for m in metrics])))
        if run.trust == "central" and plan.noise_multiplier > 0:
            sd = plan.noise_multiplier * plan.sensitivity(1)
            rng = stream(run.noise_seed, Purpose.SUM_STATISTIC, round, self.first_stream + index)
            value = noised_array(value, rng.standard_normal(shape), sd)
        new = Estimate(self.scale * value, np.full(shape, self.scale * sd))
        self._last[plan.name] = smooth(self._last.get(plan.name), new, run.smoothing)
        return self._last[plan.name]
