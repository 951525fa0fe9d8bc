"""Client-side mechanisms: one release of counts and gradient per batch, scaled and noised by public numbers.

The statistic of a batch is taken where it gets its noise (``steps.release``): what goes in moves by at most 1
with one record, what comes out has the noise that is charged, and clip, scale and the bound that a client
says follow from what comes out. For the replay it is replaced by constants, as batches are: two runs with
other noised counts clip in two ways.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from fedtoll.clients import public_model
from fedtoll.clients import train as clients
from fedtoll.clients.clipping import steps
from fedtoll.privacy.ledger import DP_SGD
from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import plan
from tests.gate import tables
from tests.gate.ledger import Tap, _bounds, _merged, rows_of
from tests.gate.noise import EMPTY, close, independent
from tests.gate.replay import HUGE, distance, touched
from tests.gate.system import (
    CLIP,
    DELTA,
    EPSILON,
    FEDAVG,
    PLANNED,
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
    scenario,
    start,
)

PREFIX = "mechanisms: "
SHARE = 0.2
MECHANISMS: dict[str, dict[str, Any]] = {
    "dpsgd-f": {},
    "dp-sgd-global": {"z": 0.9},
    "global-adapt": {"z": 0.5, "rate": 0.2},
    "adaptive-clip": {"quantile": 0.5, "rate": 0.3},
    "bounded-adaptive-clip": {"quantile": 0.4, "rate": 0.3, "lower": 0.2},
}
CELLS = {"dpsgd-f": 4, "dp-sgd-global": 0}
"""The number of cells of the statistic, with two groups; 1 for those not named."""

ROUNDS, STEPS = 3, 2
Floats = NDArray[np.float64]


@functools.lru_cache(maxsize=64)
def runs(system: System, mechanism: str, moved: str = "", *, steps: int = 1, momentum: float = 0.0) -> Run:
    """Plan a run with DP-SGD, from a scenario and a raw table."""
    training = {"rounds": 200, "local_steps": steps, "sampling_rate": RATE, "learning_rate": STEP}
    if steps > 1 and not momentum:
        training["rounds"] = ROUNDS
    section = tables.section(system.classes, moved, ("sex",), ())
    table = scenario(system, section, training, 1, FEDAVG).model_dump(mode="json")
    table["client"] = {"mechanism": mechanism, "momentum": momentum, **MECHANISMS.get(mechanism, {})}
    if mechanism in MECHANISMS:
        table["client"]["statistic_share"] = SHARE
    table["privacy"]["epsilons"] = [EPSILON]
    (run,) = plan(validate(table, "gate.toml"), "gate.toml").runs
    return run


PLANNED.append(runs)


@contextmanager
def releases(fixed: bool = False) -> Iterator[list[tuple[Floats, Floats]]]:
    """Record the statistic of each batch before and after its noise, or replace it by constants."""
    found: list[tuple[Floats, Floats]] = []
    original = steps.release

    def release(exact: Floats, *rest: Any) -> Floats:
        constants: Floats = 1.0 + 2.0 * np.arange(len(exact), dtype=np.float64)
        noised = constants if fixed else original(exact, *rest)
        found.append((exact.copy(), noised.copy()))
        return noised

    with patch.object(steps, "release", release):
        yield found


def bound_of(answer: Answer) -> float:
    """Return what a client says of the bound on its scaled gradients."""
    return float(answer.metrics[clients.BOUND])


@check(PREFIX + "replay")
def replay(system: System) -> None:
    """One record moves counts by at most 1, and for fixed counts the step by at most the bound."""
    reached = dict.fromkeys(MECHANISMS, 0.0)
    for name in MECHANISMS:
        for moved in ("outlier", "one", "few"):
            full, without = runs(system, name), runs(system, name, moved)
            assert full.clients == without.clients, f"{name}, {moved}: the plan of neighbours differs"
            for scale in (1.0, -1.0, HUGE[system.precision]) if moved == "outlier" else (1.0,):
                for client in sorted(touched(moved)):
                    found = _compare(system, full, without, client, scale, f"{name}, {moved}")
                    reached[name] = max(reached[name], found)
    for name, most in reached.items():
        assert most > 0.5, f"{name}: no record moves the step by more than {most:.2g} of the bound"


@exactly()
def _compare(system: System, full: Run, without: Run, client: int, scale: float, where: str) -> float:
    """Compare a client's replies of two rounds with and without a record; return the share of the bound."""
    reached = 0.0
    parameters = start(full)
    if abs(scale) > 1:  # x3 is 0 for all records but the outlier, whose gradient overflows
        parameters[0][:, -1] *= scale
    else:
        parameters = [scale * a for a in parameters]
    grids = LocalGrid(full), LocalGrid(without)
    for round in (1, 2):  # the second round continues with the state of the first
        answers, counts = [], []
        for run, grid in zip((full, without), grids, strict=True):
            with masks(everybody), releases(fixed=True) as found:
                answers += ask(run, parameters, round, [client], grid)
            counts.append([exact for exact, _ in found])
        for a, b in zip(*counts, strict=True):
            moves = float(np.linalg.norm(a - b))
            assert moves <= 1 + 1e-12, f"{where}: the counts of client {client} move by {moves:.4g}"
        a, b = answers
        assert bound_of(a) == bound_of(b), f"{where}: the bound of client {client} depends on a record"
        moves = distance(a, b)
        assert moves <= bound_of(a) + ROUNDING[system.precision], (
            f"{where}, round {round}: client {client} moves by {moves:.4g}, more than {bound_of(a):.4g}"
        )
        reached = max(reached, moves / bound_of(a))
    return reached


@check(PREFIX + "counts")
@exactly()
def counts(system: System) -> None:
    """Counts have fresh noise of z / √s; the clip follows from nothing else, with the public B."""
    draws: dict[str, Floats] = {}
    for name in MECHANISMS:
        run = runs(system, name)
        parameters, grid = start(run), LocalGrid(run)
        sds = [c.noise_multiplier / math.sqrt(SHARE) for c in run.clients]
        cells, noises, said = CELLS.get(name, 1), [], []
        history: list[list[Floats]] = [[] for _ in run.clients]
        for round in range(1, 13):
            with releases() as found:  # one step: one release of each client, in their order
                answers = ask(run, parameters, round, grid=grid)
            assert len(found) == (len(sds) if cells else 0), f"{name}: {len(found)} releases in one step"
            noises.append([(noised - exact) / sd for (exact, noised), sd in zip(found, sds, strict=False)])
            for client, (_, noised) in enumerate(found):
                history[client].append(noised)
            said.append([bound_of(answer) for answer in answers])
        for client, size in enumerate(tables.SIZES):
            expected = _bounds_by_hand(name, history[client], RATE * size)
            assert np.allclose([bounds[client] for bounds in said], expected, rtol=1e-9), (
                f"{name}: client {client} says other bounds than its noised counts give"
            )
        if cells:
            draws[name] = np.array(noises)  # round, client, cell
    close(np.concatenate([np.ravel(d) for d in draws.values()]), "counts")
    many = draws["dpsgd-f"]
    close(many, "counts of dpsgd-f")
    independent(many.transpose(1, 0, 2).reshape(many.shape[1], -1), "counts of two clients")
    independent(many.reshape(len(many), -1), "counts of two rounds")
    independent(many.transpose(2, 0, 1).reshape(many.shape[2], -1), "cells of counts")


def _bounds_by_hand(name: str, history: list[Floats], size: float) -> list[float]:
    """Return the bounds of successive rounds of one step, from the noised counts alone."""
    if name == "dpsgd-f":
        found = []
        for noised in history:
            m, o = np.maximum(noised, 0).reshape(2, 2).T
            ratio = m / np.maximum(1, m + o)
            mean = m.sum() / max(1.0, float((m + o).sum()))
            found.append(CLIP * (1 + (ratio / mean if mean else np.ones(2)).max()))
        return found
    if name != "adaptive-clip":
        return [CLIP] * 12
    clip, found = CLIP, []
    for noised in history:
        found.append(clip)
        clip *= math.exp(min(100.0, max(-100.0, -0.3 * (float(noised[0]) / size - 0.5))))
        clip = min(max(clip, CLIP / 1e6), CLIP * 1e6)  # the smallest clients would run away
    return found


@check(PREFIX + "noise")
@exactly()
def noise(system: System) -> None:
    """The gradient's noise has the sd z / √(1 − s) times the bound, and momentum carries it all on."""
    for name in MECHANISMS:
        run = runs(system, name)
        share = SHARE if CELLS.get(name, 1) else 0.0
        unit = (
            STEP * run.clients[EMPTY].noise_multiplier / math.sqrt(1 - share) / (RATE * tables.SIZES[EMPTY])
        )
        parameters, grid, vectors = start(run), LocalGrid(run), []
        for round in range(1, 25):
            (answer,) = ask(run, parameters, round, [EMPTY], grid)
            vectors.append(answer.update / (unit * bound_of(answer)))
        close(np.concatenate(vectors), f"noise of {name}")
        independent(np.array(vectors), f"noise of {name}")
    run, beta, count = runs(system, "dp-sgd", steps=4, momentum=0.6), 0.6, 4
    unit = STEP * run.clients[EMPTY].noise_multiplier * CLIP / (RATE * tables.SIZES[EMPTY])
    sd = math.sqrt(sum(((1 - beta ** (j + 1)) / (1 - beta)) ** 2 for j in range(count)))
    updates = [ask(run, start(run), round, [EMPTY])[0].update for round in range(1, 25)]
    close(np.concatenate(updates) / (unit * sd), "noise with momentum")


@check(PREFIX + "ledger")
def ledger(system: System) -> None:
    """A step is one release, calibrated as such; a client sends its bound besides, and nothing else."""
    for name in MECHANISMS:
        run = runs(system, name, steps=STEPS)
        rows = federate(tap := Tap(run), run)["ledger"]
        for client, planned in enumerate(run.clients):
            due = [(t, DP_SGD, RATE, planned.noise_multiplier, STEPS) for t in range(1, ROUNDS + 1)]
            assert rows_of(rows, client) == due, f"{name}: client {client} has other releases"
            claimed = float(rows[rows["client"] == client]["epsilon_spent"].max())
            least, most = _bounds(_merged(due), str(run.accountant))
            assert least <= claimed <= most, f"{name}: ε = {claimed:.5g}, {least:.5g} to {most:.5g} spent"
            assert 0.98 * EPSILON < claimed <= EPSILON * (1 + 1e-9), f"{name}: spends {claimed:.4g}"
        assert set(rows["delta"]) == {DELTA}
        for (round, client), (content,) in tap.received.items():
            if round:
                metrics = dict(content.metric_records["metrics"])
                assert set(metrics) == {"num-examples", clients.BOUND}, f"{name}: sent {sorted(metrics)}"
                assert metrics["num-examples"] == tables.SIZES[client], f"{name}: another size"


@check(PREFIX + "retry")
def retry(system: System) -> None:
    """A repeated round has the same bits, whatever the state; new clients repeat the whole history."""
    for name in MECHANISMS:
        run = runs(system, name, steps=STEPS)
        parameters, answers = start(run), []
        for repeats in (1, 2):
            grid = LocalGrid(run)
            for round in (1, 2):
                for _ in range(repeats):
                    answers.append((round, ask(run, parameters, round, grid=grid)))
        first = dict(answers[:2])
        for round, found in answers:
            for a, b in zip(first[round], found, strict=True):
                same = np.array_equal(a.update, b.update) and bound_of(a) == bound_of(b)
                assert same, f"{name}, round {round}: client {a.client} answers in two ways"


@check(PREFIX + "public start")
def public(system: System) -> None:
    """A model that clients start from depends on records that are declared public, and on no other."""
    found: dict[str, Any] = {}
    system = replace(system, model="logistic")
    for moved in ("", *tables.MOVES):
        training = {"rounds": 1, "local_steps": 1, "sampling_rate": RATE, "learning_rate": STEP}
        section = tables.section(system.classes, moved, ("sex",), ())
        table = scenario(system, section, training, 1, FEDAVG).model_dump(mode="json")
        table["split"]["validation"], table["training"]["start"] = 0.3, "public"
        table["partition"] = {"kind": "iid", "clients": 3}
        planned = plan(validate(table, "gate.toml"), "gate.toml")
        records = planned.federation.records(system.seed)
        rows = records.table.features[records.validation], records.table.label[records.validation]
        found[moved] = rows, public_model.start(planned.runs[0], planned.federation)
    rows, whole = found.pop("")
    private = {m: s for m, (r, s) in found.items() if all(map(np.array_equal, r, rows))}
    assert len(private) > 2, f"of {len(found)} records that move, only {len(private)} are no public ones"
    for moved, model in private.items():
        assert all(map(np.array_equal, model, whole)), f"{moved}: the start depends on a record of a client"
