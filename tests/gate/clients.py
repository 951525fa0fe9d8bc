"""A system in which a client is the unit of privacy: sums of clipped updates under both kinds of trust.

The seven clients of the first system, one of which holds no records. Who takes part is secret, seen, or
everybody; weights are capped; the clip is fixed or adaptive. Weights, the factors of a sum, its noise and
what is due to every client are computed here, from the public sizes and the scenario.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run
from fedtoll.server.app import federate, fit
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import plan
from tests.gate import tables
from tests.gate.ledger import rows_of
from tests.gate.noise import close, independent
from tests.gate.system import (
    CLIP,
    DELTA,
    EPSILON,
    FEDAVG,
    PLANNED,
    RATE,
    STEP,
    System,
    ask,
    check,
    exactly,
    flat,
    scenario,
    start,
)
from tests.peers.oracle import at_least, at_most

PREFIX = "clients: "
K = len(tables.SIZES)
EMPTY = tables.HELD.index(0)
QUANTILE, PACE, BITS = 0.5, 0.2, 10.0
"""The quantile that the clip follows; η and z_b / z, as docs/threat-model.md states them."""

HIDDEN = {"kind": "poisson", "rate": 0.2}
SEEN = {"kind": "fraction", "fraction": 0.6, "seed": 5}
TOGETHER = 4
"""The number of clients of a round of ``SEEN``."""

CASES: dict[str, dict[str, Any]] = {
    "hidden": {"privacy": {"trust": "central"}, "participation": HIDDEN},
    "seen": {
        "privacy": {"trust": "secure-aggregation", "colluding": 1, "weight_cap": 1.5},
        "participation": SEEN,
    },
    "adaptive": {"privacy": {"trust": "central", "adaptive_clip": QUANTILE}},
}


@functools.lru_cache(maxsize=64)
def runs(system: System, case: str, rounds: int = 4, adaptive: bool = True) -> tuple[Run, Run, Run]:
    """Plan a private run, one that only clips, and one that does neither."""
    training = {"rounds": rounds, "local_steps": 2, "learning_rate": STEP, "sampling_rate": RATE}
    section = tables.section(system.classes, "", ("sex",), ())
    table = scenario(system, section, training, 1, FEDAVG).model_dump(mode="json")
    privacy = {"unit": "client", "epsilons": [EPSILON, "clip-only", "inf"], **CASES[case]["privacy"]}
    if not adaptive:
        privacy.pop("adaptive_clip")
    table["privacy"] |= privacy
    table |= {k: v for k, v in CASES[case].items() if k != "privacy"}
    private, clipped, free = plan(validate(table, "gate.toml"), "gate.toml").runs
    return private, clipped, free


PLANNED.append(runs)


def weights(case: str) -> NDArray[np.float64]:
    """Return the public weights: by size, none above the cap, what is cut off given to the others."""
    sizes = np.array(tables.SIZES, dtype=np.float64)
    p, cap = sizes / sizes.sum(), CASES[case]["privacy"].get("weight_cap", K) / K
    low, high = 1.0, float(K)
    for _ in range(60):  # the factor of those below the cap
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(p * middle, cap).sum() < 1 else (low, middle)
    return np.asarray(np.minimum(p * low, cap))


def factors(case: str) -> NDArray[np.float64]:
    """Return the factor of every client's update in a sum: its weight over the expected sum of weights."""
    chance = {"hidden": 0.2, "seen": TOGETHER / K, "adaptive": 1.0}[case]
    return weights(case) / chance


class Tap(LocalGrid):
    """Remembers the clip that every round was sent, and who was asked."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.clips: dict[int, float] = {}
        self.asked: dict[int, list[int]] = {}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        for message in sent:
            for config in message.content.config_records.values():
                round: Any = config["server-round"]
                clip: Any = config.get("update_clip", CLIP)
                self.clips[round] = clip
                self.asked.setdefault(round, []).append(message.metadata.dst_node_id - 1)
        return super().send_and_receive(sent, timeout=timeout)


def trained(run: Run) -> tuple[list[Any], Tap]:
    """Train a run; return the model before round 1 and after every round, and the tap."""
    models: list[Any] = []
    fit(tap := Tap(run), run, lambda round, model: models.append([*model]), Federation.of(run))
    return models, tap


def to_clip(update: NDArray[np.float64], clip: float) -> NDArray[np.float64]:
    return update * min(1.0, clip / max(float(np.linalg.norm(update)), 1e-300))


def exact(
    free: Run, case: str, model: Any, round: int, asked: list[int], clip: float
) -> tuple[NDArray[np.float64], float]:
    """Return a round's sum without noise, and the sum of its bits, from what clients send at ε = ∞."""
    total, bits = np.zeros(flat(model).size), 0.0
    for answer in ask(free, model, round, asked) if asked else []:
        total += factors(case)[answer.client] * to_clip(answer.update, clip)
        if answer.client != EMPTY:
            bits += 0.5 if np.linalg.norm(answer.update) <= clip else -0.5
    return total, bits


def noises(private: Run, free: Run, case: str) -> tuple[NDArray[np.float64], list[float], list[float]]:
    """Return the noise of every round, ``[round, weight]``, the clips, and the noise of the bits."""
    models, tap = trained(private)
    clips = [tap.clips.get(t, CLIP) for t in range(1, private.rounds + 1)]
    found, of_bits = [], []
    for t, (before, after) in enumerate(itertools.pairwise(models), 1):
        total, bits = exact(free, case, before, t, tap.asked.get(t, []), clips[t - 1])
        found.append(flat(after) - flat(before) - total)
        if t < private.rounds:
            within = QUANTILE - math.log(clips[t] / clips[t - 1]) / PACE
            of_bits.append((within - 0.5) * K - bits)
    return np.array(found), clips, of_bits


def reseeded(run: Run, more: int) -> Run:
    return run.model_copy(update={"noise_seed": run.noise_seed + more})


@check(PREFIX + "noise")
@exactly()
def noise(system: System) -> None:
    """A sum has fresh noise of z times its sensitivity, also in a round that nobody joins."""
    for case, colluding in (("hidden", 0), ("seen", 1), ("adaptive", 0)):
        private, _, free = runs(system, case, rounds=6)
        (z,) = {c.noise_multiplier for c in private.clients}
        of_updates = z / math.sqrt(1 - BITS**-2) if case == "adaptive" else z
        honest = math.sqrt(TOGETHER / (TOGETHER - colluding))
        drawn, all_bits = [], []
        for i in range(2):
            found, clips, of_bits = noises(reseeded(private, i), free, case)
            sds = of_updates * factors(case).max() * np.array(clips) * honest
            drawn += list(found / sds[:, None])
            all_bits += of_bits
            for t, row in enumerate(found):
                close(row / sds[t], f"{case}, round {t + 1}")
        close(np.concatenate(drawn), case)
        independent(np.array(drawn), case)
        if case == "hidden" and system.seed == 0:
            assert not private.attendance.present_TK.any(axis=1).all(), "somebody joins every round"
        if case == "adaptive":
            close(np.array(all_bits) / (BITS * z / 2), "bits of the adaptive clip", 1e-9)


@check(PREFIX + "the bits are paid for")
@exactly()
def paid(system: System) -> None:
    """With an adaptive clip the noise of the updates is larger by what the bits are charged for."""
    system = replace(system, model="logistic")
    adaptive, fixed = (runs(system, "adaptive", 1, adaptive=a) for a in (True, False))
    (a,), (b,) = ({c.noise_multiplier for c in found[0].clients} for found in (adaptive, fixed))
    assert a == b, "the charged noise depends on the clip"
    more, less = (noises(private, free, "adaptive")[0][0] for private, _, free in (adaptive, fixed))
    ratio = float(more @ less / (less @ less))
    assert ratio**-2 + BITS**-2 < 1 + 1e-5, f"updates have {ratio:.6f} times the noise of a fixed clip"


@check(PREFIX + "one client")
def one(system: System) -> None:
    """A client moves a sum by at most C times its factor and its bit by 1/2; without records by nothing."""
    for case in ("seen", "adaptive"):
        _, clipped, _ = runs(system, case)
        asked = clipped.attendance.clients(1)
        reached = 0.0
        for scale in (0.3, 3.0):
            for answer in ask(clipped, start(clipped, scale=scale), 1, asked):
                norm = float(np.linalg.norm(answer.update))
                assert norm <= CLIP * (1 + 1e-4), f"{case}: client {answer.client} moves by {norm:.4g}"
                reached = max(reached, norm)
                bit = float(answer.metrics.get("within_clip", 0.0))
                assert abs(bit) <= 0.5, f"client {answer.client} sends the bit {bit}"
                if answer.client == EMPTY:
                    assert norm == 0, f"{case}: a client without records moves the sum by {norm:.4g}"
                    assert bit == 0, f"{case}: a client without records sends the bit {bit}"
        assert reached > 0.99 * CLIP, f"{case}: no update is as long as the clip"
    assert EMPTY in clipped.attendance.clients(1)


@check(PREFIX + "the sum")
def total(system: System) -> None:
    """Without noise, a round moves the model by the clipped updates times their fixed public factors."""
    for case in CASES:
        _, clipped, free = runs(system, case)
        models, tap = trained(clipped)
        for t, (before, after) in enumerate(itertools.pairwise(models), 1):
            due, _ = exact(free, case, before, t, tap.asked.get(t, []), tap.clips.get(t, CLIP))
            gap = float(np.abs(flat(after) - flat(before) - due).max())
            assert gap < 1e-6, f"{case}, round {t}: the sum is off by {gap:.3g}"


@check(PREFIX + "ledger")
def ledger(system: System) -> None:
    """A client is charged every round where it may hide, else every round in which it is asked."""
    system = replace(system, model="logistic")
    for case, rate in (("hidden", 0.2), ("seen", 1.0)):
        private, _, _ = runs(system, case, rounds=6)
        table = federate(tap := Tap(private), private)["ledger"]
        (z,) = {c.noise_multiplier for c in private.clients}
        most = 0.0
        for client in [-1] if case == "hidden" else range(K):
            rounds = [t for t in range(1, 7) if case == "hidden" or client in tap.asked[t]]
            due = [(t, "client-update", rate, z, 1) for t in rounds]
            assert rows_of(table, client) == due, f"{case}: client {client} is charged for other rounds"
            if not rounds:
                continue
            spent = float(table[table["client"] == client]["epsilon_spent"].max())
            kinds = ((z, rate, len(rounds)),)
            least, limit = at_least(kinds, DELTA, 1e-3), at_most(kinds, DELTA, 1e-3)
            assert least <= spent <= limit * 1.002, f"{case}: client {client} spent {spent}, not {limit}"
            most = max(most, limit)
        expected = 6 if case == "hidden" else sum(len(asked) for asked in tap.asked.values())
        assert len(table) == expected, f"{case}: the ledger has further rows"
        assert 0.99 * EPSILON < most <= EPSILON * 1.001, f"{case}: a client spends {most} of {EPSILON}"


@check(PREFIX + "who takes part")
def who(system: System) -> None:
    """A hidden sample is drawn for every client, round and seed; it is refused where it can be seen."""
    private, _, _ = runs(system, "hidden", rounds=40)
    drawn = np.stack(
        [private.model_copy(update={"seed": s}).attendance.present_TK for s in range(20)]
    ).astype(float)
    z = (drawn.mean() - 0.2) / math.sqrt(0.16 / drawn.size)
    assert abs(z) < 5.5, f"clients take part with probability {drawn.mean():.3f}, not 0.2"
    assert len({d.tobytes() for d in drawn}) == 20, "the sample is the same for two seeds"
    counts = drawn.sum(axis=2)
    spread = counts.var() / (K * 0.16)
    assert 0.7 < spread < 1.3, f"the number of clients varies by {spread:.2f} of a Poisson sample's"
    for change in ({"trust": "secure-aggregation"}, {"unit": "record"}, {"trust": "local"}):
        table = scenario(
            system,
            tables.section(2, "", ("sex",), ()),
            {"rounds": 2, "local_steps": 1, "learning_rate": STEP, "sampling_rate": RATE},
            1,
            FEDAVG,
        ).model_dump(mode="json")
        table["privacy"] |= {"unit": "client", "trust": "central", **change}
        try:
            plan(validate(table | {"participation": HIDDEN}, "gate.toml"), "gate.toml")
        except ScenarioError:
            continue
        raise AssertionError(f"who takes part counts as hidden with {change}")
