"""Statistics where a client is the unit of privacy: what all records of a client together can change.

The seven clients of the first system, one of which holds twice its public size and one nothing. They release
three statistics with their updates, in every second round of a hidden sample with an adaptive clip, and in
every round of a visible one under secure aggregation. Bounds, noise and what is due are computed here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run
from fedtoll.server.app import federate, fit
from fedtoll.server.plan import check as check_scenario
from fedtoll.server.plan import plan
from tests.gate import tables
from tests.gate.clients import BITS, EMPTY, PACE, QUANTILE, K, Tap, reseeded
from tests.gate.ledger import rows_of
from tests.gate.noise import close, independent
from tests.gate.replay import SENSITIVITY
from tests.gate.sums import SUMS, watched
from tests.gate.system import (
    CLIP,
    DELTA,
    EPSILON,
    PLANNED,
    RATE,
    STEP,
    System,
    Z,
    ask,
    check,
    exactly,
    flat,
    scenario,
    start,
)
from tests.peers.oracle import at_least, at_most

PREFIX = "client statistics: "
ASKS = {"name": "tests.gate.sums:BySize"}
SHARE = 0.2


@dataclass(frozen=True)
class Case:
    """A way in which clients take part, and what each statistic counts a client as at most, in records."""

    sections: dict[str, Any]
    records: float
    chance: float
    every: int = 1
    surplus: float = 1.0  # the noise with that of colluding clients, over the noise that is charged

    @property
    def scale(self) -> float:
        """What a sum over those who take part is multiplied by, to estimate that over all clients."""
        return 1 / self.chance

    def bound(self, name: str) -> float:
        return self.records * SENSITIVITY[name](0)


CASES = {
    "hidden": Case(
        {
            "privacy": {"trust": "central", "adaptive_clip": QUANTILE},
            "participation": {"kind": "poisson", "rate": 0.25},
            "statistics": {"budget_share": SHARE, "every": 2, "record_cap": 6.0},
        },
        records=6.0,
        chance=0.25,
        every=2,
    ),
    "seen": Case(
        {
            "privacy": {"trust": "secure-aggregation", "colluding": 1},
            "participation": {"kind": "fraction", "fraction": 0.6, "seed": 5},
            "statistics": {"noise_multiplier": Z},
        },
        records=max(tables.SIZES),
        chance=4 / K,
        surplus=math.sqrt(4 / 3),
    ),
}


def stated(system: System, case: str, rounds: int, asks: dict[str, Any] = ASKS) -> dict[str, Any]:
    """Return the scenario of a case, as a table."""
    training = {"rounds": rounds, "local_steps": 2, "learning_rate": STEP, "sampling_rate": RATE}
    section = tables.section(system.classes, "", ("sex",), ())
    table = scenario(system, section, training, 1, asks).model_dump(mode="json")
    sections = CASES[case].sections
    table["privacy"] |= {"unit": "client", "epsilons": [EPSILON, "clip-only"], **sections["privacy"]}
    return table | {key: value for key, value in sections.items() if key != "privacy"}


@functools.lru_cache(maxsize=64)
def planned(system: System, case: str, rounds: int) -> tuple[Run, Run, Run]:
    """Plan a private run, one whose messages show all that clients hold, and one that only clips updates.

    Under a trusted server clients add no noise, so the second run's messages are exact.
    """
    table = stated(system, case, rounds)
    private, clipped = plan(validate(table, "gate.toml"), "gate.toml").runs
    table["privacy"] = {**table["privacy"], "trust": "central", "colluding": 0}
    table["statistics"] = {**table["statistics"], "record_cap": 1e9}
    whole, _ = plan(validate(table, "gate.toml"), "gate.toml").runs
    return private, whole, clipped


PLANNED.append(planned)

Cells = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Seen:
    """What a run shows: models from before round 1 on, statistics by round, the clips, and who was asked."""

    models: list[Any]
    statistics: list[Cells]
    sds: list[Cells]
    tap: Tap


def trained(run: Run) -> Seen:
    models: list[Any] = []
    with watched() as shown:
        fit(tap := Tap(run), run, lambda round, model: models.append([*model]), Federation.of(run))
        reports = [reports[0].statistics for what, reports in shown if what == "weigh"]
    values, sds = (
        [{n: np.ravel(getattr(r[n], part)) for n in SUMS} for r in reports] for part in ("value", "sd")
    )
    return Seen(models, values, sds, tap)


def held(whole: Run, model: Any, round: int, clients: list[int]) -> dict[int, Cells]:
    """Return the statistics of all records that clients hold, each record clipped, no client clipped."""
    answers = ask(whole, model, round, clients) if clients else []
    return {a.client: {n: np.ravel(a.statistic(n)) for n in SUMS} for a in answers}


def bounded(cells: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    return cells * min(1.0, bound / max(float(np.linalg.norm(cells)), 1e-300))


def due(case: str, rounds: int) -> list[int]:
    return list(range(1, rounds + 1, CASES[case].every))


def multiplier(run: Run, name: str) -> float:
    return next(s.noise_multiplier for s in run.statistics if s.name == name)


def of_round(run: Run, *, joined: bool) -> float:
    """Return the noise multiplier of all that a round releases, as one vector."""
    parts = [run.clients[0].noise_multiplier, *(multiplier(run, n) for n in SUMS if joined)]
    return float(sum(z**-2 for z in parts) ** -0.5)


@check(PREFIX + "messages")
def messages(system: System) -> None:
    """What a client adds is its own sum, scaled down to the bound, and nothing without records."""
    private, whole, _ = planned(system, "hidden", ROUNDS)
    model = start(private)
    most = [t for t in due("hidden", ROUNDS) if {0, 1} & {*private.attendance.clients(t)}]  # they hold most
    assert most, "the clients that hold most never take part"
    present = private.attendance.clients(most[0])
    reached = dict.fromkeys(SUMS, 0.0)
    for sign in (1, -1):
        at = [sign * a for a in model]
        exact = held(whole, at, most[0], present)
        for answer in ask(private, at, most[0], present):
            for name in SUMS:
                bound = CASES["hidden"].bound(name)
                found, own = np.ravel(answer.statistic(name)), exact[answer.client][name]
                norm = float(np.linalg.norm(found))
                title = f"client {answer.client}: {name}"
                assert norm <= bound * (1 + 1e-9), f"{title} has the norm {norm:.4g}, more than {bound:.4g}"
                gap = float(np.abs(found - bounded(own, bound)).max())
                assert gap < 1e-6, f"{title} is off by {gap:.3g} from what it holds, scaled down"
                reached[name] = max(reached[name], norm / bound)
    assert min(reached.values()) > 0.999, f"no client is scaled down: {reached}"


@contextmanager
def without(client: int) -> Iterator[None]:
    """Take all records from a client."""
    original = Federation.records

    def records(self: Federation, seed: int) -> Any:
        found = original(self, seed)
        kept = tuple(rows[:0] if k == client else rows for k, rows in enumerate(found.held))
        return replace(found, held=kept)

    with patch.object(Federation, "records", records):
        yield


@check(PREFIX + "replay")
@exactly()
def replay(system: System) -> None:
    """All records of a client move a round's update, bit and statistics together by at most 1 / z noises."""
    system = replace(system, model="logistic", precision="float64")
    for case in CASES:
        reached = 0.0
        for more in range(0, 8, 2):  # seldom, nobody with many records joins a round with statistics first
            reached = max(reached, _reached(replace(system, seed=system.seed + more), case))
            if reached > 0.6:
                break
        assert reached > 0.6, f"{case}: no client moves a round by more than {reached:.3f} / z"


def _reached(system: System, case: str) -> float:
    """Return the most by which a client moves a round, in units of what it may."""
    given = CASES[case]
    private, _, _ = planned(system, case, 8)
    reached = 0.0
    update, adaptive = private.clients[0].noise_multiplier, private.adaptive_clip is not None
    sizes = np.array(tables.SIZES, dtype=np.float64)
    most = float(sizes.max() / sizes.sum()) / given.chance
    sd = (update / math.sqrt(1 - BITS**-2) if adaptive else update) * CLIP * most
    full = trained(private)
    for k in range(K):
        if not (rounds := private.attendance.rounds(k)):
            continue
        with without(k):
            less = trained(private)
        t, clips = rounds[0], (full.tap.clips, less.tap.clips)
        joined = t in due(case, 8)
        z = of_round(private, joined=joined)
        moved = [(flat(full.models[t]) - flat(less.models[t])) / (sd * clips[0][t] / CLIP)]
        for name in SUMS if joined else ():
            unit = multiplier(private, name) * given.bound(name) * given.scale
            moved.append((full.statistics[t - 1][name] - less.statistics[t - 1][name]) / unit)
        if adaptive and all(t + 1 in sent for sent in clips):
            bits = math.log(clips[0][t + 1] / clips[1][t + 1]) * given.chance * K / PACE
            moved.append(np.array([bits / (BITS * update / 2)]))
        found = float(np.linalg.norm(np.concatenate(moved)))
        assert found <= (1 + 1e-4) / z, f"{case}: client {k} moves a round by {found * z:.4f} / z"
        assert k != EMPTY or found == 0, f"{case}: a client without records moves a round"
        reached = max(reached, found * z)
    return reached


ROUNDS = 36


@check(PREFIX + "the sum")
def total(system: System) -> None:
    """Without noise, what is shown is the scaled sum of those who take part; between releases, the last."""
    system = replace(system, model="logistic", precision="float64")
    for case, given in CASES.items():
        _, _, clipped = planned(system, case, 16)
        seen, last = trained(clipped), Cells()
        for t in range(1, 17):
            if t in due(case, 16):
                exact = held(clipped, seen.models[t - 1], t, seen.tap.asked.get(t, [])).values()
                last = {n: given.scale * np.sum([own[n] for own in exact], axis=0) for n in SUMS}
            for name in SUMS:
                gap = float(np.abs(seen.statistics[t - 1][name] - last[name]).max())
                assert gap < 1e-6, f"{case}, round {t}: {name} is off by {gap:.3g}"


@check(PREFIX + "noise")
@exactly()
def noise(system: System) -> None:
    """A sum has those who take part, and fresh noise of z times its bound, also if nobody does."""
    system = replace(system, model="logistic", precision="float64")
    for case, given in CASES.items():
        private, whole, _ = planned(system, case, ROUNDS)
        every: list[NDArray[np.float64]] = []
        told: list[NDArray[np.float64]] = []
        for more in range(3):
            run = reseeded(private, more)
            seen, rows, first = trained(run), [], []
            for t in due(case, ROUNDS):
                exact = held(whole, seen.models[t - 1], t, seen.tap.asked.get(t, []))
                row = []
                for name in SUMS:
                    bound = given.bound(name)
                    sd = multiplier(run, name) * bound * given.scale * given.surplus
                    told.append(seen.sds[t - 1][name] / sd)
                    nothing = np.zeros(len(told[-1]))
                    total = sum((bounded(own[name], bound) for own in exact.values()), nothing)
                    row.append((seen.statistics[t - 1][name] - given.scale * total) / sd)
                rows.append(np.concatenate(row))
                first.append(rows[-1][0])
            every += rows
            if case == "hidden":
                _bits(run, seen, np.array(first))
        drawn = np.array(every)
        close(drawn.ravel(), f"{case}: statistics")
        right = np.allclose(np.concatenate(told), 1, rtol=1e-9)
        assert right, f"{case}: the strategy is told another sd"
        assert drawn.std(axis=0).min() > 0.4, f"{case}: a cell has less noise than the others"
        independent(drawn.T, f"{case}: cells of statistics")
        if case == "hidden" and system.seed == 0:
            asked = private.attendance.present_TK[:: given.every].any(axis=1)
            assert not asked.all(), "somebody joins every round"


def _bits(run: Run, seen: Seen, first: NDArray[np.float64]) -> None:
    """Check that the bit of the adaptive clip does not have the noise of a statistic."""
    for place, t in enumerate(due("hidden", ROUNDS)):
        if t + 1 not in seen.tap.clips or t not in seen.tap.clips:
            continue  # the clip of a round that nobody joins is not sent
        within = QUANTILE - math.log(seen.tap.clips[t + 1] / seen.tap.clips[t]) / PACE
        noisy = (within - 0.5) * CASES["hidden"].chance * K
        unit = BITS * run.clients[0].noise_multiplier / 2
        halves = np.arange(-K, K + 1) / 2
        gap = float(np.abs((noisy - halves) / unit - first[place]).min())
        assert gap > 1e-9, f"round {t}: the bit has the noise of a statistic"


@check(PREFIX + "ledger")
def ledger(system: System) -> None:
    """Update and statistics of a round are one release, at the chance of the sample; oracles bound its ε."""
    system = replace(system, model="logistic")
    for case, given in CASES.items():
        rounds = 6
        private, _, _ = planned(system, case, rounds)
        table = federate(tap := Tap(private), private)["ledger"]
        both = " + ".join(["client-update", *SUMS])
        z, alone = of_round(private, joined=True), of_round(private, joined=False)
        rate = given.chance if case == "hidden" else 1.0
        most = 0.0
        for client in [-1] if case == "hidden" else range(K):
            asked = [t for t in range(1, rounds + 1) if case == "hidden" or client in tap.asked[t]]
            joined = [t for t in asked if t in due(case, rounds)]
            expected = [
                (t, both, rate, z, 1) if t in joined else (t, "client-update", rate, alone, 1) for t in asked
            ]
            found = rows_of(table, client)
            assert len(found) == len(expected), f"{case}: client {client} is charged {len(found)} releases"
            for row, want in zip(found, expected, strict=True):
                same = row[:3] == want[:3] and row[4] == 1 and math.isclose(row[3], want[3], rel_tol=1e-9)
                assert same, f"{case}: client {client} is charged {row}, not {want}"
            if not asked:
                continue
            kinds = tuple(
                kind for kind in ((z, rate, len(joined)), (alone, rate, len(asked) - len(joined))) if kind[2]
            )
            spent = float(table[table["client"] == client]["epsilon_spent"].max())
            limit = at_most(kinds, DELTA, 1e-3)
            assert at_least(kinds, DELTA, 1e-3) <= spent <= limit * 1.002, f"{case}: {spent}, not {limit}"
            most = max(most, limit)
        assert 0.99 * EPSILON < most <= EPSILON * 1.002, f"{case}: a client spends {most} of {EPSILON}"
        if case == "hidden":
            share = sum(multiplier(private, n) ** -2 for n in SUMS) ** -0.5
            alone = at_most(((share, rate, len(due(case, rounds))),), DELTA, 1e-3)
            assert 0.98 * SHARE < alone / EPSILON < 1.01 * SHARE, f"statistics alone would spend {alone}"


@check(PREFIX + "what is refused")
def refused(system: System) -> None:
    """A strategy that needs each client's own statistic cannot run, nor a run whose bound is missing."""
    for name in ("term", "qfedavg", "afl", "fairfed", "tests.server.asks:Everything"):
        for case in CASES:
            try:
                check_scenario(validate(stated(system, case, 2, {"name": name}), "gate.toml"), "gate.toml")
            except ScenarioError:
                continue
            raise AssertionError(f"{name} runs, although it needs what single clients report")
    private, _, _ = planned(system, "seen", 2)
    for change in ({"client_bound": None}, {"noise_share": 0.0}, {"name": "mean_loss"}):
        statistics = tuple(s.model_copy(update=change) for s in private.statistics)
        try:
            Run.from_json(private.model_copy(update={"statistics": statistics}).to_json())
        except ValueError:
            continue
        raise AssertionError(f"a run with {change} is valid")
