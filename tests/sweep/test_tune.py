"""Tuning: every ε chooses its constants on the public part, and its runs are trained with them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedtoll.sweep.tune import _plan_with, candidates, tune, validation_losses
from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.read import read
from fedtoll.server.plan import Plan, plan
from fedtoll.server.trainer import Trainer, simulate
from tests.shared import records

TUNE = [
    "split.validation=0.1",
    "training.rounds=2",
    'privacy.epsilons=["inf", 1, 0.05]',
    "tune={learning_rates=[0.01, 2.0], clips=[3.0], seeds=[1000]}",
]


@pytest.fixture(scope="module")
def planned():
    return plan(read("adult-central", TUNE, "0:2"), "x")


def test_the_loss_is_computed_on_the_public_part_alone(planned):
    run = planned.runs[0]
    losses = validation_losses(Trainer(), run.to_json())
    models = []
    simulate(run, lambda round, parameters: models.append(parameters))
    data = records(run)
    assert len(data.validation) == pytest.approx(0.1 * 48_842, rel=0.01)
    assert not set(data.validation) & ({*data.test} | {*np.concatenate(data.held)})
    weight, bias = models[-1]
    logit = data.table.features[data.validation].astype(float) @ weight[0].astype(float) + float(bias[0])
    label = data.table.label[data.validation]
    nats = np.logaddexp(0, np.where(label == 1, -logit, logit))
    assert losses["(all)"] == pytest.approx(nats.mean(), rel=1e-5)
    codes = data.groups.codes[data.validation]
    for code, group in enumerate(data.groups.names):
        assert losses[group] == pytest.approx(nats[codes == code].mean(), rel=1e-5)


def test_every_epsilon_uses_its_choice_and_tuning_resumes(planned, tmp_path, monkeypatch):
    tuned, chosen = tune("x", planned, tmp_path, workers=1)
    assert list(chosen) == ["inf", "1.0", "0.05"]
    assert len(list(tmp_path.glob("*.json"))) == 6
    assert planned.scenario.tune is not None
    assert all(c in candidates(planned.scenario.tune, float(e)) for e, c in chosen.items())
    assert chosen["inf"] == ("training.learning_rate=2.0",)  # at ∞ there is no clip to choose
    assert chosen["inf"][0] == "training.learning_rate=2.0"  # .01 hardly moves in 20 steps
    assert {(r.epsilon, r.seed) for r in tuned.runs} == {
        (e, s) for e in (float("inf"), 1.0, 0.05) for s in (0, 1)
    }
    for run in tuned.runs:
        word = "inf" if run.epsilon == float("inf") else str(run.epsilon)
        assert f"training.learning_rate={run.learning_rate}" == chosen[word][0]
    monkeypatch.setattr("fedtoll.sweep.tune.validation_losses", lambda *a: pytest.fail("trained again"))
    again, same = tune("x", planned, tmp_path, workers=1)
    assert (again.runs, same) == (tuned.runs, chosen)


def test_the_choice_is_the_least_loss(planned, tmp_path):
    """With planted losses, each ε chooses the smallest, of everybody or of the worst group."""
    for by, wanted in (("everybody", "0.01"), ("worst group", "2.0")):
        scenario = planned.scenario.model_copy(
            update={"tune": planned.scenario.tune.model_copy(update={"by": by})}
        )
        folder = tmp_path / by.replace(" ", "-")
        folder.mkdir()
        for epsilon in scenario.privacy.epsilons:
            for overrides in candidates(scenario.tune, epsilon):
                for run in _plan_with(planned, epsilon, overrides, scenario.tune.seeds).runs:
                    slow = run.learning_rate == 0.01
                    losses = {"(all)": 0.3 if slow else 0.4, "White": 0.1, "Other": 0.9 if slow else 0.5}
                    (folder / f"{run.hash}.json").write_text(json.dumps(losses))
        _, chosen = tune("x", Plan(scenario, planned.runs, planned.federation), folder, workers=1)
        assert {c[0] for c in chosen.values()} == {f"training.learning_rate={wanted}"}


def test_a_run_that_diverged_is_never_chosen(planned, tmp_path):
    """No number is less than NaN, so it would win if it came first."""
    assert planned.scenario.tune is not None
    for by in ("everybody", "worst group"):
        scenario = planned.scenario.model_copy(
            update={"tune": planned.scenario.tune.model_copy(update={"by": by})}
        )
        folder = tmp_path / by.replace(" ", "-")
        folder.mkdir()
        for epsilon in scenario.privacy.epsilons:
            for overrides in candidates(scenario.tune, epsilon):
                for run in _plan_with(planned, epsilon, overrides, scenario.tune.seeds).runs:
                    lost = float("nan") if run.learning_rate == 0.01 else 9.0
                    losses = {"(all)": lost, "White": 0.1, "Other": lost}
                    (folder / f"{run.hash}.json").write_text(json.dumps(losses))
        _, chosen = tune("x", Plan(scenario, planned.runs, planned.federation), folder, workers=1)
        assert {c[0] for c in chosen.values()} == {"training.learning_rate=2.0"}


def test_a_diverging_candidate_is_dropped_and_it_is_an_error_if_all_diverge(tmp_path):
    """For real: with a learning rate of 10^300 the weights are not finite."""
    wild = [t.replace("0.01, 2.0", "1e300, 2.0") for t in TUNE if "epsilons" not in t]
    planned = plan(read("adult-central", [*wild, 'privacy.epsilons=["inf"]'], "0:1"), "x")
    (tmp_path / "one").mkdir()
    _, chosen = tune("x", planned, tmp_path / "one", workers=1)
    assert chosen == {"inf": ("training.learning_rate=2.0",)}
    scores = [json.loads(f.read_text())["(all)"] for f in (tmp_path / "one").glob("*.json")]
    assert sorted(map(np.isfinite, scores)) == [False, True]
    none = [t.replace("1e300, 2.0", "1e300, 1e301") for t in wild]
    lost = plan(read("adult-central", [*none, 'privacy.epsilons=["inf"]'], "0:1"), "x")
    (tmp_path / "two").mkdir()
    with pytest.raises(RunError, match="x: tuning at ε = inf: every candidate diverged or failed"):
        tune("x", lost, tmp_path / "two", workers=1)


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_an_error_in_user_code_is_one_line_and_not_mistaken_for_divergence(planned, monkeypatch, error):
    def broken(self, run, seen):
        raise error("in\ntwo lines")

    monkeypatch.setattr(Trainer, "train", broken)
    with pytest.raises(RunError, match=rf"^fedavg, ε = ∞, seed 0: {error.__name__}: in two lines$"):
        validation_losses(Trainer(), planned.runs[0].to_json())
