"""Public sizes: what a client holds changes neither q nor T nor B, and holding nothing is no secret told."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.clients import train as clients
from fedtoll.privacy.ledger import DP_SGD
from tests.gate import tables
from tests.gate.noise import EMPTY, close, unit
from tests.gate.replay import SENSITIVITY
from tests.gate.system import (
    RATE,
    System,
    ask,
    check,
    masks,
    neighbours,
    nobody,
    precisions,
    runs,
    start,
)

STEPS = 3


@check("public sizes")
def public(system: System) -> None:
    """q, T, B and all that is told come from the public size, where more, fewer or no records are held."""
    bare = 0
    for moved in ("outlier", "few", "one"):
        whole, without = neighbours(system, moved, steps=STEPS)
        parameters = start(whole)
        answers = []
        for run in (whole, without):
            asked: list[float] = []

            def spy(
                rng: np.random.Generator, held: int, rate: float, asked: list[float] = asked
            ) -> NDArray[np.int64]:
                asked.append(rate)
                return nobody(rng, held, rate)

            with masks(spy):
                answers.append(ask(run, parameters))
            assert asked == [RATE] * STEPS * len(run.clients), f"{moved}: the rates asked for are {asked}"
        for a, b in zip(*answers, strict=True):
            # No record was drawn: what is left is the noise of T steps, in units of 1 / B.
            np.testing.assert_array_equal(
                a.update, b.update, f"{moved}: client {a.client} tells what it holds"
            )
            assert a.metrics["num-examples"] == tables.SIZES[a.client], f"client {a.client} tells its records"
            told = {k: v for k, v in a.metrics.items() if k.endswith(".sd") or k == "num-examples"}
            assert told == {k: b.metrics[k] for k in told}, f"{moved}: client {a.client} tells what it holds"
            bare += a.update.size
    assert bare > 1000


@check("no records")
def empty(system: System) -> None:
    """A client without records, and a batch without, are noised, stepped and charged like any other."""
    for at in precisions(system):
        _empty(at)


def _empty(system: System) -> None:
    private, _ = runs(system, steps=STEPS)
    parameters = start(private)
    with masks(nobody):
        answers = ask(private, parameters)
    answers += ask(private, parameters, clients_=[EMPTY])  # with the product's own sampler
    for answer in answers:
        plan = private.clients[answer.client]
        assert (answer.update != 0).all(), f"client {answer.client} returns what it was sent"
        noise = answer.update / unit(answer.client, plan.noise_multiplier) / np.sqrt(STEPS)
        close(noise, f"client {answer.client}, empty batches")
        ledger: dict[str, Any] = dict(answer.content.config_records[clients.LEDGER])
        assert dict(zip(ledger["what"], ledger["count"], strict=True)) == {
            **dict.fromkeys(SENSITIVITY, 1),
            DP_SGD: STEPS,
        }, f"client {answer.client} charges {ledger}"
    silent = answers[-1]
    for name in SENSITIVITY:
        assert (silent.statistic(name) != 0).all(), f"{name} of no records is released without noise"
