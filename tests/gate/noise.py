"""Noise is as large as the ledger charges, under all instructions, and fresh wherever a key differs.

The sum of squares of N standardised draws follows χ² with N degrees of freedom. Their sd must lie between
its quantiles at one case in a million: ±1.1% for 10⁵ draws. Two fresh vectors of P draws have a correlation
within ±5.5 / √P in all but 4 cases in 10⁸.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from fedtoll.clients import mechanisms
from fedtoll.scenarios.run import Run
from tests.gate import tables
from tests.gate.replay import PLACE, SENSITIVITY, instructed
from tests.gate.system import (
    CLIP,
    RATE,
    STEP,
    Answer,
    Parameters,
    System,
    Z,
    ask,
    check,
    exactly,
    precisions,
    runs,
    start,
    with_plans,
)

DRAWS = 100_000
FALSE_ALARM = 1e-6
EMPTY = PLACE["E"]


def close(z: NDArray[np.float64], title: str, false_alarm: float = FALSE_ALARM) -> None:
    """Assert that standardised draws have a standard deviation of 1."""
    sd = math.sqrt(float(np.mean(z**2)))
    low, high = (math.sqrt(chi2.ppf(p, z.size) / z.size) for p in (false_alarm / 2, 1 - false_alarm / 2))
    assert low < sd < high, f"{title}: its sd is {sd:.4f} of what is charged (from {low:.4f} to {high:.4f})"


def independent(vectors: NDArray[np.float64], title: str, single: bool = False) -> None:
    """Assert that the rows of a matrix are uncorrelated and, unless in single precision, all draws differ."""
    found = np.abs(np.corrcoef(vectors) - np.eye(len(vectors))).max()
    within = 5.5 / math.sqrt(vectors.shape[1])
    assert found < within, (
        f"{title}: two of {len(vectors)} have a correlation of {found:.3f} (± {within:.3f})"
    )
    gap = np.diff(np.sort(vectors.ravel())).min()
    assert single or gap > 1e-13, f"{title}: two draws are equal"


def long(at: System, *, asks: bool = True) -> tuple[Run, Run]:
    """Return the two runs with enough rounds for all draws."""
    private, clipped = (run.model_copy(update={"rounds": DRAWS}) for run in runs(at, asks=asks))
    return private, clipped


def unit(client: int, sigma: float) -> float:
    """Return the sd of the noise that one step adds to each weight: η σ C / B."""
    return STEP * sigma * CLIP / (RATE * tables.SIZES[client])


@exactly()
def drawn(
    private: Run, clipped: Run, parameters: Parameters, round: int, **instructions: Any
) -> list[NDArray[np.float64]]:
    """Return each client's noise of one step, standardised: the update by DP-SGD minus that by clipping."""
    noisy, exact = (ask(run, parameters, round, **instructions) for run in (private, clipped))
    return [
        (a.update - b.update) / unit(plan.id, plan.noise_multiplier)
        for plan, a, b in zip(private.clients, noisy, exact, strict=True)
    ]


@exactly()
def summed_noise(
    private: Run, parameters: Parameters, steps: int, round: int = 1, **instructions: Any
) -> NDArray[np.float64]:
    """Return the summed noise of several steps of the client without records, in units of one step's sd."""
    (answer,) = ask(with_plans(private, steps=steps), parameters, round, [EMPTY], **instructions)
    return answer.update / unit(EMPTY, private.clients[EMPTY].noise_multiplier)


@check("noise of training")
def training(system: System) -> None:
    """Each step's noise has the sd σ C / B of the public size, even without records, for all instructions."""
    kinds = [(at, instructions) for at in precisions(system) for instructions in instructed(system.classes)]
    for i, (at, instructions) in enumerate(kinds):
        private, clipped = long(at, asks=False)
        parameters, title = start(private), f"{at.precision}, instructions {sorted(instructions)}"
        count = sum(a.size for a in parameters)
        rounds = range(1 + i, 2 + i + DRAWS // len(kinds) // (count * len(private.clients)))
        z = [np.concatenate(drawn(private, clipped, parameters, r, **instructions)) for r in rounds]
        close(np.concatenate(z), f"one step, {title}")
        rounds = range(1 + i, 2 + i + DRAWS // len(kinds) // count // (1 if system.full else 4))
        decay = 1 - STEP * instructions.get("proximal_mu", 0.0)  # FedProx's term shrinks earlier noise
        sd = math.sqrt(sum(decay ** (2 * t) for t in range(4)))
        sums = [summed_noise(private, parameters, 4, r, **instructions) for r in rounds]
        close(np.concatenate(sums) / sd, f"four steps, {title}")


@check("freshness of training's noise")
def fresh(system: System) -> None:
    """Each seed, client, round and step has noise of its own, at either precision, under all instructions."""
    for at in precisions(system):
        private, clipped = runs(at, asks=False)
        parameters = start(private)
        reseeded = private.model_copy(update={"noise_seed": private.noise_seed + 1})
        vectors = [
            v
            for run in (private, reseeded)
            for r, instructions in enumerate(instructed(system.classes)[:3], 1)
            for v in drawn(run, clipped, parameters, r, **instructions)
        ]
        for round in (1, 2):
            sums = [summed_noise(private, parameters, steps, round) for steps in (1, 2, 3, 4)]
            vectors += list(np.diff(sums, axis=0))  # the first is included above
        independent(np.array(vectors), f"noise of training, {at.precision}", at.precision == "float32")


@exactly()
def released(private: Run, parameters: Parameters, round: int, **instructions: Any) -> NDArray[np.float64]:
    """Return the standardised noise of all clients' statistics, ``[client, cell]``.

    It is the difference of the statistics under two noise seeds: the exact values are equal and cancel.
    """
    reseeded = private.model_copy(update={"noise_seed": private.noise_seed + 1})
    rows = []
    answers = (ask(run, parameters, round, **instructions) for run in (private, reseeded))
    for a, b in zip(*answers, strict=True):
        rows.append(np.concatenate([_cells(a, b, name) for name in SENSITIVITY]))
    return np.array(rows)


def _cells(a: Answer, b: Answer, name: str) -> NDArray[np.float64]:
    sd = Z * SENSITIVITY[name](tables.SIZES[a.client])
    for answer in (a, b):
        stated = answer.metrics[f"{name}.sd"]
        assert abs(stated / sd - 1) < 1e-12, f"{name} of client {a.client}: stated sd {stated}, not {sd}"
    return (a.statistic(name) - b.statistic(name)) / (sd * math.sqrt(2))


@check("noise of statistics")
def statistics(system: System) -> None:
    """Each cell of a statistic has noise of its own, of z times the sensitivity, under all instructions."""
    kinds = [(at, instructions) for at in precisions(system) for instructions in instructed(system.classes)]
    rounds = [(i, *kinds[i % len(kinds)]) for i in range(64 if system.full else 32)]
    draws = []
    for i, at, instructions in rounds:
        private, _ = long(at)
        draws.append(released(private, start(private), i + 1, **instructions))
    z = np.array(draws)  # round, client, cell
    close(z, "all statistics")
    for i, (at, instructions) in enumerate(kinds):
        close(z[i :: len(kinds)], f"{at.precision}, instructions {sorted(instructions)}")
    lengths = np.cumsum([len(_cells_of(private, name)) for name in SENSITIVITY])
    for name, part in zip(SENSITIVITY, np.split(z, lengths[:-1], axis=2), strict=True):
        close(part, name)
    independent(z.transpose(1, 0, 2).reshape(z.shape[1], -1), "statistics of two clients")
    independent(z.transpose(2, 0, 1).reshape(z.shape[2], -1), "cells of statistics")
    independent(z.reshape(len(z), -1), "statistics of two rounds")


def _cells_of(run: Run, name: str) -> NDArray[np.float64]:
    (plan,) = (s for s in run.statistics if s.name == name)
    return np.zeros(plan.declaration.shape(len(run.groups), run.classes)).ravel() if name else np.zeros(0)


def in_full(system: System, name: str) -> None:
    """Check 10⁵ draws of one statistic from the mechanism itself: over the wire they would take minutes."""
    private, _ = runs(system)
    (index,) = (i for i, s in enumerate(private.statistics) if s.name == name)
    plan, empty = private.statistics[index], np.zeros(0, dtype=np.int64)
    evaluated = mechanisms.EvaluatedRecords(
        *(np.zeros(0), empty, empty, empty, 20, len(private.groups), private.classes),
        np.zeros((0, private.classes)),
    )
    cells = plan.declaration.shape(evaluated.groups, evaluated.classes)
    draws = [
        mechanisms.release(
            plan, evaluated, group=None, seed=system.seed, client=client, round=round, index=index
        ).value
        for client in range(10)
        for round in range(1, 1 + math.ceil(DRAWS / 10 / math.prod(cells)))
    ]
    close(np.array(draws) / (Z * SENSITIVITY[name](20)), name)
