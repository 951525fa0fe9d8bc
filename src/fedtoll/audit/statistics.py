"""Audit of a statistic: the attacker sees what a client releases with and without one record.

The record is an outlier, so that its loss is large. One release claims the exact ε of a Gaussian release with
noise multiplier z. Statistics have so much noise (z = 100 by default) that only a large part of it missing
shows in a bound; the tests of the mechanism are sharper.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from fedtoll.audit.bounds import gaussian
from fedtoll.audit.canaries import Canaries
from fedtoll.audit.white_box import KNOWN_RECORDS, Bound, told_apart, undefined
from fedtoll.clients import mechanisms, model
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import ClientPlan, Run, StatisticPlan

OBSERVATIONS = 1_000
"""The number of releases with the record, and as many without."""


def audit_statistics(
    run: Run, client: ClientPlan, seed: int, *, federation: Federation, canaries: Canaries
) -> list[Bound]:
    """Return the bounds of every statistic of a run, in its first and its last release.

    Parameters
    ----------
    run, client, federation
        The run, the client and the run's records.
    seed
        The seed of the noise, in place of the run's.
    canaries
        Canaries for the run; the record is the first of them.
    """
    if not run.statistics:
        return []
    evaluated = _evaluated(run, client, federation, canaries)
    bounds = []
    for index, plan in enumerate(run.statistics):
        due = [r for r in range(1, run.rounds + 1) if plan.due(r)]
        for which, round in {"first": due[0], "last": due[-1]}.items():
            rng = np.random.default_rng([seed, index, round])
            release = partial(_released, run, client, plan, index, round)
            bounds.append(_bound(f"{which} {plan.name}", release, evaluated, plan, run.guarantee[0], rng))
    return bounds


Records = mechanisms.EvaluatedRecords


def _bound(
    view: str,
    release: Callable[[Records, int], NDArray[np.float64]],
    evaluated: tuple[Records, Records],
    plan: StatisticPlan,
    delta: float,
    rng: np.random.Generator,
) -> Bound:
    """Return the bound of one release, given the records without and with the canary."""
    claim = gaussian(1 / plan.noise_multiplier, delta)
    seed = int(rng.integers(2**63))
    without, with_record = (release(records, seed) for records in evaluated)
    direction = with_record - without  # what the record contributes: the noise is the same
    length = float(np.linalg.norm(direction))
    if length == 0:
        return undefined(view, claim.epsilon(claim.parameter))
    seeds = rng.integers(2**63, size=(2, OBSERVATIONS)).tolist()
    out_N, in_N = (
        np.array([release(records, s) @ direction / length for s in row])
        for records, row in zip(evaluated, seeds, strict=True)
    )
    return told_apart(view, claim, out_N, in_N)


def _released(
    run: Run, client: ClientPlan, plan: StatisticPlan, index: int, round: int, records: Records, seed: int
) -> NDArray[np.float64]:
    """Return what a client releases in a round, as one vector."""
    group = run.groups.index(client.group) if client.group else None
    key = {"seed": seed, "client": client.id, "round": round, "index": index}
    return np.ravel(mechanisms.release(plan, records, group=group, **key).value)


def _evaluated(
    run: Run, client: ClientPlan, federation: Federation, canaries: Canaries
) -> tuple[Records, Records]:
    """Return some of the client's records as a statistic sees them, without and with the canary."""
    rows = federation.records(run.seed).held[client.id][:KNOWN_RECORDS]
    table = federation.table
    group = run.groups.index(client.group) if client.group else 0
    features_ND = torch.from_numpy(table.features[rows]).to(canaries.features_MD)
    labels_N = torch.from_numpy(table.label[rows])
    groups_N = torch.from_numpy(federation.groups.codes[rows])
    module = model.build(run.model, features_ND.shape[1], run.classes, run.precision)
    model.put(module, canaries.start)
    found = []
    for count in (0, 1):
        features = torch.cat([features_ND, canaries.features_MD[:count]])
        labels = torch.cat([labels_N, canaries.labels_M[:count]])
        groups = torch.cat([groups_N, torch.full((count,), group).to(groups_N)])
        found.append(
            mechanisms.evaluate(
                module,
                features,
                labels,
                groups,
                size=client.size,
                groups=len(run.groups),
                classes=run.classes,
            )
        )
    return found[0], found[1]
