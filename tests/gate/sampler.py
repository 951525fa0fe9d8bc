"""The sampler, read off the wire to the bit: who was in which batch of which step.

Every record has a feature of its own (its code), so coordinate i of the weights moves only if record i is in
the batch, and by the same amount each time: the gradient is clipped, and the step so small that it does not
change. FedProx's term draws the weights back to half of the way after each step (η μ = 1/2), so that the sum
over T steps is a binary number whose digits are the steps: the last step's counts 1, the one before it 1/2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.run import Run
from tests.gate import tables
from tests.gate.system import CLIP, RATE, System, ask, check, runs, with_plans
from tests.shared import records

STEPS = 16
TINY = 2.0**-20
"""The learning rate."""

BITS = NDArray[np.int64]


def read(run: Run, round: int) -> list[BITS]:
    """Who was in which batch: for every client 0 or 1, ``[record, step]``."""
    held = records(run)
    features = held.table.features.shape[1]
    zeros = [np.zeros((1, features)), np.zeros(1)]
    answers = ask(run, zeros, round, proximal_mu=0.5 / TINY)
    bits = []
    for plan, rows, answer in zip(run.clients, held.held, answers, strict=True):
        # At weights of 0 the gradient is ±1/2 in the record's coordinate and in the bias; it is clipped to C.
        once = TINY * CLIP * 0.5 / (math.sqrt(0.5) + 1e-6) / (RATE * tables.SIZES[plan.id])
        sign = 2 * held.table.label[rows] - 1
        digits = sign * answer.update[rows] / once * 2 ** (STEPS - 1)
        whole = np.rint(digits).astype(np.int64)
        assert np.abs(digits - whole).max(initial=0) < 0.05, (
            f"client {plan.id}: a step is no clipped gradient"
        )
        assert ((whole >= 0) & (whole < 2**STEPS)).all(), (
            f"client {plan.id}: not {STEPS} steps, or twice in one"
        )
        bits.append(whole[:, None] >> np.arange(STEPS) & 1)
        others = np.delete(answer.update[:features], rows)
        assert not (np.abs(others) > 1e-9 * once).any(), (
            f"client {plan.id}: records of others are in its batch"
        )
    return bits


def drawn(system: System) -> list[NDArray[np.int64]]:
    """Who was in which batch, ``[round, step, record]`` for every client."""
    small = System(system.engine, "logistic", 2, system.seed)
    other = tuple(c for c in tables.COLUMNS if c != "code")
    rounds = 16 if system.full else 4
    private, _ = runs(small, asks=False, rounds=rounds, steps=STEPS, step=TINY, exclude=other)
    run = with_plans(private, noise_multiplier=1e-14)  # still DP-SGD, and below the last digit
    made = [read(run, r) for r in range(1, 1 + rounds)]
    return [np.array([bits[k].T for bits in made]) for k in range(len(run.clients))]


@check("sampler")
def poisson(system: System) -> None:
    """Each record enters each batch by itself with probability q, whatever others, step and round."""
    bits = drawn(system)
    for client, held in enumerate(tables.HELD):
        assert bits[client].shape[2] == held, (
            f"client {client} holds {bits[client].shape[2]} records, not {held}"
        )
        if held:
            _near(bits[client], RATE, f"client {client}: the rate")
    variance, excess = RATE * (1 - RATE), []
    for of in bits:
        if (held := of.shape[2]) > 1:
            excess.append((of.sum(axis=2) - held * RATE).ravel() ** 2 / (held * variance))
    found = np.concatenate(excess)
    within = 5.5 * math.sqrt(2.5 / len(found))
    assert abs(found.mean() - 1) < within, (
        f"the size of a batch has {found.mean():.3f} of the variance of Poisson sampling (± {within:.3f})"
    )
    shared = bits[0][:, :, : tables.HELD[0]], bits[1][:, :, : tables.HELD[0]]
    for lag in range(1, STEPS):
        _uncorrelated([(of[:, :-lag], of[:, lag:]) for of in bits], f"two steps {lag} apart")
    for lag in range(1, len(bits[0])):
        _uncorrelated([(of[:-lag], of[lag:]) for of in bits], f"two rounds {lag} apart")
    all_of = np.concatenate(bits, axis=2)  # round, step, record
    _pairs(all_of.transpose(1, 0, 2).reshape(STEPS, -1), "two steps")
    _pairs(all_of.reshape(len(all_of), -1), "two rounds")
    _pairs(all_of.reshape(len(all_of) * STEPS, -1), "a step and another of any round")
    _uncorrelated([(of[:, :, :-1], of[:, :, 1:]) for of in bits], "two records in a row")
    _uncorrelated([shared], "two clients")


def _near(bits: NDArray[np.int64], rate: float, what: str) -> None:
    within = 5.5 * math.sqrt(rate * (1 - rate) / bits.size)
    assert abs(bits.mean() - rate) < within, f"{what} is {bits.mean():.3f}, not {rate} (± {within:.3f})"


def _uncorrelated(pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]], what: str) -> None:
    a, b = (np.concatenate([p[i].ravel() for p in pairs]) - RATE for i in (0, 1))
    found, within = float((a * b).mean() / (RATE * (1 - RATE))), 5.5 / math.sqrt(len(a))
    assert abs(found) < within, f"the batches of {what} have a correlation of {found:.3f} (± {within:.3f})"


def _pairs(bits: NDArray[np.int64], what: str) -> None:
    """Hold every two rows apart. Products of bits are skewed, so the limit is wider than that of a normal."""
    z = (bits - RATE) / math.sqrt(RATE * (1 - RATE))
    found = float(np.abs(z @ z.T / z.shape[1] - np.diag((z**2).mean(axis=1))).max())
    within = 8 / math.sqrt(z.shape[1])
    assert found < within, f"the batches of {what} have a correlation of {found:.3f} (± {within:.3f})"
