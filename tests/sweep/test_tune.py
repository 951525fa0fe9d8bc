"""Tuning: every strategy chooses its constants at every ε on public records, and is trained with them."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.read import read
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.tune import Tune
from fedtoll.server.plan import Plan, check, plan
from fedtoll.server.trainer import Final, Trainer, simulate
from fedtoll.strategies.base import sizes
from fedtoll.strategies.fedavg import FedAvg
from fedtoll.sweep.candidates import candidates, constants_at, with_constants
from fedtoll.sweep.tune import candidate_runs, rungs, tune
from fedtoll.sweep.validate import validation_losses
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


def section_of(planned: Plan) -> Tune:
    assert planned.scenario.tune is not None
    return planned.scenario.tune


def with_tune(planned: Plan, **changes) -> Plan:
    content = {**section_of(planned).model_dump(), **changes}
    return dataclasses.replace(
        planned, scenario=planned.scenario.model_copy(update={"tune": Tune(**content)})
    )


def plant(planned: Plan, folder, losses) -> None:
    """Write the losses of every candidate's runs, so that nothing is trained."""
    folder.mkdir(exist_ok=True)
    for candidate in candidates(planned, section_of(planned)):
        for run in candidate.runs:
            (folder / f"{run.hash}.json").write_text(json.dumps(losses(candidate, run)))


def chosen(planned: Plan) -> dict[tuple[str, str, float | str], dict[str, float]]:
    return {
        (row["strategy"], row["mechanism"], row["epsilon"]): row["constants"]
        for row in planned.facts["tuning"]
        if row["chosen"]
    }


def test_the_loss_is_computed_on_the_public_part_alone(planned):
    run = planned.runs[0]
    (losses,) = validation_losses(Trainer(), [run.to_json()])
    assert isinstance(losses, dict)
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
    tuned = tune(planned, tmp_path, executor="serial")
    best = chosen(tuned)
    assert list(best) == [("fedavg", "none", "inf"), ("fedavg", "dp-sgd", 1.0), ("fedavg", "dp-sgd", 0.05)]
    assert len(list(tmp_path.glob("*.json"))) == 6
    assert best["fedavg", "none", "inf"] == {"learning_rate": 2.0}  # no clip; .01 hardly moves in 20 steps
    assert [(r.epsilon, r.seed) for r in tuned.runs] == [
        (e, s) for e in (float("inf"), 1.0, 0.05) for s in (0, 1)
    ]
    for run in tuned.runs:
        key = (run.strategy.name, run.mechanism, "inf" if run.epsilon == float("inf") else run.epsilon)
        assert run.learning_rate == best[key]["learning_rate"]
    assert tuned.recipe == planned.runs
    monkeypatch.setattr("fedtoll.sweep.tune.validation_losses", lambda *a: pytest.fail("trained again"))
    again = tune(planned, tmp_path, executor="serial")
    assert (again.runs, again.facts) == (tuned.runs, tuned.facts)


def test_the_choice_is_the_least_loss(planned, tmp_path):
    """With planted losses, each ε chooses the smallest, of everybody or of the worst group."""
    for by, wanted in (("everybody", 0.01), ("worst group", 2.0)):
        changed = with_tune(planned, by=by)

        def losses(candidate, run):
            slow = run.learning_rate == 0.01
            return {"(all)": 0.3 if slow else 0.4, "White": 0.1, "Other": 0.9 if slow else 0.5}

        folder = tmp_path / by.replace(" ", "-")
        plant(changed, folder, losses)
        best = chosen(tune(changed, folder, executor="serial"))
        assert {c["learning_rate"] for c in best.values()} == {wanted}


@pytest.mark.parametrize("damaged", ["{}", "[]", "3", '{"(all)": "low"}', '{"White": 0.1}', "\xff"])
def test_a_damaged_loss_is_computed_again(planned, tmp_path, monkeypatch, damaged):
    plant(planned, tmp_path, lambda candidate, run: {"(all)": 0.5})
    broken = candidates(planned, section_of(planned))[0].runs[0]
    (tmp_path / f"{broken.hash}.json").write_text(damaged, encoding="latin-1")
    again = []

    def losses(trainer, texts):
        again.extend(texts)
        return [{"(all)": 0.4}] * len(texts)

    monkeypatch.setattr("fedtoll.sweep.tune.validation_losses", losses)
    tune(planned, tmp_path, executor="serial")
    assert again == [broken.to_json()]


@pytest.mark.parametrize("by", ["everybody", "worst group"])
def test_a_run_that_diverged_is_never_chosen(planned, tmp_path, by):
    """No number is less than NaN, so it would win if it came first."""
    changed = with_tune(planned, by=by)

    def losses(candidate, run):
        lost = float("nan") if run.learning_rate == 0.01 else 9.0
        return {"(all)": lost, "White": 0.1, "Other": lost}

    plant(changed, tmp_path, losses)
    tuned = tune(changed, tmp_path, executor="serial")
    assert {c["learning_rate"] for c in chosen(tuned).values()} == {2.0}
    lost = [
        row["loss"]["(all)"] for row in tuned.facts["tuning"] if row["constants"]["learning_rate"] == 0.01
    ]
    assert lost == [None] * 3
    json.dumps(tuned.facts, allow_nan=False)


def test_a_diverging_candidate_is_dropped_and_it_is_an_error_if_all_diverge(tmp_path):
    """For real: with a learning rate of 10^300 the weights are not finite."""
    wild = [t.replace("0.01, 2.0", "1e300, 2.0") for t in TUNE if "epsilons" not in t]
    planned = plan(read("adult-central", [*wild, 'privacy.epsilons=["inf"]'], "0:1"), "x")
    (tmp_path / "one").mkdir()
    assert list(chosen(tune(planned, tmp_path / "one", executor="serial")).values()) == [
        {"learning_rate": 2.0}
    ]
    scores = [json.loads(f.read_text())["(all)"] for f in (tmp_path / "one").glob("*.json")]
    assert sorted(map(np.isfinite, scores)) == [False, True]
    none = [t.replace("1e300, 2.0", "1e300, 1e301") for t in wild]
    lost = plan(read("adult-central", [*none, 'privacy.epsilons=["inf"]'], "0:1"), "x")
    (tmp_path / "two").mkdir()
    with pytest.raises(RunError, match="tuning fedavg at ε = inf: every candidate diverged"):
        tune(lost, tmp_path / "two", executor="serial")


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_an_error_in_user_code_is_one_line_and_not_mistaken_for_divergence(planned, monkeypatch, error):
    def broken(self, run, grid):
        raise error("in\ntwo lines")

    monkeypatch.setattr(Trainer, "_final_model", broken)
    (raised,) = validation_losses(Trainer(), [planned.runs[0].to_json()])
    assert isinstance(raised, RunError)
    assert str(raised) == f"fedavg, ε = ∞, seed 0: {error.__name__}: in two lines"


def test_a_mistake_of_a_strategy_is_not_mistaken_for_divergence(planned, monkeypatch):
    monkeypatch.setattr(FedAvg, "weigh", lambda self, reports, state: (2 * sizes(reports), state))
    (raised,) = validation_losses(Trainer(), [planned.runs[0].to_json()])
    assert isinstance(raised, RunError)
    assert "the weights of FedAvg are not on the simplex: sum 2 instead of 1" in str(raised)
    monkeypatch.setattr(FedAvg, "weigh", lambda self, reports, state: (math.nan * sizes(reports), state))
    (losses,) = validation_losses(Trainer(), [planned.runs[0].to_json()])
    assert isinstance(losses, dict)
    assert math.isnan(losses["(all)"])


def test_the_final_model_is_that_of_a_measured_run(planned):
    run = planned.runs[0].model_copy(update={"average": True, "rounds": 3})
    models = []
    simulate(run, lambda round, parameters: models.append(parameters))
    (final,) = Trainer().final_models([run])
    assert isinstance(final, Final)
    assert all(np.array_equal(a, b) for a, b in zip(final.model, models[-1], strict=True))
    assert not final.own


SEVERAL = 'strategies=[{name="fedavg"}, {name="term"}, {name="q-fedavg", q=2.0}]'
PARAMETERS = "tune={learning_rates=[0.5, 2.0], clips=[1.0, 3.0], strategies={term={t=[1.0, 5.0, 9.0]}}}"


@pytest.fixture(scope="module")
def several():
    return plan(read("adult-race", ["split.validation=0.1", SEVERAL, PARAMETERS], "0:6"), "x")


@pytest.mark.slow
def test_every_strategy_tries_the_same_number_and_keeps_its_own_constants(several, tmp_path):
    section = section_of(several)
    for epsilon, count in ((math.inf, 2), (0.5, 4)):
        tried = constants_at(several.scenario, section, epsilon)
        assert {label: len(found) for label, found in tried.items()} == dict.fromkeys(tried, count)
        assert len({*tried["term"]}) == count
    assert (
        constants_at(several.scenario, section, 0.5)["fedavg"]
        == constants_at(several.scenario, section, 0.5)["q-fedavg(q=2)"]
    )
    plant(several, tmp_path, lambda candidate, run: {"(all)": 1 / (1 + run.strategy.parameters.get("t", 0))})
    tuned = tune(several, tmp_path, executor="serial")
    assert {run.strategy.name for run in tuned.runs} == {"fedavg", "term", "q-fedavg(q=2)"}
    most = max(dict(c.strategy)["t"] for c in constants_at(several.scenario, section, 0.5)["term"])
    best = chosen(tuned)
    assert best["term", "dp-sgd", 0.5]["t"] == most
    assert {
        r.strategy.parameters["t"] for r in tuned.runs if r.strategy.name == "term" and r.epsilon == 0.5
    } == {most}


def test_fewer_candidates_are_a_sample_that_holds_the_first(several):
    section = section_of(with_tune(several, candidates=2))
    tried = constants_at(several.scenario, section, 0.5)
    assert {len(found) for found in tried.values()} == {2}
    assert tried["fedavg"][0].to_dict() == {"learning_rate": 0.5, "clip": 1.0}
    assert tried == constants_at(several.scenario, section, 0.5)


def test_halving_trains_the_better_half_again_and_finds_the_best(planned, tmp_path, monkeypatch):
    rates = (0.125, 0.25, 0.5, 1.0, 2.0)
    changed = with_tune(planned, learning_rates=rates, clips=(), seeds=(1000, 1001, 1002), method="halving")
    assert rungs(section_of(changed)) == [1, 2, 3]
    trained = []

    def loss(text):
        run = Run.from_json(text)
        trained.append((run.epsilon, run.learning_rate, run.seed))
        return {"(all)": abs(run.learning_rate - 0.5) + 0.01 * (run.seed - 1000)}

    monkeypatch.setattr("fedtoll.sweep.tune.validation_losses", lambda _, texts: [loss(x) for x in texts])
    tuned = tune(changed, tmp_path, executor="serial")
    assert {c["learning_rate"] for c in chosen(tuned).values()} == {0.5}
    by_seed = {seed: [r for e, r, s in trained if s == seed and e == 1.0] for seed in (1000, 1001, 1002)}
    assert [len(by_seed[seed]) for seed in (1000, 1001, 1002)] == [5, 3, 2]
    assert sum(seeds for _, seeds in candidate_runs(changed, section_of(changed))) == len(trained)


def test_the_next_best_takes_the_place_of_one_that_diverges_with_more_seeds(planned, tmp_path, monkeypatch):
    """2.0 leads until the last seed, under which it diverges; 1.0 came as far, and 0.5 is not needed."""
    rates = (0.125, 0.25, 0.5, 1.0, 2.0)
    changed = with_tune(planned, learning_rates=rates, clips=(), seeds=(1000, 1001, 1002), method="halving")
    trained = []

    def loss(text):
        run = Run.from_json(text)
        trained.append((run.epsilon, run.learning_rate, run.seed))
        lost = run.learning_rate == 2.0 and run.seed == 1002
        return {"(all)": float("nan") if lost else 3.0 - run.learning_rate}

    monkeypatch.setattr("fedtoll.sweep.tune.validation_losses", lambda _, texts: [loss(x) for x in texts])
    tuned = tune(changed, tmp_path, executor="serial")
    assert {c["learning_rate"] for c in chosen(tuned).values()} == {1.0}
    assert {rate for epsilon, rate, seed in trained if epsilon == 1.0 and seed == 1002} == {1.0, 2.0}


def test_all_constants_reach_the_run(several):
    constants = {
        "sampling_rates": (0.05,),
        "local_steps": (3, 4),
        "rounds": (7,),
        "averages": (True,),
        "server_schedules": ("cosine",),
    }
    section = Tune(**constants)
    (first, *_) = constants_at(several.scenario, section, 0.5)["fedavg"]
    (run,) = with_constants(several, "fedavg", 0.5, first, [9])
    assert (run.rounds, run.average, run.server_schedule, run.seed) == (7, True, "cosine", 9)
    assert {(c.sampling_rate, c.steps) for c in run.clients} == {(0.05, 3)}
    batches = Tune(batch_sizes=(32, 64))
    (run,) = with_constants(
        several, "fedavg", 0.5, constants_at(several.scenario, batches, 0.5)["fedavg"][1], [9]
    )
    assert [c.batch_size for c in run.clients] == pytest.approx([64] * len(run.clients))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["tune={clips=[1.0, 2.0]}", "split.validation=0.0"], "tune: needs split.validation"),
        (["tune={clips=[1.0]}", "split.validation=0.1"], "nothing to choose from"),
        (["tune={clips=[1.0, 1.0]}", "split.validation=0.1"], "clips: the same value twice"),
        (["tune={clips=[1.0, 2.0], seeds=[0]}", "split.validation=0.1"], "tune.seeds: 0 is also in seeds"),
        (
            ["tune={clips=[1.0, 2.0], seeds=[9], method='halving'}", "split.validation=0.1"],
            "method: 'halving' needs two seeds or more",
        ),
        (
            ["tune={sampling_rates=[0.1, 0.2], batch_sizes=[3]}", "split.validation=0.1"],
            "sampling_rates, batch_sizes: give at most one of them",
        ),
        (
            ["tune={strategies={ferm={t=[1.0, 2.0]}}}", "split.validation=0.1"],
            "tune.strategies: 'ferm': not a strategy of this scenario; did you mean 'term",
        ),
        (
            ["tune={strategies={term={t=[1.0, 2.0]}}}", "split.validation=0.1"],
            "tune.strategies.term.t: term(clip=1, t=5) states it too",
        ),
        (["tune={server_schedules=['constant', 'linear']}", "split.validation=0.1"], "inverse-time(5)"),
        (
            ["tune={strategies={fedavg={name=['fedavg', 'uniform']}}}", "split.validation=0.1"],
            "tune.strategies.fedavg.name: not a parameter of a strategy",
        ),
        (["tune={clips=[1.0, 2.0], seeds=[]}", "split.validation=0.1"], "seeds = []: must have at least one"),
        (
            ["tune={clips=[1.0, 2.0], candidates=3}", "split.validation=0.1"],
            "tune.candidates = 3: fedavg has 2 combinations",
        ),
        (["tune={clips=[1.0, 2.0], seeds='9'}", "split.validation=0.1"], "tune.seeds = '9': must be a list"),
        (["tune={learning_rate=[1.0, 2.0]}", "split.validation=0.1"], "did you mean 'learning_rates'"),
    ],
)
def test_a_mistake_in_tune_is_one_line(overrides, line):
    with pytest.raises(ScenarioError) as error:
        read("adult-race", overrides)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lists", "line"),
    [({"t": ("much", 2.0)}, "t = 'much'"), ({"tt": (1.0, 2.0)}, "unknown parameter 'tt'; did you mean 't'")],
)
def test_a_wrong_value_of_a_strategys_parameter_is_found_by_check(several, lists, line):
    changed = with_tune(several, strategies={"term": lists})
    with pytest.raises(ScenarioError, match="x: ") as error:
        check(changed.scenario, "x")
    assert line in str(error.value)
    assert str(error.value).startswith("x: tune.strategies: ")


@pytest.mark.parametrize(
    ("stated", "method", "seeds"),
    [
        ({}, "halving", 8),
        ({"method": "grid"}, "grid", 2),
        ({"charge": "random-stopping"}, "grid", 2),
        ({"seeds": [7]}, "grid", 1),
        ({"seeds": "7:8"}, "grid", 1),
        ({"seeds": [7, 8, 9]}, "halving", 3),
    ],
)
def test_the_defaults_of_a_choice(stated, method, seeds):
    section = Tune(**{"learning_rates": [0.5, 1.0], **stated})
    assert (section.method, len(section.seeds)) == (method, seeds)
