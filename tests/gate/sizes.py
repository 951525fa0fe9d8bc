"""Public sizes: a client's records change neither q nor T nor B, and having none does not show."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.clients import state as client_state
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
    """q, T, B and all sizes sent come from the public size, with more records than that, fewer or none."""
    compared = 0
    for moved in ("outlier", "few", "one"):
        full, without = neighbours(system, moved, steps=STEPS)
        parameters = start(full)
        answers = []
        for run in (full, without):
            rates: list[float] = []

            def spy(
                rng: np.random.Generator, records: int, rate: float, rates: list[float] = rates
            ) -> NDArray[np.int64]:
                rates.append(rate)
                return nobody(rng, records, rate)

            with masks(spy):
                answers.append(ask(run, parameters))
            assert rates == [RATE] * STEPS * len(run.clients), f"{moved}: the sampling rates are {rates}"
        for a, b in zip(*answers, strict=True):
            # No record was drawn: the updates are the noise of T steps, in units of 1 / B.
            np.testing.assert_array_equal(
                a.update, b.update, f"{moved}: client {a.client} reveals its records"
            )
            assert a.metrics["num-examples"] == tables.SIZES[a.client], f"client {a.client} sends its size"
            sent = {k: v for k, v in a.metrics.items() if k.endswith(".sd") or k == "num-examples"}
            assert sent == {k: b.metrics[k] for k in sent}, f"{moved}: client {a.client} reveals its records"
            compared += a.update.size
    assert compared > 1000


@check("no records")
def empty(system: System) -> None:
    """A client or batch without records is noised, stepped and charged like any other."""
    for at in precisions(system):
        _empty(at)


def _empty(system: System) -> None:
    private, _ = runs(system, steps=STEPS)
    parameters = start(private)
    with masks(nobody):
        answers = ask(private, parameters)
    answers += ask(private, parameters, clients_=[EMPTY])  # with fedtoll's own sampler
    for answer in answers:
        plan = private.clients[answer.client]
        assert (answer.update != 0).all(), f"client {answer.client} returns weights that it received"
        noise = answer.update / unit(answer.client, plan.noise_multiplier) / np.sqrt(STEPS)
        close(noise, f"client {answer.client}, empty batches")
        ledger: dict[str, Any] = dict(answer.content.config_records[client_state.LEDGER])
        assert dict(zip(ledger["what"], ledger["count"], strict=True)) == {
            **dict.fromkeys(SENSITIVITY, 1),
            DP_SGD: STEPS,
        }, f"client {answer.client} charges {ledger}"
    silent = answers[-1]
    for name in SENSITIVITY:
        assert (silent.statistic(name) != 0).all(), f"{name} of no records is released without noise"
