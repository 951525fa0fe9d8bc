"""What floating-point numbers reveal: the attacker sees a release, and knows all records but one and no seed.

Normals made from 24 random bits by Box and Muller's method, as torch draws float32, lie on a lattice: eight
places apart, z² + z′² is −2 ln(k / 2²⁴) for an integer k. Only the true hypothesis about a record puts a
release on the lattice, so that noise of any size hides nothing (Mironov 2012; Holohan and Braghin 2021).
Here releases must lie on a coarse grid that does not depend on records, and the attack must fail.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedtoll.clients import model
from fedtoll.clients.engines import make_engine
from fedtoll.clients.engines.base import Task
from fedtoll.scenarios.run import ClientPlan, Run
from tests.gate import tables
from tests.gate.replay import PLACE, SENSITIVITY
from tests.gate.system import CLIP, STEP, System, Z, ask, check, flat, precisions, runs, start

SIGMA = 50.0
"""30 rounds of one step with all records cost ε = .5 at δ = 1e-5."""

ROUNDS = 30


def resolution(sd: float) -> float:
    """Return the step of the grid for a standard deviation: 2⁻¹⁶ of the power of two below it."""
    return float(2.0 ** (np.floor(np.log2(sd)) - 16))


@check("floating point")
def floating_point(system: System) -> None:
    """Releases are rounded to a grid that depends on the noise alone, and the noise lies on no lattice."""
    for at in precisions(system) if system.full else [replace(system, precision="float32")]:
        true, _ = distances(at, inside=True, seed=system.seed + 1)
        found = true.mean() if true.size else 0.0
        assert found > 0.19, f"{at.precision}: the noise is {found:.3f} steps from a lattice instead of .25"
    on_the_grid(replace(system, precision="float64"))


def on_the_grid(system: System) -> None:
    """Updates and statistics, in units of their grid, are integers."""
    private, _ = runs(system)
    largest = dict.fromkeys(SENSITIVITY, 0.0)  # of all clients: one cell alone may be near 0
    for client, answer in enumerate(ask(private, zeros(private))):
        plan = private.clients[client]
        sums = -answer.update * plan.batch_size / STEP / resolution(plan.noise_multiplier * CLIP)
        assert np.abs(sums - sums.round()).max() < 1e-3, f"client {client}: an update off the grid"
        assert np.abs(sums).max() > 1000, "nothing is tested"
        for name, bound in SENSITIVITY.items():
            cells = answer.statistic(name) / resolution(Z * bound(tables.SIZES[client]))
            assert (cells == cells.round()).all(), f"{name} of client {client}: off the grid"
            largest[name] = max(largest[name], float(np.abs(cells).max()))
    assert min(largest.values()) > 1000, f"nothing is tested ({largest})"


def zeros(run: Run) -> list[NDArray[np.floating]]:
    """Return the model whose broadcast leaves most bits of an update: its weights are 0."""
    return [np.zeros_like(a) for a in start(run)]


FEATURES = 512


def distances(
    system: System, inside: bool, seed: int, rounds: int = ROUNDS
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far the noise is from the lattice, by the attacker's true and false hypothesis.

    A logistic model with 512 features is trained from zeros on 20 records or on 19 of them. There is one
    value, between 0 and .5 steps of the lattice, for each pair of the noise that is large enough.
    """
    private, clipped = runs(replace(system, model="logistic", classes=2), rate=1.0, asks=False, rounds=rounds)
    plan = private.clients[PLACE["A"]].model_copy(update={"noise_multiplier": SIGMA})
    private = private.model_copy(update={"noise_seed": seed})
    rng = np.random.default_rng(seed)
    dtype = model.DTYPES[system.precision]
    features = torch.from_numpy(rng.normal(size=(tables.SIZES[plan.id], FEATURES))).to(dtype)
    labels = torch.from_numpy(rng.integers(0, 2, len(features)))
    engine = make_engine("cohort" if system.engine == "cohort" else "opacus")
    broadcast = [np.zeros((1, FEATURES), system.precision), np.zeros(1, system.precision)]

    def summed(run: Run, plan: ClientPlan, held: int, round: int) -> NDArray[np.float64]:
        task = Task(plan, round, broadcast, features[:held], labels[:held])
        (trained,) = engine.train(run, [task])
        return -flat(trained.parameters)[:FEATURES] * plan.batch_size / STEP

    sizes = [len(features), len(features) - 1]
    held, other = sizes if inside else sizes[::-1]
    quiet = plan.model_copy(update={"noise_multiplier": 0.0})
    known = [summed(clipped, quiet, h, 1) for h in (held, other)]
    found: list[list[float]] = [[], []]
    for round in range(1, rounds + 1):
        released = summed(private, plan, held, round)
        for distances_, exact in zip(found, known, strict=True):
            distances_ += _distances((released - exact) / (SIGMA * CLIP))
    return np.array(found[0]), np.array(found[1])


def _distances(z: NDArray[np.float64]) -> list[float]:
    squares = (z.reshape(-1, 2, 8) ** 2).sum(1).ravel()
    steps = 2.0**24 * np.exp(-squares[squares > 8] / 2)  # where float32 resolves the steps
    return [float(d) for d in np.abs(steps - steps.round())]


def guesses(system: System, trials: int) -> int:
    """Return how often the attacker tells from the lattice whether the record is in."""
    coins = np.random.default_rng(5).integers(0, 2, trials)
    right = 0
    for trial, inside in enumerate(coins):
        true, false = distances(system, bool(inside), seed=1000 + trial)
        right += true.mean() < false.mean()
    return right
