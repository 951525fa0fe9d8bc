"""Who takes part in which round: the schedule, its refusals, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest

from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.participation import Attendance, Participation, chances_of
from fedtoll.scenarios.partition import Client
from tests.server.federation import FEDAVG, planned, scenario

CLIENTS = [Client(k, "a" if k < 150 else "b", 9) for k in range(200)]
HALF = Participation(kind="fraction", fraction=0.5)
RARE = Participation(kind="availability", availability={"b": 0.2, "client 0": 0.5})


def test_a_fraction_is_the_same_number_in_every_round():
    present = Attendance.draw(HALF, CLIENTS, 40).present_TK
    assert set(present.sum(axis=1)) == {100}
    assert 8 <= present.sum(axis=0).min() < present.sum(axis=0).max() <= 32  # Binomial(40, 1/2)


def test_a_tiny_fraction_is_one_client():
    present = Attendance.draw(Participation(kind="fraction", fraction=1e-9), CLIENTS, 9).present_TK
    assert set(present.sum(axis=1)) == {1}
    assert present.any(axis=0).sum() > 1


def test_availability_is_a_probability_by_client():
    assert chances_of(RARE, CLIENTS)[[0, 1, 149, 150, 199]].tolist() == [0.5, 1.0, 1.0, 0.2, 0.2]
    present = Attendance.draw(RARE, CLIENTS, 400).present_TK
    assert present[:, 1:150].all()
    rare = present[:, 150:]
    assert rare.mean() == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / rare.size))
    assert present[:, 0].mean() == pytest.approx(0.5, abs=0.1)
    correlation = np.asarray(np.corrcoef(rare.T))[np.triu_indices(50, 1)]
    assert abs(correlation.mean()) < 0.01
    assert np.abs(np.asarray(np.corrcoef(rare.mean(1)[1:], rare.mean(1)[:-1]))[0, 1]) < 0.2


@pytest.mark.parametrize("rule", [HALF, RARE], ids=lambda rule: rule.kind)
def test_fewer_rounds_have_the_beginning_of_the_schedule(rule):
    short, long = (Attendance.draw(rule, CLIENTS, rounds) for rounds in (5, 30))
    assert np.array_equal(short.present_TK, long.present_TK[:5])
    other = Attendance.draw(rule.changed(seed=1), CLIENTS, 5)
    assert not np.array_equal(other.present_TK, short.present_TK)


@pytest.mark.parametrize("rule", [None, Participation(), HALF, RARE], ids=str)
def test_turns_rounds_and_counts_agree(rule):
    attendance = Attendance.draw(rule, CLIENTS, 7)
    for k in (0, 3, 199):
        rounds = attendance.rounds(k)
        assert rounds == [t for t in range(1, 8) if k in attendance.clients(t)]
        turns = [attendance.turn(k, t) for t in range(1, 8)]
        assert [turn for turn in turns if turn] == list(range(1, len(rounds) + 1))
        assert attendance.counts()[k] == len(rounds)
        assert attendance.rounds(k, 3) == [t for t in rounds if t <= 3]


def test_the_next_round_is_the_first_with_anybody():
    alone = Attendance.draw(Participation(kind="availability", availability={"*": 0.2}), CLIENTS[:1], 40)
    rounds = alone.rounds(0)
    assert 0 < len(rounds) < 40
    assert [alone.next(t) for t in range(1, 42)] == [
        min([r for r in rounds if r >= t], default=41) for t in range(1, 42)
    ]


def test_the_schedule_is_that_of_every_run_and_depends_on_no_record():
    part = {"kind": "fraction", "fraction": 0.4, "seed": 5}
    many = {"partition": {"clients": {"Male": 6, "Female": 4}}, "training": {"rounds": 6}}
    found = planned(FEDAVG, {"name": "uniform"}, seeds=[0, 1], participation=part, **many)
    schedules = {run.attendance.present_TK.tobytes() for run in found.runs}
    assert len(schedules) == 1
    fewer = planned(FEDAVG, participation=part, data={"exclude": ["age"]}, **many).runs[0]
    kept = planned(FEDAVG, participation=part, split={"folds": 7}, **many).runs[0]
    assert {fewer.attendance.present_TK.tobytes(), kept.attendance.present_TK.tobytes()} == schedules


def test_scenarios_without_participation_are_written_and_hashed_as_before():
    run = planned(FEDAVG).runs[0]
    for stated in ({"kind": "all"}, {}):
        assert planned(FEDAVG, participation=stated).runs[0] == run
        assert "participation" not in scenario(FEDAVG, participation=stated).model_dump(mode="json")
    assert "participation" not in run.to_json()
    assert '"rounds":null' not in run.to_json()
    other = planned(FEDAVG, participation={"kind": "fraction", "fraction": 0.5}).runs[0]
    assert other.hash != run.hash
    assert type(other).from_json(other.to_json()) == other
    seeded = planned(FEDAVG, participation={"kind": "fraction", "fraction": 0.5, "seed": 1}).runs[0]
    assert seeded.hash != other.hash


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"kind": "some"}, "participation.kind"),
        ({"kind": "fraction"}, "fraction: required by kind = 'fraction'"),
        ({"fraction": 0.5}, "fraction: only with kind = 'fraction'"),
        ({"kind": "fraction", "fraction": 0.0}, "participation.fraction"),
        ({"kind": "fraction", "fraction": 1.1}, "participation.fraction"),
        ({"kind": "fraction", "fraction": float("nan")}, "participation.fraction"),
        ({"kind": "availability"}, "availability: required by kind = 'availability'"),
        ({"kind": "availability", "availability": {"Male": 0.0}}, "participation.availability.Male"),
        ({"kind": "availability", "availability": {"Mael": 0.5}}, "did you mean 'Male'?"),
        (
            {"kind": "availability", "availability": {"client 8": 0.5}},
            "no client 8; there are clients 0 to 2",
        ),
        ({"kind": "fraction", "fraction": 0.5, "seed": -1}, "participation.seed"),
        ({"seed": 3}, "seed: needs kind = 'fraction' or 'availability'"),
        ({"kind": "fraction", "frac": 0.5}, "participation.frac"),
    ],
    ids=str,
)
def test_nonsense_is_refused_in_one_line(section, line):
    with pytest.raises(ScenarioError) as caught:
        planned(FEDAVG, participation=section)
    text = str(caught.value)
    assert line in text
    assert text.startswith("sex.toml: participation")
    assert "\n" not in text


def test_availability_by_group_needs_public_groups():
    rare = {"kind": "availability", "availability": {"Female": 0.5}}
    with pytest.raises(ScenarioError, match="client 0 may hold records of several groups"):
        planned(FEDAVG, participation=rare, partition={"kind": "iid", "clients": 3})
    everybody = {"kind": "availability", "availability": {"*": 0.5}}
    (run,) = planned(FEDAVG, participation=everybody, partition={"kind": "iid", "clients": 3}).runs
    assert [c.rounds for c in run.clients] == run.attendance.counts()
