"""Noise of many clients: as large as the ledger charges in late steps and rounds, and shared by no two.

All draws of training together are over a million (a fifth of that with Opacus, unless in full). At a false
alarm of one in a million this means ± .35% (.8%): noise that is 1.5% too small is found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.clients import mechanisms
from fedtoll.scenarios.run import Run
from tests.gate import many
from tests.gate.many import CLIP, SENSITIVITY, STEP, Z
from tests.gate.noise import close
from tests.gate.system import (
    ROUNDING,
    Answer,
    System,
    ask,
    check,
    exactly,
    masks,
    nobody,
    start,
    with_plans,
)

HIDDEN = 300
"""A wide model: 2,401 weights, so a single update is enough to see a missing step."""

FEW = 2
"""The steps in which two clients' noise is compared: noise shifted by one step is shared in the other."""

SEEN = (1, 4, 5, 12, 13, 22, 28, 34, 37, 40)
"""The rounds that are observed."""

WEIGHED: dict[str, Any] = {
    "group_weights": [4.0, 0.5, 1.0],
    "score_weights": [-9.0, 20.0, 3.0],
    "proximal_mu": 0.3,
}
INSTRUCTIONS: list[dict[str, Any]] = [{}, WEIGHED, *({key: value} for key, value in WEIGHED.items())]
"""What clients receive in addition to the model: nothing, all instructions, and each by itself."""

CELLS = {
    **{"mean_loss": 1, "error_rate": 1, "group_loss": 2},
    **{"label_group_loss": 4, "group_confusion": 4, "group_score": 2},
}
"""The cells of every statistic for the client's own group."""

REPLACED = ("group_confusion", "group_score")
"""Statistics that replacing a record may move by √2 times as much as adding it."""

Vectors = NDArray[np.float64]


def trained(
    run: Run, round: int, clients: Sequence[int], instructions: dict[str, Any], steps: int = 0
) -> Vectors:
    """Return the noise of some clients in one round, ``[client, weight]``, in units of its sd.

    No record is drawn, so an update is the noise of T steps, or of a given number. FedProx's term shrinks
    earlier noise.
    """
    with masks(nobody):
        answers = ask(run, start(run), round, clients, **instructions)
    rows = []
    for client, answer in zip(clients, answers, strict=True):
        decay = 1 - STEP * instructions.get("proximal_mu", 0.0)
        sd = math.sqrt(sum(decay ** (2 * t) for t in range(steps or many.STEPS[client])))
        sigma = run.clients[client].noise_multiplier
        rows.append(answer.update / (STEP * sigma * CLIP / many.BATCH * sd))
    return np.array(rows)


@check("many clients: noise of training")
def training(system: System) -> None:
    """Every client's noise in every step and round has the sd σ C / B; all together to within ± .35%."""
    found: list[Vectors] = []
    clients = many.observed(system)
    kinds = [(p, i) for i in INSTRUCTIONS for p in ROUNDING]
    for round, (precision, instructions) in zip(SEEN, kinds, strict=True):
        run, _ = many.runs(replace(system, precision=precision), asks=False, hidden=HIDDEN)
        found.append(trained(run, round, clients, instructions))
        close(found[-1], f"round {round}, {precision}, instructions {sorted(instructions)}")
        for client, z in zip(clients, found[-1], strict=True):
            close(z, f"round {round}, client {client}", 1e-9)
    z = np.array(found)  # round, client, weight
    assert z.size > (1_000_000 if len(clients) == len(many.GROUP) else 200_000)
    close(z, "all rounds and clients")
    for name in many.CLIENTS:
        close(z[:, [many.GROUP[client] == name for client in clients]], f"clients of {name}")


@check("many clients: freshness")
def fresh(system: System) -> None:
    """No two clients, rounds or seeds share their noise, not even shifted by some steps or weights."""
    run, _ = many.runs(system, asks=False, hidden=HIDDEN)
    run = with_plans(run, steps=FEW)
    reseeded = run.model_copy(update={"noise_seed": run.noise_seed + 1})
    clients = many.observed(system)
    z = [trained(r, round, clients, {}, FEW) for r, round in ((run, 13), (run, 34), (reseeded, 13))]
    vectors = np.concatenate(z)
    # Of 18,000 pairs, a false alarm at 7 sd has probability 5e-8.
    found = np.abs(np.corrcoef(vectors) - np.eye(len(vectors)))
    within = 7 / math.sqrt(vectors.shape[1])
    a, b = np.unravel_index(found.argmax(), found.shape)
    assert found.max() < within, (
        f"updates {a} and {b} have a correlation of {found.max():.3f} (± {within:.3f})"
    )
    _not_shifted(z[0])


def _not_shifted(vectors: Vectors) -> None:
    """Assert that no client's noise is another's, shifted by up to half of the weights."""
    clients, size = vectors.shape
    lags = size // 2
    spectra = np.fft.rfft(vectors, 2 * size)
    overlap = np.sqrt(size - np.arange(lags))
    # Of 4.8 million sums, a false alarm at 8 sd has probability 6e-9.
    for a in range(clients):
        products = np.fft.irfft(spectra[a].conj() * np.delete(spectra, a, axis=0), 2 * size)[:, :lags]
        most = float(np.abs(products / overlap).max())
        assert most < 8, f"the noise of client {a} is that of another, shifted ({most:.1f} sd)"


def _cells(a: Answer, exact: Answer, name: str) -> Vectors:
    sd = Z * SENSITIVITY[name](many.SIZES[a.client])
    stated, count = a.metrics[f"{name}.sd"], len(a.statistic(name))
    assert abs(stated / sd - 1) < 1e-12, f"{name} of client {a.client}: stated sd {stated}, not {sd}"
    assert count == CELLS[name], f"{name} of client {a.client} has {count} cells, not {CELLS[name]}"
    return (a.statistic(name) - exact.statistic(name)) / sd


@check("many clients: noise of statistics")
def statistics(system: System) -> None:
    """Statistics of a public group have noise of their own in every round, of z times the sensitivity."""
    draws, clients = [], many.observed(system)
    for rounds, precision in (((1, 13, 28, 34), "float64"), ((4, 22, 37, 40), "float32")):
        run, clipped = many.runs(replace(system, precision=precision), hidden=2)
        run, clipped = with_plans(run, steps=1), with_plans(clipped, steps=1)
        exact = ask(clipped, start(run), 1, clients)  # no loss reaches the clip
        for round, instructions in zip(rounds, INSTRUCTIONS[1:], strict=True):
            answers = ask(run, start(run), round, clients, **instructions)
            pairs = list(zip(answers, exact, strict=True))
            draws.append(np.array([np.concatenate([_cells(*p, name) for name in CELLS]) for p in pairs]))
            close(draws[-1], f"statistics of round {round}")
    z = np.array(draws)  # round, client, cell
    close(z, "all statistics")
    for name, part in zip(CELLS, np.split(z, np.cumsum(list(CELLS.values()))[:-1], axis=2), strict=True):
        close(part, name)
    by_client = z.transpose(1, 0, 2).reshape(z.shape[1], -1)
    most = float(np.abs(np.corrcoef(by_client) - np.eye(len(by_client))).max())
    # Of 2,000 pairs with 112 cells each, a false alarm has probability 1e-13.
    assert most < 0.8, f"the statistics of two clients have a correlation of {most:.3f}"
    _in_bulk(run, system.seed)


def _in_bulk(run: Run, seed: int) -> None:
    """Check a million draws of the mechanism: over the wire they would take minutes."""
    groups, rounds = 500, 150
    codes = np.zeros(0, dtype=np.int64)
    empty = mechanisms.EvaluatedRecords(
        np.zeros(0), codes, codes, codes, 20, groups, run.classes, np.zeros((0, run.classes))
    )
    z = []
    for index, plan in enumerate(run.statistics):
        for i in range(rounds):
            key = {"seed": seed, "client": 1000 + i % 7, "round": 1 + i, "index": index}
            value = np.ravel(mechanisms.release(plan, empty, group=None, **key).value)
            z.append(value / (Z * SENSITIVITY[plan.name](20)))
    draws = np.concatenate(z)
    assert draws.size > 700_000
    close(draws, "a million draws of statistics")


@check("many clients: replay of statistics")
@exactly()
def replay(system: System) -> None:
    """An extreme record changes the statistics of its two clients by at most their sensitivity."""
    for at in (replace(system, precision=p) for p in ROUNDING):
        (plain, _), (extreme, _) = (many.runs(at, extreme=e, hidden=2) for e in (False, True))
        assert plain.clients == extreme.clients, "the plan depends on the records"
        pairs = list(zip(*(ask(with_plans(r, steps=1), start(r), 34) for r in (plain, extreme)), strict=True))
        holders = dict.fromkeys(many.CLIENTS, 0)
        for a, b in pairs:
            changed = False
            for name, bound in SENSITIVITY.items():
                most = float(np.linalg.norm(a.statistic(name) - b.statistic(name)))
                limit = bound(many.SIZES[a.client]) * (math.sqrt(2) if name in REPLACED else 1)
                assert most <= limit * (1 + 1e-6), (
                    f"{name} of client {a.client} moves by {most:.4g}, more than {limit:.4g}"
                )
                changed |= most > 1e-6 * limit
            holders[many.GROUP[a.client]] += changed
        assert set(holders.values()) == {many.COPIES}, f"a record changes the statistics of {holders} clients"
