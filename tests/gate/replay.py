"""Grey-box replay: the same run on two raw tables that differ by one record.

The batches are injected: the sampler draws geometric gaps between rows, so that one more record would shift
all later ones. The noise depends on the seed alone, so it is the same in both runs and cancels. After one
step, B · (w_after − w_before) / η of the two runs differ by the clipped gradient of the one record, and a
statistic by the contribution of the record before noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tests.gate import tables
from tests.gate.system import (
    CLIP,
    LOSS_CLIP,
    RATE,
    ROUNDING,
    STEP,
    Answer,
    System,
    ask,
    check,
    everybody,
    exactly,
    masks,
    neighbours,
    precisions,
    start,
    with_plans,
)

SENSITIVITY: dict[str, Callable[[int], float]] = {
    "mean_loss": lambda n: LOSS_CLIP / n,
    "error_rate": lambda n: 1 / n,
    "group_loss": lambda n: 2**0.5,
    "label_group_loss": lambda n: 2**0.5,
    "group_confusion": lambda n: 1.0,
    "group_score": lambda n: 1.0,
}
"""The L2 sensitivity of every statistic for a public size n, derived by hand."""

MODELS: list[tuple[int, int, bool, str]] = [
    (1, 1, False, "float64"),
    (1, -1, True, "float32"),
    (2, 1, True, "float64"),
    (2, -1, False, "float32"),
]
"""Seed and sign of the broadcast weights, whether with instructions, and precision. A record with a small
loss under one model has a large loss under its negative."""

PLACE = {site: i for i, site in enumerate(tables.SITES)}


def weighed(classes: int) -> dict[str, Any]:
    """Return the instructions that clients may receive in addition to the model."""
    scores = {"score_weights": [-6.0, 5.0]} if classes == 2 else {}  # refused with more
    return {"group_weights": [4.0, 0.5], **scores, "proximal_mu": 0.3}


def instructed(classes: int) -> list[dict[str, Any]]:
    """Return what clients receive in addition to the model: nothing, all instructions, and each by itself."""
    every = weighed(classes)
    return [{}, every, *({key: value} for key, value in every.items())]


def moves(system: System) -> tuple[str, ...]:
    return tuple(tables.MOVES)[: None if system.full else 3]


Pair = tuple[str, list[Answer], list[Answer], float]
"""The record, the answers with and without it, and the tolerance."""


def pairs(system: System, group: str = "") -> list[Pair]:
    """Return the answers of all clients with and without a record, for several models.

    With a group, the plan declares it as the group of every client: they release its cells only.
    """
    found = []
    with masks(everybody), exactly():
        for seed, sign, told, precision in MODELS[: None if system.full else 2]:
            instructions = weighed(system.classes) if told else {}
            at = replace(system, precision=precision)
            known: dict[str, list[Answer]] = {}
            for moved in moves(system):
                full, without = (with_plans(run, group=group) for run in neighbours(at, moved))
                parameters = [sign * a for a in start(full, seed)]
                if not known:
                    known[""] = ask(full, parameters, **instructions)
                answers = ask(without, parameters, **instructions)
                found.append((moved, known[""], answers, ROUNDING[precision]))
    return found


def distance(a: Answer, b: Answer) -> float:
    """Return ‖B · Δw / η‖ of two answers of one client."""
    return float(np.linalg.norm(RATE * tables.SIZES[a.client] * (a.update - b.update) / STEP))


def touched(moved: str) -> set[int]:
    """Return the two clients whose records differ: one loses a record, one gets another."""
    return {PLACE[tables.MOVES[moved]], PLACE["Z"]}


@check("replay of training")
def training(system: System) -> None:
    """One record moves its client's step by at most the clip, and the steps of other clients not at all."""
    reached = dict.fromkeys(moves(system), 0.0)
    for moved, full, without, rounding in pairs(system):
        for a, b in zip(full, without, strict=True):
            limit = CLIP if a.client in touched(moved) else 0.0
            found = distance(a, b)
            assert found <= limit + rounding, (
                f"{moved}: client {a.client} moves by {found:.4g}, more than {limit:g}"
            )
        client = PLACE[tables.MOVES[moved]]
        reached[moved] = max(reached[moved], distance(full[client], without[client]))
    for moved, most in reached.items():
        assert most > CLIP / 10, f"{moved}: the record moves its client by {most:.4g} only: nothing is tested"


@check("replay of statistics")
def statistics(system: System) -> None:
    """One record changes a statistic, before noise, by at most the sensitivity that is charged."""
    reached = dict.fromkeys(SENSITIVITY, 0.0)
    declared = [pair for group in tables.SEXES * system.full for pair in pairs(system, group)]
    for moved, full, without, rounding in [*pairs(system), *declared]:
        for a, b in zip(full, without, strict=True):
            for name, bound in SENSITIVITY.items():
                limit = bound(tables.SIZES[a.client]) if a.client in touched(moved) else 0.0
                found = float(np.linalg.norm(a.statistic(name) - b.statistic(name)))
                assert found <= limit * (1 + rounding) + rounding, (
                    f"{moved}: {name} of client {a.client} moves by {found:.4g}, more than {limit:.4g}"
                )
                if limit:
                    reached[name] = max(reached[name], found / limit)
    for name, most in reached.items():
        assert most > 0.1, f"{name}: no record moves it by more than {most:.2g} of its sensitivity"


@check("non-finite record")
def not_finite(system: System) -> None:
    """A record whose loss and gradient overflow neither ends the round nor has more influence than others."""
    for at in precisions(system):
        _not_finite(at)


HUGE = {"float64": 1e303, "float32": 1e35}
"""Weights by precision, with which a feature of 10⁶ overflows."""


def _not_finite(system: System) -> None:
    rounding = ROUNDING[system.precision]
    full, without = neighbours(system, "outlier")
    parameters = start(full)
    parameters[0][:, -1] *= HUGE[system.precision]  # x3 is 0 for all records but the outlier
    with masks(everybody), exactly():
        with_record, without_record = ask(full, parameters), ask(without, parameters)
    for a, b in zip(with_record, without_record, strict=True):
        limit = CLIP if a.client in touched("outlier") else 0.0
        assert distance(a, b) <= limit + rounding, f"client {a.client} moves by {distance(a, b):.4g}"
        for name, bound in SENSITIVITY.items():
            found = float(np.linalg.norm(a.statistic(name) - b.statistic(name)))
            most = bound(tables.SIZES[a.client]) if a.client in touched("outlier") else 0.0
            assert found <= most * (1 + rounding) + rounding, (
                f"{name} of client {a.client} moves by {found:.4g}"
            )
