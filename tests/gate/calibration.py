"""The last release, by which offsets are corrected: bounded, noised, charged, and given once.

The number of records, labels and predictions of every group decide what is released. Labels have two classes
here, whatever the system has.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message_type import MessageType
from numpy.typing import NDArray

from fedtoll.clients import state as client_state
from fedtoll.clients.train import Clients
from fedtoll.privacy.ledger import DP_SGD
from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import plan
from tests.gate import tables
from tests.gate.ledger import Row, Tap, _bounds, _merged, rows_of
from tests.gate.noise import close, independent
from tests.gate.replay import touched
from tests.gate.system import (
    EPSILON,
    FEDAVG,
    PLANNED,
    RATE,
    STEP,
    ClientError,
    System,
    check,
    exactly,
    scenario,
    send,
    start,
)

PREFIX = "calibration: "
Z, PRIOR, ROUNDS, STEPS = 5.0, 0.4, 2, 2
NAME, SENSITIVITY = "group_residual", 1.0
REPLY = {"metrics", client_state.LEDGER}
SEEDS = 120

Cells = NDArray[np.float64]


@functools.lru_cache(maxsize=32)
def planned(system: System, moved: str = "", *, public: bool = False) -> tuple[Run, Run]:
    """Plan a run with DP-SGD and one without noise, that end with a calibration."""
    system = replace(system, classes=2)
    training = {"rounds": ROUNDS, "local_steps": STEPS, "sampling_rate": RATE, "learning_rate": STEP}
    section = tables.section(2, moved, ("sex",), ())
    table = scenario(system, section, training, 1, FEDAVG).model_dump(mode="json")
    table["calibration"] = {"noise_multiplier": Z, "prior": PRIOR}
    table["results"] = {"predictions": True}
    if public:
        table["partition"] = {"kind": "group", "clients": {"*": 2}}
    private, clipped = plan(validate(table, "gate.toml"), "gate.toml").runs
    return private, clipped


PLANNED.append(planned)


def question(run: Run, model: Any, client: int, round: int = ROUNDS + 1) -> Message:
    config = ConfigRecord({"run": run.to_json(), "server-round": round})
    content = RecordDict({"arrays": ArrayRecord(list(model)), "config": config})
    return Message(content, client + 1, MessageType.EVALUATE)


def replies(run: Run, model: Any, grid: LocalGrid | None = None, round: int = ROUNDS + 1) -> list[Message]:
    """Return what all clients reply to the server's last message."""
    grid = grid or LocalGrid(run)  # first: Flower numbers messages by the Grid's run
    return grid.send_and_receive([question(run, model, k, round) for k in range(len(run.clients))])


def released(run: Run, model: Any, grid: LocalGrid | None = None) -> list[Cells]:
    """Return the cells of every client."""
    found = []
    for k, reply in enumerate(replies(run, model, grid)):
        if reply.has_error():
            raise ClientError(f"client {k} fails: {reply.error.reason}")
        assert set(reply.content) == REPLY, f"client {k} sends {sorted(reply.content)}"
        metrics = dict(reply.content.metric_records["metrics"])
        assert set(metrics) == {"num-examples", NAME, f"{NAME}.sd"}, f"client {k} sends {sorted(metrics)}"
        assert metrics["num-examples"] == run.clients[k].size
        cells = np.asarray(metrics[NAME], dtype=np.float64).reshape(-1, 2)
        assert len(cells) == (1 if run.clients[k].group else 2), f"client {k} sends {len(cells)} pairs"
        found.append(cells)
    return found


@check(PREFIX + "replay")
@exactly()
def replay(system: System) -> None:
    """One record moves what its client releases by at most the sensitivity, and nothing else."""
    reached = 0.0
    for moved in ("outlier", "few", "many", "one", "ordinary"):
        full, without = (planned(system, m)[0] for m in ("", moved))
        for sign in (1, -1):
            model = [sign * a for a in start(full, scale=3.0)]
            pairs = zip(released(full, model), released(without, model), strict=True)
            for k, (a, b) in enumerate(pairs):
                found = float(np.linalg.norm(a - b))
                limit = SENSITIVITY if k in touched(moved) else 0.0
                assert found <= limit + 1e-8, f"{moved}: client {k} moves by {found:.6g}, not {limit:.4g}"
                reached = max(reached, found)
    assert reached > 0.8, f"no record moves a release by more than {reached:.4g}"


@check(PREFIX + "noise")
@exactly()
def noise(system: System) -> None:
    """Every cell has noise of sd z, fresh for every client and seed, also where groups are public."""
    system = replace(system, model="logistic")
    for public in (False, True):
        private, clipped = planned(system, public=public)
        model, handler = start(private), Clients().train  # which resolves the records once
        exact = np.concatenate([c.ravel() for c in released(clipped, model)])
        rows = []
        for seed in range(SEEDS):
            other = private.model_copy(update={"noise_seed": system.seed * 1000 + seed})
            rows.append(
                (
                    np.concatenate([c.ravel() for c in released(other, model, LocalGrid(other, handler))])
                    - exact
                )
                / Z
            )
        z, title = np.array(rows), "public groups" if public else "mixed groups"
        close(z.ravel(), title)
        assert z.std(axis=0).min() > 0.8, f"{title}: a cell has less noise than the others"
        independent(z.T, f"{title}: cells")


@check(PREFIX + "once")
def once(system: System) -> None:
    """A client answers for one model, after the last round, the same again if asked again, and no more."""
    run, _ = planned(system)
    grid, model = LocalGrid(run), start(run)
    for round in (1, ROUNDS, ROUNDS + 2):
        assert all(r.has_error() for r in replies(run, model, grid, round)), f"answers in round {round}"
    first, again = replies(run, model, grid), replies(run, model, grid)
    for a, b in zip(first, again, strict=True):
        if a.has_error() or b.has_error():
            raise ClientError("a client fails")
        assert a.content == b.content, "a repeated question gets another answer"
    other = replies(run, start(run, seed=2), grid)
    assert all(r.has_error() for r in other), "answers for two models"
    late = send(grid, run, model, ROUNDS)
    assert all(r.has_error() for r in late), "trains after the calibration"
    plain = run.model_copy(update={"calibration": None})
    assert all(r.has_error() for r in replies(plain, model)), "answers in a run without a calibration"


@check(PREFIX + "ledger")
def ledger(system: System) -> None:
    """The release is charged once, and with all steps of training it spends ε; oracles bound it."""
    run, _ = planned(system)
    found = federate(tap := Tap(run), run)["ledger"]
    for k, client in enumerate(run.clients):
        due: list[Row] = [(t, DP_SGD, RATE, client.noise_multiplier, STEPS) for t in range(1, ROUNDS + 1)]
        due.append((ROUNDS + 1, NAME, 1.0, Z, 1))
        assert rows_of(found, k) == due, f"client {k}: the ledger has other releases"
        columns: Any = tap.received[ROUNDS + 1, k][0][client_state.LEDGER]
        assert list(columns["what"]) == [what for _, what, *_ in due], f"client {k} disagrees"
        spent = float(found[found["client"] == k]["epsilon_spent"].max())
        least, most = _bounds(_merged(due), "pld")
        assert least <= spent <= most, f"client {k} spends {most:.4g}, not {spent:.4g}"
        assert 0.98 * EPSILON < spent <= EPSILON * (1 + 1e-9), f"client {k}: {spent:.4g} of {EPSILON}"


def _logit(scores: Any) -> Cells:
    return np.asarray(np.log(scores) - np.log1p(-scores))


@check(PREFIX + "offsets")
def offsets(system: System) -> None:
    """What is added to the scores of a group follows from what clients released, for that group alone."""
    for public in (False, True):
        run, _ = planned(system, public=public)
        result = federate(tap := Tap(run), run)
        plain = run.model_copy(update={"calibration": None})
        before, after = (
            t["predictions"].sort_values("record") for t in (federate(LocalGrid(plain), plain), result)
        )
        moved = _logit(after["score"]) - _logit(before["score"])
        last = result["groups"][result["groups"]["round"] == ROUNDS].set_index("group")
        for g, sex in enumerate(tables.SEXES):
            cells, count = _sums(run, tap, sex, g)
            S, H, variance = cells[0], max(cells[1], 0.0), count * Z**2
            due = H * S / (H**2 + variance / PRIOR**2)
            mine = (after["group"] == sex).to_numpy()
            assert np.abs(moved[mine] - due).max() < 1e-5, f"{sex}: moved by {moved[mine]}, not {due:.4g}"
            right = (after["score"][mine] >= 0.5) == (after["label"][mine] == 1)
            assert abs(last["accuracy"][sex] - right.mean()) < 1e-9, f"the figures of {sex} are others"


def _sums(run: Run, tap: Tap, sex: str, g: int) -> tuple[Cells, int]:
    """Return the sums of a group's cells over the clients that release them, and their number."""
    holders: Sequence[int] = [k for k, c in enumerate(run.clients) if c.group in {"", sex}]
    parts = []
    for k in holders:
        metrics = tap.received[ROUNDS + 1, k][0].metric_records["metrics"]
        cells = np.asarray(metrics[NAME], dtype=np.float64).reshape(-1, 2)
        parts.append(cells[0 if run.clients[k].group else g])
    return np.sum(parts, axis=0), len(holders)
