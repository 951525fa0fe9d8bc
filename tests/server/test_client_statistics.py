"""Statistics where a client is the unit of privacy: bounded by client, in one release with updates."""

from __future__ import annotations

import math
import re
import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from fedtoll.privacy.accounting import Event, calibrate, epsilon
from fedtoll.privacy.breakdown import events_of
from fedtoll.privacy.ledger import Ledger, all_owed
from fedtoll.scenarios import client_unit
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.streams import Purpose, stream
from fedtoll.server.app import fit
from fedtoll.server.grid import LocalGrid
from fedtoll.server.trainer import simulate
from tests.gate.system import ask
from tests.peers.oracle import at_least, at_most
from tests.server.federation import planned, scenario
from tests.server.test_client_unit import HALF, SIX, SOME, TRAINING

MINMAX: dict[str, Any] = {"name": "fedminmax", "clip": 50.0}  # no loss is larger
JOINT = "client-update + group_loss"
CAP = 3000.0  # records: the men's clients hold twice as many


def run_of(by: str, epsilon: Any = 4.0, strategy: dict[str, Any] = MINMAX, **changes: Any) -> Run:
    training = {**TRAINING, "rounds": 5, **changes.pop("training", {})}
    privacy = {"epsilons": [epsilon], "unit": "client", "trust": by, **changes.pop("privacy", {})}
    sections = {"partition": SIX, "statistics": {"record_cap": CAP, "every": 2}, **changes}
    (run,) = planned(strategy, training=training, privacy=privacy, **sections).runs
    return run


def models(run: Run) -> list[Any]:
    found: list[Any] = []
    fit(LocalGrid(run), run, lambda _, model: found.append(model), Federation.of(run))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["cohort", "opacus"])
@pytest.mark.parametrize(
    ("by", "participation"), [("central", HALF), ("secure-aggregation", SOME)], ids=["hidden", "seen"]
)
def test_what_is_shown_is_the_scaled_sum_of_bounded_parts_and_one_noise(by, participation, engine):
    changes: dict[str, Any] = {"participation": participation, "training": {"engine": engine}}
    private = run_of(by, **changes)
    exact = run_of("central", "inf", participation=participation, training={"engine": engine})
    (plan,), bound = private.statistics, CAP * math.sqrt(2)
    assert plan.client_bound == pytest.approx(bound)
    rows = simulate(private)["rounds"].set_index("round")
    cut = 0
    for round, model in enumerate(models(private)[:-1], 1):
        shown = np.array(rows.loc[round, "group_loss"])
        if round % 2 == 0:
            assert (shown == np.array(rows.loc[round - 1, "group_loss"])).all()
            continue
        places = private.attendance.clients(round)
        assert places, "nobody takes part"
        free = exact.model_copy(update={"participation": None})
        total, z = np.zeros(4), plan.noise_multiplier
        for answer in ask(free, model, 1, places):
            cells = answer.statistic("group_loss")
            cut += int(np.linalg.norm(cells) > bound)
            total += cells * min(1.0, bound / float(np.linalg.norm(cells)))
            if by != "central":
                rng = stream(private.noise_seed, Purpose.STATISTIC, answer.client, round, 0)
                total += z / math.sqrt(3) * bound * rng.standard_normal((1, 2, 2)).ravel()
        if by == "central":
            rng = stream(private.noise_seed, Purpose.SUM_STATISTIC, round, 1)
            total += z * bound * rng.standard_normal(4)
        assert np.abs(shown - 2 * total).max() < 1e-4 * z * bound
        assert rows.loc[round, "group_loss_sd"] == pytest.approx([2 * z * bound] * 4)
    assert cut > 0, "no client is scaled down"


@pytest.mark.slow
@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(
    ("by", "participation", "rate"),
    [("central", HALF, 0.5), ("secure-aggregation", SOME, 1.0)],
    ids=["hidden", "seen"],
)
def test_every_epsilon_is_that_of_an_oracle(by, participation, rate, accountant):
    privacy = {"accountant": accountant, "adaptive_clip": 0.5}
    private = run_of(by, participation=participation, privacy=privacy)
    ledger, most = simulate(private)["ledger"], 0.0
    z_update, z_statistic = private.clients[0].noise_multiplier, private.statistics[0].noise_multiplier
    both = 1 / math.sqrt(z_update**-2 + z_statistic**-2)
    for _, rows in ledger.groupby("client"):
        due = rows["round"] % 2 == 1
        assert (rows["release"] == np.where(due, JOINT, "client-update")).all()
        assert rows["noise_multiplier"].tolist() == pytest.approx(np.where(due, both, z_update).tolist())
        assert set(rows["sampling_rate"]) == {rate}
        counts = int(due.sum()), int((~due).sum())
        kinds = tuple((z, rate, n) for z, n in zip((both, z_update), counts, strict=True) if n)
        spent = rows["epsilon_spent"].max()
        assert at_least(kinds, 1e-5, 1e-3) <= spent <= at_most(kinds, 1e-5, 1e-3) * 1.2
        if accountant == "pld":
            assert spent == pytest.approx(at_most(kinds, 1e-5, 1e-4), rel=1e-3)
        most = max(most, spent)
    assert most == pytest.approx(4, rel=1e-3)
    if accountant == "pld" and rate < 1:  # by default, a tenth of ε
        alone = at_most(((z_statistic, rate, 3),), 1e-5, 1e-4)
        assert alone == pytest.approx(0.4, rel=5e-3)


@pytest.mark.slow
def test_one_release_of_a_shared_sample_costs_more_than_two_of_their_own():
    """Why statistics are no release of their own."""
    z = client_unit.joint_multiplier(1.0, 2.0)
    together = at_most(((z, 0.05, 30),), 1e-5, 1e-3)
    separate = at_most(((1.0, 0.05, 30), (2.0, 0.05, 30)), 1e-5, 1e-3)
    assert together > 1.1 * separate


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_the_noise_of_updates_pays_for_statistics_in_some_rounds(accountant):
    z = calibrate(
        2.0, sampling_rate=0.1, count=20, delta=1e-5, accountant=accountant, joined=Event(4.0, 0.1, 7)
    )
    alone = calibrate(2.0, sampling_rate=0.1, count=20, delta=1e-5, accountant=accountant)
    assert z > alone
    both = 1 / math.hypot(1 / z, 1 / 4.0)
    spent = epsilon([Event(z, 0.1, 13), Event(both, 0.1, 7)], 1e-5, accountant)
    assert 1.999 < spent <= 2.0
    with pytest.raises(ScenarioError, match="the statistics alone spend"):
        calibrate(0.5, sampling_rate=0.1, count=20, delta=1e-5, joined=Event(1.0, 0.1, 20))


@pytest.mark.slow
def test_all_records_of_a_client_move_a_sum_by_no_more_than_its_bound():
    """Each client in turn loses all of its records; the plan, its public size included, stays."""
    run = run_of("central", strategy={"name": "fedminmax"}, training={"rounds": 1}, statistics={})
    bound = run.statistics[0].client_bound or 0.0
    assert bound == pytest.approx(max(c.size for c in run.clients) * math.sqrt(2))
    original, reached = Federation.records, []

    def without(client: int) -> Any:
        def records(self: Federation, seed: int) -> Any:
            found = original(self, seed)
            kept = tuple(rows[:0] if k == client else rows for k, rows in enumerate(found.held))
            return replace(found, held=kept)

        return patch.object(Federation, "records", records)

    def shown(client: int | None) -> Any:
        with nullcontext() if client is None else without(client):
            return np.array(simulate(run)["rounds"]["group_loss"][0])

    full = shown(None)
    for client in range(6):
        reached.append(float(np.linalg.norm(full - shown(client))))
    assert max(reached) <= bound * (1 + 1e-6)
    assert min(reached) > bound / 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedminmax", "fpfl", "fedfb", "puffle", "dp-fermi", "fedfdp"])
@pytest.mark.parametrize("by", ["central", "secure-aggregation"])
def test_strategies_that_need_totals_of_groups_run(name, by):
    changes = {"participation": HALF} if by == "central" else {}
    run = run_of(by, 50.0, {"name": name}, statistics={"noise_multiplier": 5.0}, **changes)
    tables = simulate(run)
    assert tables["groups"]["accuracy"].notna().all()
    (statistic,) = run.statistics
    assert set(tables["ledger"]["release"]) == {f"client-update + {statistic.name}"}
    assert not [column for column in map(str, tables["clients"]) if statistic.name in column]
    assert Run.from_json(run.to_json()) == run


def test_a_round_that_nobody_joins_shows_noise_and_is_charged():
    run = run_of("central", participation={"kind": "poisson", "rate": 0.05}, statistics={})
    empty = np.flatnonzero(run.attendance.present_TK.sum(axis=1) == 0) + 1
    assert len(empty) > 1, "somebody joins every round"
    tables = simulate(run)
    shown = [tuple(tables["rounds"]["group_loss"][t - 1]) for t in empty]
    assert len(set(shown)) == len(shown)
    assert tables["ledger"]["release"].tolist() == [JOINT] * 5


def test_availability_leaves_the_statistics_of_a_round_without_clients_undefined():
    rule = {"kind": "availability", "availability": {"*": 0.1}, "seed": 2}
    run = run_of("central", 50.0, participation=rule, statistics={})
    counts = run.attendance.present_TK.sum(axis=1)
    assert (counts == 0).any()
    assert counts.any()
    rows = simulate(run)["rounds"]
    undefined = [bool(np.isnan(cells).all()) for cells in rows["group_loss"]]
    assert undefined == (counts == 0).tolist()


@pytest.mark.parametrize(
    ("by", "participation"), [("central", HALF), ("secure-aggregation", SOME)], ids=["hidden", "seen"]
)
def test_the_account_of_a_scenario_is_that_of_the_ledger(by, participation):
    run = run_of(by, participation=participation)
    attendance = run.attendance
    for place, client in enumerate(run.clients):
        ledger = Ledger.of(run)
        ledger.charge(all_owed(run, place, attendance))
        joined = None if by == "central" else int(attendance.present_TK[::2, place].sum())
        parts = events_of(run, client, joined=joined)
        spent = epsilon(list(parts.values()), *run.guarantee)
        assert spent == pytest.approx(ledger.epsilon(client.id), rel=1e-9)


def test_stored_runs_without_statistics_keep_their_hash():
    text = planned({"name": "term"}, privacy={"unit": "record"}).runs[0].to_json()
    assert "client_bound" not in text
    assert "record_cap" not in scenario(MINMAX).model_dump_json()


CENTRAL = {"epsilons": [2.0], "unit": "client", "trust": "central"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"privacy": {"epsilons": [2.0]}, "statistics": {"record_cap": 5.0}},
            r"statistics.record_cap = 5: needs privacy.unit = 'client'",
        ),
        (
            {
                "privacy": CENTRAL,
                "statistics": {"every": 2},
                "participation": {"kind": "availability", "availability": {"*": 0.5}},
            },
            r"statistics.every = 2: must be 1 with participation.kind = 'availability'",
        ),
        ({"privacy": CENTRAL, "statistics": {"record_cap": 0.0}}, r"record_cap.* greater than 0"),
    ],
    ids=str,
)
def test_settings_without_sense_are_one_line(changes, reason):
    with pytest.raises(ScenarioError, match=reason) as caught:
        scenario(MINMAX, **changes)
    assert "\n" not in str(caught.value)


def test_statistics_that_alone_spend_more_than_epsilon_are_refused():
    with pytest.raises(ScenarioError, match="the statistics alone spend"):
        run_of("central", 0.5, statistics={"noise_multiplier": 1.0})


@pytest.mark.parametrize(
    "change",
    [
        {"client_bound": None},
        {"noise_share": 1.0},
        {"noise_share": None},
        {"name": "mean_loss", "client_bound": 1.0},
    ],
    ids=str,
)
def test_a_run_without_bound_or_noise_is_not_valid(change):
    private = run_of("secure-aggregation")
    statistics = tuple(s.model_copy(update=change) for s in private.statistics)
    with pytest.raises(ValueError, match="statistic"):
        Run.from_json(private.model_copy(update={"statistics": statistics}).to_json())
    record = planned(MINMAX, privacy={"epsilons": [2.0]}).runs[0]
    bounded = tuple(s.model_copy(update={"client_bound": 1.0}) for s in record.statistics)
    with pytest.raises(ValueError, match="client_bound"):
        Run.from_json(record.model_copy(update={"statistics": bounded}).to_json())


@pytest.mark.slow
def test_the_example_of_the_page_is_what_budget_prints(here):
    page = (Path(__file__).parents[2] / "docs/strategies.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```console\n\$ (fedtoll budget .*?)^```$", page, re.MULTILINE | re.DOTALL)
    command, *printed = block.splitlines()
    code, out, err = here(*shlex.split(command)[1:])
    assert code == 0, err
    assert out.splitlines()[: len(printed) - 1] == printed[:-1]
