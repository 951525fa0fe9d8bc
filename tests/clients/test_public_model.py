"""A public start and the pull towards it: the model, its privacy, and what it does not go with."""

from __future__ import annotations

import numpy as np
import pytest

from fedtoll.clients import public_model
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.server.app import fit
from fedtoll.server.grid import LocalGrid
from fedtoll.server.plan import plan
from fedtoll.sweep import run as sweep
from tests.server.federation import FEDAVG, YOGI, scenario

PUBLIC = {"split": {"validation": 0.05}, "privacy": {"epsilons": ["inf", 2.0]}}


def planned(strategy=FEDAVG, validation=0.05, **training):
    stated = {**PUBLIC, "split": {"validation": validation}, "training": training}
    return plan(scenario(strategy, **stated), "x.toml")


def models(strategy=FEDAVG, **training):
    """Return the model before round 1 and after every round, of the run with noise."""
    found = planned(strategy, **training)
    seen = []
    run = found.runs[1]
    fit(LocalGrid(run), run, lambda round, model: seen.append([*model]), found.federation)
    return seen


def test_the_start_is_the_penalised_fit_of_the_public_records():
    """As scikit-learn finds it: C = 1 / (n · penalty), which spares the intercept; so compare gradients."""
    found = planned(start="public")
    run, records = found.runs[1], found.federation.records(0)
    weight, bias = (a.astype(np.float64) for a in public_model.start(run, found.federation))
    x, y = (a[records.validation].astype(np.float64) for a in (records.table.features, records.table.label))
    assert len(x) > 1000
    wrong = 1 / (1 + np.exp(-(x @ weight[0] + bias))) - y
    gradient = np.append(wrong @ x, wrong.sum()) / len(x) + public_model.PENALTY * np.append(weight[0], bias)
    assert np.abs(gradient).max() < 1e-4


def test_the_start_does_not_depend_on_clients_records(monkeypatch):
    found = planned(start="public")
    before = public_model.start(found.runs[1], found.federation)
    records = found.federation.records(0)
    features = records.table.features.copy()
    features[np.concatenate([*records.held, records.test])] = 7.0
    changed = type(records)(
        **{**vars(records), "table": type("T", (), {"features": features, "label": records.table.label})}
    )
    monkeypatch.setattr(type(found.federation), "records", lambda self, seed: changed)
    after = public_model.start(found.runs[1], found.federation)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("strategy", [FEDAVG, YOGI], ids=["fedavg", "flower"])
def test_the_pull_moves_every_rounds_model_towards_the_start(strategy):
    plain, pulled = models(strategy, start="public"), models(strategy, start="public", pull=0.25)
    for a, b, public in zip(plain[1], pulled[1], plain[0], strict=True):
        np.testing.assert_allclose(b, 0.75 * a + 0.25 * public, rtol=1e-6, atol=1e-6)
    assert not np.array_equal(plain[0][0], models(strategy)[0][0])


def test_a_start_is_part_of_the_hash_and_stays_out_of_other_runs():
    runs = [planned(**t).runs[1] for t in ({}, {"start": "initial"}, {"start": "public"})]
    assert runs[0] == runs[1]
    assert "start" not in runs[0].to_json()
    pulled = planned(start="public", pull=0.1).runs[1]
    assert len({run.hash for run in (*runs, pulled)}) == 3


@pytest.mark.parametrize(
    ("validation", "training", "message"),
    [
        (0.05, {"pull": 0.1}, "training.pull = 0.1: needs training.start = 'public'"),
        (0.0, {"start": "public"}, "training.start = 'public': needs split.validation"),
        (0.05, {"start": "publik"}, "did you mean 'public'?"),
        (0.05, {"start": "public", "pull": 1.0}, "training.pull = 1.0: "),
    ],
)
def test_mistakes_are_one_line(validation, training, message):
    with pytest.raises(ScenarioError) as caught:
        planned(validation=validation, **training)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_constants_are_not_chosen_by_the_records_of_the_start():
    stated = ["training.start='public'", "split.validation=0.05"]
    with pytest.raises(ScenarioError, match="needs --no-tune"):
        sweep.prepare("adult-race", stated)
    assert sweep.prepare("adult-race", stated, seeds="0:1", tune=False).runs[0].start == "public"
