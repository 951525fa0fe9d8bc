"""A third system, where the server sees sums: secure aggregation with and without colluding clients, central.

The seven clients of the first system, with public weights by size (FedAvg) or equal ones. What the adversary
sees is the model after every round and what the strategy is shown, so that is what is tested. Weights,
sensitivities and shares are computed here, from the public sizes and the scenario.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedtoll.privacy.ledger import DP_SGD
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.statistics import GroupConfusion, GroupLoss, GroupScore, LabelGroupLoss
from fedtoll.server.app import federate, fit
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import check as check_scenario
from fedtoll.server.plan import plan
from fedtoll.strategies.base import Strategy
from tests.gate import tables
from tests.gate.ledger import rows_of
from tests.gate.noise import close, independent
from tests.gate.replay import SENSITIVITY, moves, touched
from tests.gate.system import (
    CLIP,
    DELTA,
    EPSILON,
    LOSS_CLIP,
    PLANNED,
    RATE,
    ROUNDING,
    STEP,
    System,
    Z,
    ask,
    check,
    everybody,
    exactly,
    flat,
    masks,
    scenario,
    start,
)
from tests.peers.oracle import at_least, at_most

K = len(tables.SIZES)
SUMS = ("group_loss", "label_group_loss", "group_confusion", "group_score")
"""The statistics that add up over clients."""

TRUSTS: tuple[tuple[str, int], ...] = (("secure-aggregation", 0), ("secure-aggregation", 2), ("central", 0))
STRATEGIES = ("BySize", "Equal")


@dataclass(frozen=True)
class BySize(Strategy):
    """FedAvg's public weights, and all statistics that add up. Remembers what it was shown."""

    shown: ClassVar[list[Any]] = []
    clip: float = LOSS_CLIP
    weighted: Sequence[float] = field(default_factory=list)

    @property
    def requests(self) -> tuple[Any, ...]:
        return GroupLoss(self.clip), LabelGroupLoss(self.clip), GroupConfusion(), GroupScore()

    def public_weights(self, cohort: Any) -> Any:
        return np.array([m.size for m in cohort]) / sum(m.size for m in cohort)

    def init(self, cohort: Any) -> Any:
        BySize.shown.append(("init", list(cohort)))
        return {}

    def begin(self, round: int, cohort: Any, state: Any) -> Any:
        BySize.shown.append(("begin", list(cohort)))
        return state

    def weigh(self, reports: Any, state: Any) -> Any:
        BySize.shown.append(("weigh", list(reports)))
        return np.full(len(reports), 1 / len(reports)), state


@dataclass(frozen=True)
class Equal(BySize):
    """The same with equal weights, with which the smallest client determines the sensitivity."""

    def public_weights(self, cohort: Any) -> Any:
        return np.full(len(cohort), 1 / len(cohort))

    def weigh(self, reports: Any, state: Any) -> Any:
        return super().weigh(reports, state)


def weights_of(strategy: str) -> NDArray[np.float64]:
    sizes = np.array(tables.SIZES, dtype=np.float64)
    return sizes / sizes.sum() if strategy == "BySize" else np.full(K, 1 / K)


def sensitivity(strategy: str, clip: float = CLIP) -> float:
    """Return S: the most that one record moves the weighted sum of B⁻¹ Σ clipped gradients."""
    return float(max(p * clip / (RATE * n) for p, n in zip(weights_of(strategy), tables.SIZES, strict=True)))


@functools.lru_cache(maxsize=64)
def runs(
    system: System,
    trust: str,
    colluding: int,
    strategy: str = "BySize",
    moved: str = "",
    rounds: int = 4,
    every: int = 1,
    batch: int = 0,
    by_group: bool = False,
) -> tuple[Run, Run]:
    """Plan a run with DP-SGD and one that only clips; with ``batch``, this B instead of one q."""
    size = {"batch_size": batch} if batch else {"sampling_rate": RATE}
    training = {"rounds": rounds, "local_steps": 1, "learning_rate": STEP, **size}
    section = tables.section(system.classes, moved, ("sex",), ())
    asked: dict[str, Any] = {"name": f"tests.gate.sums:{strategy}"}
    table = scenario(system, section, training, every, asked).model_dump(mode="json")
    table["privacy"] |= {"trust": trust, "colluding": colluding}
    if by_group:
        table["partition"] = {"kind": "group", "clients": {"*": 2}}
    private, clipped = plan(validate(table, "gate.toml"), "gate.toml").runs
    return private, clipped


PLANNED.append(runs)

Models = list[list[NDArray[np.floating]]]


def trained(run: Run) -> Models:
    """Train a run with the server, and return the model before round 1 and after every round."""
    models: Models = []
    fit(LocalGrid(run), run, lambda round, model: models.append([*model]), Federation.of(run))
    return models


def exact_sum(
    grid: LocalGrid, clipped: Run, weights: NDArray[np.float64], model: Any, round: int
) -> NDArray[np.float64]:
    """Return the weighted sum of the clients' updates without noise, from their own messages."""
    answers = ask(clipped, model, round, grid=grid)
    return np.asarray(sum(p * a.update for p, a in zip(weights, answers, strict=True)))


def noises(private: Run, clipped: Run, strategy: str) -> NDArray[np.float64]:
    """Return the noise of every round, ``[round, weight]``: how the model moved, minus the exact sum."""
    models, grid = trained(private), LocalGrid(clipped)
    found = []
    for round, (before, after) in enumerate(itertools.pairwise(models), 1):
        exact = exact_sum(grid, clipped, weights_of(strategy), before, round)
        found.append(flat(after) - flat(before) - exact)
    return np.array(found)


def reseeded(run: Run, more: int) -> Run:
    return run.model_copy(update={"noise_seed": run.noise_seed + more})


PREFIX = "sums: "


@check(PREFIX + "noise of training")
@exactly()
def training(system: System) -> None:
    """A sum has fresh noise of sd σ η S, whatever c clients subtract, with S from the weights in force."""
    for trust, colluding in TRUSTS:
        for strategy in STRATEGIES:
            title = f"{trust}, {colluding} colluding, {strategy}"
            private, clipped = runs(system, trust, colluding, strategy, rounds=6)
            sigma = {c.noise_multiplier for c in private.clients}
            assert len(sigma) == 1, f"{title}: a sum has one noise"
            sd = sigma.pop() * STEP * sensitivity(strategy)
            sums = np.concatenate([noises(reseeded(private, i), clipped, strategy) for i in range(2)])
            z = sums / (sd * math.sqrt(K / (K - colluding)))
            close(z.ravel(), title)
            independent(z, title)
            _shares(private, clipped, sd, colluding, title)


def _shares(private: Run, clipped: Run, sd: float, colluding: int, title: str) -> None:
    """Check the shares: any K − c of them add up to the whole noise; a trusted server asks for none."""
    weights = weights_of(private.strategy.name.split("(")[0])
    model = start(private)
    draws: list[list[NDArray[np.float64]]] = [[] for _ in range(K)]
    grids = LocalGrid(private), LocalGrid(clipped)
    for round in (1, 2):
        noisy, exact = (
            ask(run, model, round, grid=grid) for run, grid in zip((private, clipped), grids, strict=True)
        )
        for k, (a, b) in enumerate(zip(noisy, exact, strict=True)):
            draws[k].append(weights[k] * (a.update - b.update))
    for k, drawn in enumerate(draws):
        noise = np.concatenate(drawn)
        if private.trust == "central":
            assert not noise.any(), f"{title}: client {k} adds noise to what a trusted server noises"
        else:
            close(noise / (sd / math.sqrt(K - colluding)), f"{title}: share of client {k}")


@check(PREFIX + "the sum")
def total(system: System) -> None:
    """Without noise, a round moves the model by the clients' updates, added up with the public weights."""
    for trust, colluding in TRUSTS[1:]:
        for strategy in STRATEGIES:
            _, clipped = runs(system, trust, colluding, strategy)
            models, grid = trained(clipped), LocalGrid(clipped)
            for round, (before, after) in enumerate(itertools.pairwise(models), 1):
                exact = exact_sum(grid, clipped, weights_of(strategy), before, round)
                gap = np.abs(flat(after) - flat(before) - exact).max()
                assert gap < ROUNDING[system.precision], f"{trust}, {strategy}: the sum is off by {gap:.3g}"


@check(PREFIX + "replay")
@exactly()
def replay(system: System) -> None:
    """One record moves its client's part of a sum by at most η S, and of a statistic by its sensitivity."""
    for trust, colluding in TRUSTS[1:]:
        for strategy in STRATEGIES:
            weights, limit = weights_of(strategy), STEP * sensitivity(strategy)
            reached = 0.0
            for moved in moves(system):
                full, without = (runs(system, trust, colluding, strategy, m)[0] for m in ("", moved))
                models = [[sign * a for a in start(full)] for sign in (1, -1)]
                with masks(everybody):
                    pairs = [
                        pair
                        for model in models
                        for pair in zip(ask(full, model), ask(without, model), strict=True)
                    ]
                for a, b in pairs:
                    most = limit if a.client in touched(moved) else 0.0
                    found = float(np.linalg.norm(weights[a.client] * (a.update - b.update)))
                    assert found <= most + ROUNDING[system.precision], (
                        f"{trust}, {strategy}, {moved}: client {a.client} moves the sum by {found:.4g}"
                    )
                    reached = max(reached, found)
                    for name in SUMS:
                        bound = SENSITIVITY[name](0) if most else 0.0
                        change = float(np.linalg.norm(a.statistic(name) - b.statistic(name)))
                        assert change <= bound * (1 + 1e-8) + 1e-8, (
                            f"{trust}, {moved}: {name} of client {a.client} moves by {change:.4g}"
                        )
            assert reached > limit / 10, f"{trust}, {strategy}: no record moves the sum by much"


@contextmanager
def watched() -> Iterator[list[Any]]:
    BySize.shown.clear()
    yield BySize.shown
    BySize.shown.clear()


def shown_statistics(run: Run) -> list[dict[str, Any]]:
    """Return the statistics that the strategy is shown in every round."""
    with watched() as shown:
        trained(run)
        return [dict(reports[0].statistics) for what, reports in shown if what == "weigh"]


@check(PREFIX + "noise of statistics")
@exactly()
def statistics(system: System) -> None:
    """Each cell of a summed statistic has fresh noise of z times its sensitivity, also with public groups."""
    system = replace(system, model="logistic")  # the statistics do not depend on the number of weights
    for trust, colluding in TRUSTS:
        for by_group in (False, True):
            title = f"{trust}, {colluding} colluding, {'public' if by_group else 'mixed'} groups"
            private, _ = runs(system, trust, colluding, rounds=ROUNDS, by_group=by_group)
            still = private.model_copy(update={"learning_rate": 1e-100})  # so that exact values stay the same
            clients = len(private.clients)
            due = math.sqrt(clients / (clients - colluding)) * Z
            rows = []
            for seen in shown_statistics(still):
                for name in SUMS:
                    stated = np.asarray(seen[name].sd) / (due * SENSITIVITY[name](0))
                    assert np.allclose(stated, 1, rtol=1e-9), f"{title}: the strategy is told another sd"
                rows.append(np.concatenate([np.ravel(seen[n].value) / SENSITIVITY[n](0) for n in SUMS]))
            z = np.diff(np.array(rows), axis=0) / (due * math.sqrt(2))
            close(z[::2].ravel(), title)
            close(z[1::2].ravel(), title)
            assert z.std(axis=0).min() > 0.4, f"{title}: a cell has less noise than the others"
            independent(z[::2].T, f"{title}: cells of statistics")


ROUNDS = 40


@check(PREFIX + "what is shown")
def shown(system: System) -> None:
    """A strategy is shown one member and one report, no client's own, and refused if it needs more."""
    for trust, colluding in TRUSTS[1:]:
        private, _ = runs(system, trust, colluding)
        with watched() as seen:
            result = federate(LocalGrid(private), private)
            assert [len(members) for _, members in seen] == [1] * (1 + 2 * private.rounds), (
                "more than one is shown"
            )
            assert all(m.client not in range(K) and not m.group for _, ms in seen for m in ms), "a client is"
            assert all(m.size == sum(tables.SIZES) for _, ms in seen for m in ms)
            updates = [flat(ms[0].update) for what, ms in seen if what == "weigh"]
        models = trained(private)
        for round, update in enumerate(updates):
            moved = flat(models[round + 1]) - flat(models[round])
            assert np.allclose(update, moved, atol=1e-9), "the strategy is shown another update than the sum"
        assert not {*SUMS, *(f"{n}_sd" for n in SUMS)} & {*result["clients"]}, (
            "clients' own statistics are stored"
        )
        stated = private_scenario(system, trust, colluding)
        for name in (
            "term",
            "qfedavg",
            "afl",
            "fairfed",
            "inverse-variance",
            "noise-fair",
            "epsilon-weighted",
        ):
            _refused(stated, name)


def private_scenario(system: System, trust: str, colluding: int) -> dict[str, Any]:
    training = {"rounds": 2, "local_steps": 1, "learning_rate": STEP, "sampling_rate": RATE}
    section = tables.section(system.classes, "", ("sex",), ())
    table = scenario(system, section, training, 1, {"name": "fedavg"}).model_dump(mode="json")
    table["privacy"] |= {"trust": trust, "colluding": colluding}
    return table


def _refused(stated: dict[str, Any], name: str) -> None:
    try:
        check_scenario(validate(stated | {"strategies": [{"name": name}]}, "gate.toml"), "gate.toml")
    except ScenarioError:
        return
    raise AssertionError(f"{name} runs, although it needs what single clients report")


@check(PREFIX + "ledger")
def ledger(system: System) -> None:
    """Every record is charged each sum once, at its client's q and the σ of the sum; oracles bound its ε."""
    for trust, colluding in TRUSTS[1:]:
        for batch in (0, 2):
            private, _ = runs(system, trust, colluding, rounds=3, every=2, batch=batch)
            table = federate(LocalGrid(private), private)["ledger"]
            rates = [min(1.0, batch / n) if batch else RATE for n in tables.SIZES]
            sigma = private.clients[0].noise_multiplier
            worst = 0.0
            for k, rate in enumerate(rates):
                due = [
                    row
                    for t in (1, 2, 3)
                    for row in (
                        *((t, name, 1.0, Z, 1) for name in SUMS if t % 2),
                        (t, DP_SGD, rate, sigma, 1),
                    )
                ]
                assert rows_of(table, k) == due, f"{trust}: client {k}: the ledger has other releases"
                spent = float(table[table["client"] == k]["epsilon_spent"].max())
                if k not in {0, 3}:  # the oracles take seconds for each rate
                    continue
                kinds = ((sigma, rate, 3), (Z, 1.0, 2 * len(SUMS)))
                least, most = at_least(kinds, DELTA, 1e-4), at_most(kinds, DELTA, 1e-4)
                assert least <= spent <= most * 1.0005, f"{trust}: client {k} spent {spent}, not {most}"
                assert most <= EPSILON * 1.001, f"{trust}: client {k} spends {most}, more than {EPSILON}"
                worst = max(worst, most)
            assert worst > EPSILON * 0.99, f"{trust}: nobody spends ε"
