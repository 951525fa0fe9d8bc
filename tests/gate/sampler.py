"""The sampler, decoded bit by bit from replies: which record was in the batch of which step.

Every record has a feature of its own (its code). So coordinate i of the weights moves only if record i is in
the batch, and by the same amount each time: the gradient is clipped, and the step is so small that the
gradient does not change. FedProx's term halves the distance to the start after each step (η μ = 1/2). So the
sum over T steps is a binary number with one digit per step: the last step has weight 1, the one before it
1/2, and so on.
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
    """Return for every client whether a record was in a step's batch: 0 or 1, ``[record, step]``."""
    data = records(run)
    features = data.table.features.shape[1]
    zeros = [np.zeros((1, features)), np.zeros(1)]
    answers = ask(run, zeros, round, proximal_mu=0.5 / TINY)
    bits = []
    for plan, rows, answer in zip(run.clients, data.held, answers, strict=True):
        # At weights of 0 the gradient is ±1/2 in the record's coordinate and in the bias; it is clipped to C.
        once = TINY * CLIP * 0.5 / (math.sqrt(0.5) + 1e-6) / (RATE * tables.SIZES[plan.id])
        sign = 2 * data.table.label[rows] - 1
        digits = sign * answer.update[rows] / once * 2 ** (STEPS - 1)
        integers = np.rint(digits).astype(np.int64)
        assert np.abs(digits - integers).max(initial=0) < 0.05, (
            f"client {plan.id}: a step is not a clipped gradient"
        )
        assert ((integers >= 0) & (integers < 2**STEPS)).all(), (
            f"client {plan.id}: not {STEPS} steps, or a record twice in one"
        )
        bits.append(integers[:, None] >> np.arange(STEPS) & 1)
        others = np.delete(answer.update[:features], rows)
        assert not (np.abs(others) > 1e-9 * once).any(), (
            f"client {plan.id}: its batch has records of other clients"
        )
    return bits


def drawn(system: System) -> list[NDArray[np.int64]]:
    """Return for every client whether a record was in a batch, ``[round, step, record]``."""
    small = System(system.engine, "logistic", 2, system.seed)
    unused = tuple(c for c in tables.COLUMNS if c != "code")
    rounds = 16 if system.full else 4
    private, _ = runs(small, asks=False, rounds=rounds, steps=STEPS, step=TINY, exclude=unused)
    run = with_plans(private, noise_multiplier=1e-14)  # still DP-SGD, but noise below the last digit
    by_round = [read(run, r) for r in range(1, 1 + rounds)]
    return [np.array([bits[k].T for bits in by_round]) for k in range(len(run.clients))]


@check("sampler")
def poisson(system: System) -> None:
    """Each record enters each batch with probability q, independently of other records, steps and rounds."""
    bits = drawn(system)
    for client, count in enumerate(tables.HELD):
        assert bits[client].shape[2] == count, (
            f"client {client} has {bits[client].shape[2]} records, not {count}"
        )
        if count:
            _near(bits[client], RATE, f"client {client}: the rate")
    variance, excess = RATE * (1 - RATE), []
    for of_client in bits:
        if (count := of_client.shape[2]) > 1:
            excess.append((of_client.sum(axis=2) - count * RATE).ravel() ** 2 / (count * variance))
    found = np.concatenate(excess)
    within = 5.5 * math.sqrt(2.5 / len(found))
    assert abs(found.mean() - 1) < within, (
        f"the size of a batch has {found.mean():.3f} of the variance of Poisson sampling (± {within:.3f})"
    )
    shared = bits[0][:, :, : tables.HELD[0]], bits[1][:, :, : tables.HELD[0]]
    for lag in range(1, STEPS):
        _uncorrelated([(b[:, :-lag], b[:, lag:]) for b in bits], f"two steps {lag} apart")
    for lag in range(1, len(bits[0])):
        _uncorrelated([(b[:-lag], b[lag:]) for b in bits], f"two rounds {lag} apart")
    everyone = np.concatenate(bits, axis=2)  # round, step, record
    _pairs(everyone.transpose(1, 0, 2).reshape(STEPS, -1), "two steps")
    _pairs(everyone.reshape(len(everyone), -1), "two rounds")
    _pairs(everyone.reshape(len(everyone) * STEPS, -1), "two steps of any rounds")
    _uncorrelated([(b[:, :, :-1], b[:, :, 1:]) for b in bits], "two records in a row")
    _uncorrelated([shared], "two clients")


def _near(bits: NDArray[np.int64], rate: float, title: str) -> None:
    within = 5.5 * math.sqrt(rate * (1 - rate) / bits.size)
    assert abs(bits.mean() - rate) < within, f"{title} is {bits.mean():.3f}, not {rate} (± {within:.3f})"


def _uncorrelated(pairs: list[tuple[NDArray[np.int64], NDArray[np.int64]]], title: str) -> None:
    a, b = (np.concatenate([p[i].ravel() for p in pairs]) - RATE for i in (0, 1))
    found, within = float((a * b).mean() / (RATE * (1 - RATE))), 5.5 / math.sqrt(len(a))
    assert abs(found) < within, f"the batches of {title} have a correlation of {found:.3f} (± {within:.3f})"


def _pairs(bits: NDArray[np.int64], title: str) -> None:
    """Assert that no two rows correlate. Products of bits are skewed: the limit is wider than a normal's."""
    z = (bits - RATE) / math.sqrt(RATE * (1 - RATE))
    found = float(np.abs(z @ z.T / z.shape[1] - np.diag((z**2).mean(axis=1))).max())
    within = 8 / math.sqrt(z.shape[1])
    assert found < within, f"the batches of {title} have a correlation of {found:.3f} (± {within:.3f})"
