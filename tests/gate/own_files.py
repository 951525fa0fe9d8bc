"""Nodes with a file of their own: what their operator decides must hold whatever the plan says.

Three SuperNodes read their own records. How many they hold differs from what the plan declares, and nothing
that leaves them may depend on it. A node may draw secret noise, and may limit the ε of a run.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from flwr.app import Message

from fedtoll.clients.failures import CLIENT_FAILED, MESSAGE_REJECTED, REASONS
from fedtoll.scenarios.client import MechanismPlan
from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import plan
from tests.gate import tables
from tests.gate.noise import close, independent
from tests.gate.replay import SENSITIVITY
from tests.gate.system import (
    CLIP,
    DELTA,
    EPSILON,
    EVERYTHING,
    FEDAVG,
    MODELS,
    PLANNED,
    RATE,
    STEP,
    Answer,
    System,
    Z,
    ask,
    check,
    everybody,
    exactly,
    masks,
    nobody,
    precisions,
    send,
    start,
)
from tests.server.nodes import Nodes

PREFIX = "own files: "

DECLARED, HELD = (40, 30, 24), (60, 18, 24)
"""The sizes that the plan declares, and the numbers of records in the files."""

ADAPTIVE = "fedtoll.clients.clipping.adaptive:AdaptiveClip"

GROUPS, KINDS = ("north", "south"), ("a", "b", "c")
NOISY_ROUNDS = 30


def frame(rows: int, seed: int) -> pd.DataFrame:
    """Draw a table; its last record is extreme."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": np.append(rng.uniform(20, 60, rows - 1), 100.0),
            "stays": np.append(rng.uniform(0, 10, rows - 1), 20.0),
            "kind": np.append(rng.choice(KINDS[:2], rows - 1), KINDS[2]),
            "region": np.array(GROUPS)[np.arange(rows) % 2],
            "readmitted": np.where(rng.uniform(size=rows) < 0.5, "yes", "no"),
        }
    )


@functools.cache
def folder(name: str = "") -> Path:
    """Write the files of all nodes; with a name, the file of one node is another.

    ``without 1``: client 1 lacks its last record. ``fewer 1``: it holds as few records as are accepted.
    ``text 1``: a cell is no number.
    """
    place = Path(tables.folder()) / f"own-{name.replace(' ', '-') or 'all'}"
    place.mkdir(exist_ok=True)
    frame(30, 9).to_parquet(place / "held-out.parquet")
    for client, rows in enumerate(HELD):
        own = frame(rows, client)
        if name == f"without {client}":
            own = own.iloc[:-1]
        if name == f"fewer {client}":
            own = own.iloc[: math.ceil(DECLARED[client] / 2)]
        if name == f"text {client}":
            own = own.assign(age=["SECRET-7", *own["age"].astype(str)[1:]])
        own.to_parquet(place / f"{client}.parquet")
    return place


@functools.lru_cache(maxsize=32)
def runs(system: System, *, asks: bool = True, rounds: int = NOISY_ROUNDS) -> tuple[Run, Run]:
    """Plan a run with DP-SGD and one that only clips, which the server does without the nodes' files."""
    columns = {"age": {"low": 0, "high": 100}, "stays": {"low": 0, "high": 20}, "kind": {"values": KINDS}}
    own = {"label": "readmitted", "positive": "yes", "negative": ["no"], "columns": columns}
    table = {
        "name": "own-files",
        "title": "Own files",
        "seeds": [system.seed],
        "data": {
            "file": str(folder() / "held-out.parquet"),
            "groups": ["region"],
            "own": {**own, "attributes": {"region": {"values": GROUPS}}},
        },
        "partition": {"kind": "declared", "holders": [{"size": n} for n in DECLARED]},
        "model": MODELS[system.model],
        "training": {
            **{"rounds": rounds, "local_steps": 1, "sampling_rate": RATE, "learning_rate": STEP},
            **{"clip": CLIP, "engine": system.engine, "device": "cpu", "precision": system.precision},
        },
        "privacy": {"epsilons": [EPSILON, "clip-only"], "delta": DELTA},
        "statistics": {"noise_multiplier": Z},
        "strategies": [EVERYTHING if asks else FEDAVG],
    }
    private, clipped = plan(validate(table, "own.toml"), "own.toml", separate=True).runs
    return private, clipped


PLANNED.append(runs)


def answers(
    run: Run, name: str = "", rounds: Iterator[int] | range = range(1, 2), **config: Any
) -> list[list[Answer]]:
    """Return the answers of all nodes in each of the rounds."""
    grid = Nodes(run, folder(name), **config)
    return [ask(run, start(run), round, grid=grid) for round in rounds]


def unit(run: Run, client: int) -> float:
    """Return the sd of the noise that one step adds to each weight, from the declared size: η σ C / B."""
    return STEP * run.clients[client].noise_multiplier * CLIP / (RATE * DECLARED[client])


@contextmanager
def batches(draw: Callable[..., Any]) -> Iterator[list[tuple[int, float]]]:
    """Inject batches, without rounding of releases; yield the records and rates they are asked for."""
    asked: list[tuple[int, float]] = []

    def noted(rng: np.random.Generator, records: int, rate: float) -> Any:
        asked.append((records, rate))
        return draw(rng, records, rate)

    with masks(noted), exactly():
        yield asked


@check(PREFIX + "sizes")
def sizes(system: System) -> None:
    """q, B and all that is sent come from the declared size, whatever number of records the file has."""
    run, _ = runs(system)
    for client in range(len(DECLARED)):
        with batches(nobody) as asked:
            (full,), (fewer,) = answers(run), answers(run, f"fewer {client}")
        assert {rate for _, rate in asked} == {RATE}, f"a rate is not the declared q: {asked}"
        for a, b in zip(full, fewer, strict=True):
            assert np.array_equal(a.update, b.update), f"client {a.client}: its noise depends on its records"
            constants = [
                {k: v for k, v in answer.metrics.items() if k not in SENSITIVITY} for answer in (a, b)
            ]
            assert constants[0] == constants[1], f"client {a.client}: what it sends depends on its records"
            sent = constants[0]["num-examples"]
            assert sent == DECLARED[a.client], f"client {a.client} sends {sent} as its size"


@check(PREFIX + "replay")
def replay(system: System) -> None:
    """One record of a file moves its node's step by at most the clip, a statistic by its sensitivity."""
    run, _ = runs(system)
    for client, size in enumerate(DECLARED):
        with batches(everybody):
            (full,), (without,) = answers(run), answers(run, f"without {client}")
        for a, b in zip(full, without, strict=True):
            moved = np.linalg.norm(a.update - b.update) * RATE * DECLARED[a.client] / STEP
            if a.client != client:
                assert moved == 0, f"a record of client {client} moves client {a.client}"
                continue
            assert 0 < moved <= CLIP * (1 + 1e-8), f"client {client} moves by {moved / CLIP:.3f} C"
            for name, sensitivity in SENSITIVITY.items():
                by = np.linalg.norm(a.statistic(name) - b.statistic(name))
                assert by <= sensitivity(size) * (1 + 1e-8), f"{name} moves by {by / sensitivity(size):.3f} Δ"


@check(PREFIX + "noise")
def noise(system: System) -> None:
    """Every step and statistic has the noise of the declared size, seeded or secret; nodes share none."""
    for at in precisions(system):
        private, clipped = runs(at)
        rounds = range(1, NOISY_ROUNDS + 1)
        for config in ({}, {"noise": "secret"}):
            with batches(nobody):
                noisy = answers(private, rounds=rounds, **config)
            with batches(nobody):
                exact = answers(clipped)[0]
            z = [np.array([a[k].update / unit(private, k) for a in noisy]) for k in range(len(DECLARED))]
            title = f"{at.precision}, {config or 'seeded'}"
            close(np.concatenate(z, axis=None), title)
            independent(np.array([x.ravel() for x in z]), f"nodes, {title}", at.precision == "float32")
            cells = [
                (a[k].statistic(name) - exact[k].statistic(name)) / (Z * sensitivity(DECLARED[k]))
                for a in noisy
                for k in range(len(DECLARED))
                for name, sensitivity in SENSITIVITY.items()
            ]
            close(np.concatenate(cells), f"statistics, {title}")


@check(PREFIX + "secrets")
def secrets(system: System) -> None:
    """A secret is one node's and one Flower run's; a repeated broadcast gets the same reply."""
    run, _ = runs(system, asks=False)
    grids = [Nodes(run, folder(), noise="secret") for _ in range(2)]
    with batches(nobody):
        first, again, other = (ask(run, start(run), grid=g) for g in (grids[0], grids[0], grids[1]))
        (seeded,) = answers(run)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.update, b.update), f"client {a.client}: a repeated broadcast is a new release"
    drawn = [answer.update / unit(run, answer.client) for found in (first, other, seeded) for answer in found]
    independent(np.array(drawn), "nodes, Flower runs and the plan's seed", system.precision == "float32")


def quietly(grid: Nodes, run: Run) -> list[Message]:
    """Return the replies of all nodes, whose logs are not shown."""
    log = logging.getLogger("fedtoll")
    log.disabled = True
    try:
        return send(grid, run, start(run))
    finally:
        log.disabled = False


def refused(run: Run, **config: Any) -> bool:
    """Return whether every node rejects the plan."""
    replies = quietly(Nodes(run, folder(), **config), run)
    return all(r.has_error() and r.error.code == MESSAGE_REJECTED for r in replies)


@check(PREFIX + "limit")
def limit(system: System) -> None:
    """A node with a limit rejects a plan that spends more: less noise, more rounds or steps, a larger q."""
    run, clipped = runs(system)
    assert not refused(run, epsilon=EPSILON), "a plan within the limit is rejected"

    def clients(**change: Callable[[Any], Any]) -> Run:
        plans = (c.model_copy(update={k: f(getattr(c, k)) for k, f in change.items()}) for c in run.clients)
        return run.model_copy(update={"clients": tuple(plans)})

    weaker = tuple(s.model_copy(update={"noise_multiplier": 1.0}) for s in run.statistics)
    wasteful = {
        "less noise": clients(noise_multiplier=lambda z: z / 1.02),
        "less noise of statistics": run.model_copy(update={"statistics": weaker}),
        "more rounds": run.model_copy(update={"rounds": run.rounds + 3}),
        "more steps": clients(steps=lambda t: t + 1),
        "a larger rate": clients(sampling_rate=lambda q: q * 1.05, batch_size=lambda b: b * 1.05),
        "no noise": clipped,
    }
    for title, more in wasteful.items():
        assert refused(more, epsilon=EPSILON), f"{title}: a plan above the limit is answered"


@check(PREFIX + "plans")
def plans(system: System) -> None:
    """A plan that would disarm a node's noise or limit is not answered: bounds, sizes, rates, δ, shares."""
    run, _ = runs(system)
    config = {"epsilon": EPSILON, "noise": "secret"}
    assert not refused(run, **config), "an honest plan is rejected"

    def clients(**change: Any) -> Run:
        return run.model_copy(update={"clients": tuple(c.model_copy(update=change) for c in run.clients)})

    adaptive = MechanismPlan(name="adaptive-clip", path=ADAPTIVE, parameters={"quantile": 0.5, "rate": 1.0})
    hostile = {
        "a negative clip": run.model_copy(update={"clip": -CLIP}),
        "a clip of 0": run.model_copy(update={"clip": 0.0}),
        "a negative size": clients(size=-DECLARED[0], batch_size=-RATE * DECLARED[0]),
        "another size": clients(size=10**6, batch_size=RATE * 10**6),
        "a rate above 1": clients(sampling_rate=1.5),
        "no steps": clients(steps=0),
        "negative noise": clients(noise_multiplier=-1.0),
        "a δ near 1": clients(noise_multiplier=0.2).model_copy(update={"delta": 0.999}),
        "counts without a share": clients(noise_multiplier=50.0).model_copy(
            update={"client_mechanism": adaptive, "statistics": ()}
        ),
    }
    for title, changed in hostile.items():
        replies = quietly(Nodes(changed, folder(), **config), changed)
        assert all(r.has_error() for r in replies), f"{title}: it is answered"


@check(PREFIX + "errors")
def errors(system: System) -> None:
    """What a node says of a file that it cannot use is a constant, without a word of the file."""
    run, _ = runs(system, asks=False)
    replies = quietly(Nodes(run, folder("text 1")), run)
    assert [r.has_error() for r in replies] == [False, True, False]
    found = replies[1].error.code, replies[1].error.reason
    assert found == (CLIENT_FAILED, REASONS[CLIENT_FAILED]), f"the reply says {found}"
