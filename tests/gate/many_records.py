"""Records of many clients: who holds them, which batches they enter, and how far one moves a late step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.run import Run
from tests.gate import many
from tests.gate.many import CLIP
from tests.gate.many_noise import INSTRUCTIONS
from tests.gate.system import (
    ROUNDING,
    Parameters,
    System,
    ask,
    check,
    everybody,
    exactly,
    masks,
    start,
    with_plans,
)

TINY = 2.0**-28
"""The learning rate with which batches are decoded, see ``sampler.py``: here in up to 20 steps."""

ZEROS = [np.zeros((1, many.ROWS + 1)), np.zeros(1)]
"""The weights of a linear model: one for each code, and one for a missing code."""

SMALL = 2.0**-7
"""The learning rate of the replay: noise in many steps must not saturate the model before the last."""

ROUNDS = (1, 12, 34)

Bits = NDArray[np.int64]


@check("many clients: sizes and records")
def records(system: System) -> None:
    """The plan follows from the public counts, and two clients of its group hold each training record."""
    for asks in (True, False):
        private, clipped = many.runs(system, codes=True, step=TINY, asks=asks)
        for run in (private, clipped):
            facts = [(c.group, c.size, c.batch_size, c.sampling_rate, c.steps) for c in run.clients]
            batch = float(many.BATCH)
            rows = zip(many.GROUP, many.SIZES, many.RATES, many.STEPS, strict=True)
            assert facts == [(g, n, batch, q, t) for g, n, q, t in rows], "the plan is not that of the file"
            assert run.groups == tuple(many.COUNTS)
    with masks(everybody), exactly():
        answers = ask(with_plans(clipped, steps=1), ZEROS)
    holders = np.array([answer.update[: many.ROWS] != 0 for answer in answers])  # client, record
    assert not holders[:, ~many.trains(system.seed % many.FOLDS)].any(), "a record of the test fold trains"
    for g, name in enumerate(many.COUNTS):
        held = holders[[group == name for group in many.GROUP]]
        expected = many.COPIES * (many.trains(system.seed % many.FOLDS) & (many.groups() == g))
        assert (held.sum(axis=0) == expected).all(), (
            f"{many.COPIES} clients of {name} do not hold each record"
        )


def bits(run: Run, round: int, clients: Sequence[int]) -> list[Bits]:
    """Return for some clients whether a record was in a step's batch, ``[record, step]``."""
    found = []
    with exactly():
        answers = ask(run, ZEROS, round, clients, proximal_mu=0.5 / TINY)
    for answer in answers:
        title = f"client {answer.client}"
        once = TINY * 0.5 / many.BATCH  # the gradient of length √½ is not clipped
        steps = many.STEPS[answer.client]
        digits = np.abs(answer.update[: many.ROWS]) / once * 2 ** (steps - 1)
        whole = np.rint(digits).astype(np.int64)
        assert np.abs(digits - whole).max() < 0.05, f"{title}: a step is not a clipped gradient"
        assert (whole < 2**steps).all(), f"{title}: not {steps} steps, or a record twice in one"
        found.append(whole[:, None] >> np.arange(steps) & 1)
    return found


@check("many clients: sampler")
def sampler(system: System) -> None:
    """Each record enters each batch with its client's q, independently of other clients, steps and rounds."""
    private, clipped = many.runs(system, asks=False, codes=True, step=TINY)
    clients = many.observed(system)
    run = with_plans(private, noise_multiplier=1e-14)  # below the last digit
    with masks(everybody), exactly():
        answers = ask(with_plans(clipped, steps=1), ZEROS, 1, clients)
    held = [answer.update[: many.ROWS] != 0 for answer in answers]
    by_round = [bits(run, round, clients) for round in ROUNDS]
    standardised = []  # by client: round, step, record
    for i, (client, rows) in enumerate(zip(clients, held, strict=True)):
        drawn = np.array([found[i].T for found in by_round])
        assert not drawn[:, :, ~rows].any(), f"client {client}: its batch has records of other clients"
        q = many.RATES[client]
        standardised.append((drawn[:, :, rows] - q) / math.sqrt(q * (1 - q)))
    for name in many.CLIENTS:
        members = [z for z, client in zip(standardised, clients, strict=True) if many.GROUP[client] == name]
        for step in range(members[0].shape[1]):
            _centred([z[:, step] for z in members], f"the rate of {name} in step {step}")
        fewest = min(z.shape[2] for z in members)
        _no_pairs([z[:, :, :fewest] for z in members], f"clients of {name}")
    for client, z in zip(clients, standardised, strict=True):
        _centred([z], f"the rate of client {client}")
    for i, round in enumerate(ROUNDS):
        _centred([z[i] for z in standardised], f"the rate in round {round}")
    for lag in range(1, max(many.STEPS)):
        _centred([z[:, :-lag] * z[:, lag:] for z in standardised], f"two steps {lag} apart")
    for a, b in ((0, 1), (0, 2), (1, 2)):
        _centred([z[a] * z[b] for z in standardised], f"rounds {ROUNDS[a]} and {ROUNDS[b]}")


def _centred(parts: list[NDArray[np.float64]], title: str) -> None:
    """Assert that the mean of products of standardised draws, or of draws, is 0 but for chance.

    Their sum is skewed, because q is small: the limit is wider than a normal's.
    """
    values = np.concatenate([p.ravel() for p in parts])
    if not values.size:
        return
    found, within = float(values.mean()), 7 / math.sqrt(values.size) + 120 / values.size
    assert abs(found) < within, f"{title}: the batches are off by {found:.3f} (± {within:.3f})"


def _no_pairs(clients: list[NDArray[np.float64]], title: str) -> None:
    z = np.array([c.ravel() for c in clients])
    found = float(np.abs(z @ z.T / z.shape[1] - np.diag((z**2).mean(axis=1))).max())
    within = 7 / math.sqrt(z.shape[1]) + 120 / z.shape[1]
    assert found < min(within, 0.9), f"{title}: two have correlated batches ({found:.3f}, ± {within:.3f})"


def last_batch(without: int, step: int) -> Callable[[np.random.Generator, int, float], Bits]:
    """Return batches of all records up to a step (the last if −1), there without one, then none."""
    drawn = dict.fromkeys(many.RATES, 0)

    def chosen(rng: np.random.Generator, count: int, rate: float) -> Bits:
        rate = min(many.RATES, key=lambda q: abs(q - rate))
        total = round(1 / rate)
        now, at = drawn[rate] % total, step % total
        drawn[rate] += 1
        rows = np.arange(count if now <= at else 0)
        return rows[rows != without] if now == at else rows

    return chosen


MOST_RECORDS = 12
"""The most records that are tried until each client moves and one of their gradients is clipped."""


@check("many clients: replay of training")
def replay(system: System) -> None:
    """In late steps and rounds too, one record moves a client's step by at most the clip."""
    cases: list[tuple[int, int, dict[str, Any]]] = [
        (1, -1, {}),
        (34, 6, INSTRUCTIONS[1]),
        (40, -1, INSTRUCTIONS[2]),
        (13, 9, INSTRUCTIONS[3]),
        (28, -1, INSTRUCTIONS[4]),
    ]
    thorough = system.full or system.engine == "cohort"
    for i, (round, step, instructions) in enumerate(cases[: None if thorough else 2]):
        precision = list(ROUNDING)[i % 2]
        at = System(system.engine, seed=system.seed, precision=precision)
        run, _ = many.runs(at, asks=False, extreme=True, step=SMALL)
        parameters = start(run, seed=1 + i)
        reached = dict.fromkeys(many.SOME, 0.0)
        whole = _moves(run, parameters, round, -1, step, instructions)
        for record in range(MOST_RECORDS):
            shown = min(reached.values()) > CLIP / 10 and max(reached.values()) > 0.9 * CLIP
            if shown and record >= (4 if thorough else 2):
                break
            part = _moves(run, parameters, round, record, step, instructions)
            for client in many.SOME:
                found = float(np.linalg.norm(many.BATCH * (whole[client] - part[client]) / SMALL))
                decay = 1 - SMALL * instructions.get("proximal_mu", 0.0)
                found /= decay ** (many.STEPS[client] - 1 - step % many.STEPS[client])
                assert found <= CLIP + 100 * ROUNDING[precision], (
                    f"round {round}, step {step}: client {client} moves by {found:.4g}, more than {CLIP}"
                )
                reached[client] = max(reached[client], found)
        least, most = min(reached.values()), max(reached.values())
        assert least > CLIP / 10, f"round {round}, step {step}: nothing is tested ({reached})"
        assert most > 0.9 * CLIP, f"round {round}, step {step}: no gradient reaches the clip ({reached})"


def _moves(
    run: Run, parameters: Parameters, round: int, without: int, step: int, instructions: dict[str, Any]
) -> dict[int, NDArray[np.float64]]:
    """Return the updates of some clients, whose batch in a step lacks one record."""
    found = {}
    with masks(last_batch(without, step)), exactly():
        for answer in ask(run, parameters, round, many.SOME, **instructions):
            found[answer.client] = answer.update
    return found
