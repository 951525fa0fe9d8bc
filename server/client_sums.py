"""A client as the unit of privacy: the weights and shares of the plan, and the report of a round's sum.

Formulas are those of :mod:`fedtoll.scenarios.client_unit`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.clients.noise import noised_array
from fedtoll.clients.updates import BIT, CLIP
from fedtoll.scenarios import client_unit
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.participation import chances_of
from fedtoll.scenarios.run import ClientPlan, Run, StatisticPlan, StrategyPlan
from fedtoll.scenarios.scenario import Scenario
from fedtoll.scenarios.streams import Purpose, stream
from fedtoll.server import sums
from fedtoll.server.sums import Sums, public_weights
from fedtoll.strategies.base import Arrays, Report, Weights


def planned(
    scenario: Scenario,
    plan: StrategyPlan,
    statistics: Sequence[StatisticPlan],
    clients: Sequence[ClientPlan],
) -> tuple[tuple[StatisticPlan, ...], tuple[ClientPlan, ...]]:
    """Return statistics and clients; both with their shares of a sum's noise, clients with their weights.

    Where clients are the unit, weights are capped, and so is what a client adds to a statistic. Else this is
    :func:`fedtoll.server.sums.planned`.

    Raises
    ------
    ScenarioError
        If the strategy's public weights are not valid, or too many clients collude.
    """
    privacy = scenario.privacy
    if privacy.unit == "record":
        return sums.planned(privacy, plan, statistics, clients)
    shared = privacy.trust == "secure-aggregation"
    honest = client_unit.together(scenario.participation, len(clients)) - privacy.colluding if shared else 1
    if shared and honest < 1:
        raise ScenarioError(
            f"privacy.colluding = {privacy.colluding}: must be less than the "
            f"{honest + privacy.colluding} clients of a round"
        )
    weights = client_unit.capped(public_weights(plan, clients), privacy.weight_cap)
    sigma, most = max(c.noise_multiplier for c in clients), client_unit.largest(weights)
    z = client_unit.update_multiplier(sigma, privacy.adaptive_clip is not None)
    bounded = tuple(
        s.changed(
            noise_share=client_unit.statistic_share(s.noise_multiplier, honest) if shared else 0.0,
            client_bound=client_unit.statistic_bound(
                s.declaration.sensitivity(1), [c.size for c in clients], scenario.statistics.record_cap
            ),
        )
        for s in statistics
    )
    return bounded, tuple(
        c.changed(
            noise_multiplier=sigma,
            weight=weight,
            noise_share=client_unit.update_share(z, most, weight, honest) if shared else 0.0,
        )
        for c, weight in zip(clients, weights, strict=True)
    )


class ClientSums(Sums):
    """Makes the single report that a strategy sees of every round of a run whose unit is the client.

    ``clip`` is C_t, the bound of an update in the next round; ``None`` without clipping. ``scale`` is n over
    the expected number of records (by public sizes) of those who take part in a round.
    """

    first_stream = 1
    """The bit of the adaptive clip has the stream 0."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        chances = chances_of(run.participation, run.clients)
        weights = [c.weight or 0.0 for c in run.clients]
        self.weights: Weights = np.array(client_unit.coefficients(weights, chances.tolist()))
        self.clip = run.clip
        sizes = np.array([c.size for c in run.clients], dtype=np.float64)
        self.scale = float(sizes.sum() / (sizes @ chances))
        self._expected = float(chances.sum())

    def instructions(self) -> dict[str, float]:
        """Return the clip of the round, if it is adaptive."""
        return {} if self.clip is None or self._run.adaptive_clip is None else {CLIP: self.clip}

    def variances(self, clients: Sequence[ClientPlan], instructions: Mapping[str, Any]) -> list[float]:
        """Return the variance of the noise that each client added to a coordinate of its update."""
        return [((c.noise_share or 0.0) * (self.clip or 0.0)) ** 2 for c in clients]

    def _variance(self) -> float:
        """Return the variance of the noise that a trusted server adds to a coordinate: (z_Δ C_t max c_k)²."""
        run = self._run
        if run.trust != "central" or self.clip is None:
            return 0.0
        z = client_unit.update_multiplier(run.clients[0].noise_multiplier, run.adaptive_clip is not None)
        return float((z * self.clip * client_unit.largest(self.weights.tolist())) ** 2)

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
        """Return the report of a round's sum, which has its noise even if nobody took part."""
        report = super().report(round, places, params, received, metrics, variances, epsilon)
        self._follow(round, metrics)
        return report

    def _follow(self, round: int, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Move the adaptive clip towards the quantile of the norms that the run states."""
        run = self._run
        if self.clip is None or run.adaptive_clip is None:
            return
        bits = math.fsum(m[BIT] for m in metrics)
        z = client_unit.bit_multiplier(run.clients[0].noise_multiplier)
        if run.trust == "central" and z > 0:
            rng = stream(run.noise_seed, Purpose.SUM_STATISTIC, round, 0)
            bits = float(noised_array(np.array([bits]), rng.standard_normal(1), z / 2)[0])
        within = 0.5 + bits / self._expected
        self.clip *= math.exp(-client_unit.PACE * (within - run.adaptive_clip))
