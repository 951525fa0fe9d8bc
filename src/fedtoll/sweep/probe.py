"""A probe of the learning rate, which says how far a recipe that was not tuned is from a better one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from fedtoll.scenarios.compare import fedavg_label
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import Plan, plan

FACTORS = (0.25, 4.0)
"""The learning rates that are tried, as multiples of the scenario's."""

SEEDS = 2
"""How many of the scenario's seeds the probe uses."""

SHARE = 0.2
"""The probe is left out if its runs are more than this share of the sweep's."""


def with_probe(planned: Plan) -> Plan:
    """Return the plan with the runs of a probe: FedAvg at the tightest ε and at ∞, with other learning rates.

    A scenario without a finite ε gets none, nor one whose sweep is so small that a probe costs too much.
    If the scenario does not run FedAvg, its first strategy is probed.

    Parameters
    ----------
    planned
        A scenario without ``[tune]``.
    """
    scenario = planned.scenario
    finite = [e for e in scenario.privacy.epsilons if not isinstance(e, str) and e < math.inf]
    if not finite:
        return planned
    epsilons = [e for e in scenario.privacy.epsilons if e in {min(finite), math.inf}]
    seeds = scenario.seeds[:SEEDS]
    if len(FACTORS) * len(epsilons) * len(seeds) > SHARE * len(planned.runs):
        return planned
    runs = [run for factor in FACTORS for run in _runs(planned, factor, epsilons, seeds)]
    return dataclasses.replace(planned, probe=tuple(runs))


def _runs(
    planned: Plan, factor: float, epsilons: Sequence[float | str], seeds: Sequence[int]
) -> tuple[Run, ...]:
    scenario = planned.scenario
    labels = {s.label: s.name for s in scenario.strategies}
    leader = fedavg_label(labels) or next(iter(labels))
    rate = factor * scenario.training.learning_rate
    narrowed = scenario.model_copy(
        update={
            "seeds": tuple(seeds),
            "training": scenario.training.model_copy(update={"learning_rate": rate}),
            "privacy": scenario.privacy.model_copy(update={"epsilons": tuple(epsilons)}),
            "strategies": tuple(s for s in scenario.strategies if s.label == leader),
        }
    )
    return plan(narrowed, scenario.name, separate=planned.separate, like=planned.federation).runs
