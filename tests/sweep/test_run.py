"""A whole scenario: tuned next to its recipe, or not tuned and probed, from the file to the page."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import fedtoll
from fedtoll.formatting import number
from fedtoll.report.charts.sensitivity import loss
from fedtoll.report.constants import OFF, sentences
from fedtoll.report.digest import Digest
from fedtoll.report.headline import headline
from fedtoll.report.page import render
from fedtoll.report.sensitivity import candidates
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.server.store import Store
from fedtoll.sweep.probe import with_probe
from fedtoll.sweep.run import complete, prepare
from tests.report.html import Page

SMALL = [
    "training.rounds=3",
    "training.local_steps=4",
    'privacy.epsilons=["inf", 0.5]',
    'strategies=[{name="fedavg"}, {name="uniform"}]',
]
RATES = 'tune={learning_rates=[0.03125, 0.125, 0.5], method="grid"}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tuned")


@pytest.fixture(scope="module")
def tuned(folder):
    return fedtoll.run("compas-race", out=folder, overrides=[*SMALL, RATES], seeds="0:3", executor="serial")


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A recipe with a learning rate far too large for ε = .5."""
    overrides = [*SMALL, "training.learning_rate=4.0"]
    return fedtoll.run(
        "compas-race",
        out=tmp_path_factory.mktemp("probed"),
        overrides=overrides,
        seeds="0:10",
        executor="serial",
        tune=False,
    )


@pytest.mark.slow
def test_the_results_hold_the_chosen_constants_and_the_recipe_apart(tuned, folder):
    rows = tuned.resolved["tuning"]
    assert len(rows) == 2 * 2 * 3
    best = {(r["strategy"], str(r["epsilon"])): r["constants"]["learning_rate"] for r in rows if r["chosen"]}
    assert len(best) == 4
    for part, constant in ((tuned, None), (tuned.recipe, 0.125)):
        assert part.groups["seed"].nunique() == 3
        for run in part.resolved["runs"]:
            stored = json.loads((folder / "runs" / run["hash"] / "run.json").read_text())
            wanted = best[run["strategy"], str(run["epsilon"])] if constant is None else constant
            assert stored["learning_rate"] == wanted
    assert tuned.recipe.recipe is None
    assert tuned.probe == {}


@pytest.mark.slow
def test_the_choice_is_the_candidate_with_the_least_public_loss(tuned, folder):
    for (_, _), cell in candidates(Digest(tuned)).groupby(["strategy", "epsilon"]):
        assert cell.loc[cell["chosen"], "log_loss"].item() == cell["log_loss"].min()
    files = list((folder / "tuning").glob("????????????????.json"))
    assert len(files) == 2 * 2 * 3 * 2


@pytest.mark.slow
def test_the_headline_states_price_and_recipe_and_why_they_differ(tuned):
    digest = Digest(tuned)
    words = " ".join(sentences(digest))
    everybody = digest.loss[(digest.loss["group"] == EVERYBODY) & (digest.loss["mechanism"] == "dp-sgd")]
    price = everybody.set_index("strategy")["toll"]["fedavg"]
    assert digest.recipe is not None
    recipe = digest.recipe.loss[
        (digest.recipe.loss["group"] == EVERYBODY) & (digest.recipe.loss["mechanism"] == "dp-sgd")
    ]
    toll = recipe.set_index("strategy")["toll"]["fedavg"]
    assert f"(learning rate 0.125 at every ε) would show a toll of {number(toll)} for everybody" in words
    assert f"at best constants it is a price of {number(price)}" in words
    assert "fedavg does best with learning rate " in words
    assert "with constants chosen for each ε" in headline(digest)
    assert "price gap" in headline(digest)


def changed(results, **resolved):
    """Return tuned results that say something else about the choice."""
    return replace(results, resolved={**results.resolved, **resolved})


@pytest.mark.slow
def test_it_says_why_recipe_and_price_differ_only_where_that_is_known(tuned):
    """The recipe's own batch size is known under another key, and a strategy's default not at all."""
    scenario, rows = tuned.resolved["scenario"], tuned.resolved["tuning"]
    for constants, training, words in (
        ({"learning_rate": 0.125}, {}, "The recipe is the best one tried: fedavg"),
        ({"learning_rate": 0.5}, {}, "They differ because fedavg does best with learning rate 0.5"),
        ({"server_schedule": "cosine"}, {}, "They differ because fedavg"),
        ({"server_schedule": "constant"}, {}, "The recipe is the best one tried"),
        ({"sampling_rate": 0.2}, {"sampling_rate": None, "batch_size": 9}, "Of what was tried, fedavg"),
        ({"learning_rate": 0.125, "mu": 0.1}, {}, "Of what was tried, fedavg"),
    ):
        new = changed(
            tuned,
            tuning=[{**row, "constants": constants} for row in rows],
            scenario={**scenario, "training": {**scenario["training"], **training}},
        )
        text = " ".join(sentences(Digest(new)))
        assert words in text
        assert ("(batch size 9 at every ε)" in text) == ("batch_size" in training)


@pytest.mark.slow
def test_the_chart_shows_every_choice_however_large_its_loss(tuned):
    """With ten classes losses are above one nat; only those far above the chosen ones are left out."""
    larger = [{**row, "loss": {k: 4 * v for k, v in row["loss"].items()}} for row in tuned.resolved["tuning"]]
    worst = next(i for i, row in enumerate(larger) if not row["chosen"])
    larger[worst]["loss"]["(all)"] = 99.0
    spec = loss(Digest(changed(tuned, tuning=larger)))
    assert spec is not None
    (data,) = spec["datasets"].values()
    assert len(data) == len(larger) - 1
    assert sum(row["chosen"] for row in data) == sum(row["chosen"] for row in larger)


@pytest.mark.slow
def test_an_end_of_a_list_beyond_which_there_is_nothing_is_no_edge(tuned):
    scenario = {**tuned.resolved["scenario"], "tune": {"sampling_rates": [0.5, 1.0], "rounds": [1, 3]}}
    for constants, edge in (({"sampling_rate": 1.0, "rounds": 1}, False), ({"rounds": 3}, True)):
        rows = [{**row, "constants": constants} for row in tuned.resolved["tuning"]]
        text = " ".join(sentences(Digest(changed(tuned, tuning=rows, scenario=scenario))))
        assert ("Widen the grid" in text) == edge


@pytest.mark.slow
def test_the_page_shows_the_constants_and_both_figures(tuned):
    page = render(tuned)
    assert "What [tune] tried, on the public records" in page
    assert "Toll of the recipe and price at best constants" in page
    assert "The price, group by group" in page
    assert "Every strategy chose among 3 candidates at every ε" in page
    assert {"sensitivity-spec", "sensitivity-gap-spec"} <= Page(page).specs.keys()
    assert {"candidates", "recipe"} <= Page(page).csv.keys()


@pytest.mark.slow
def test_a_choice_on_the_edge_asks_for_a_wider_grid(tuned):
    digest = Digest(tuned)
    frame = candidates(digest)
    own = frame[frame["chosen"] & (frame["strategy"] == "fedavg")].set_index("epsilon")[
        "constant.learning_rate"
    ]
    on_edge = {epsilon for epsilon, rate in own.items() if rate in (0.03125, 0.5)}
    words = " ".join(sentences(digest))
    assert ("at ε = ∞ lies on its edge" in words) == (on_edge == {math.inf})
    assert ("lie on its edge" in words) == (on_edge >= {math.inf, 0.5})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by", "words"),
    [
        ({"fedavg": 0.25, "uniform": 0.25}, ""),
        ({"fedavg": 0.5, "uniform": 0.25}, "rate 0.5 at ε = 0.5 lie on its edge."),
        ({"fedavg": 0.5, "uniform": 0.5}, "lie on its edge, and so does a choice of uniform."),
        ({"fedavg": 0.25, "uniform": 0.5}, "Widen the grid: a choice of uniform lies on its edge."),
    ],
)
def test_the_edges_of_every_strategy_are_named(tuned, by, words):
    scenario = {**tuned.resolved["scenario"], "tune": {"learning_rates": [0.125, 0.25, 0.5]}}
    rows = [{**row, "constants": {"learning_rate": by[row["strategy"]]}} for row in tuned.resolved["tuning"]]
    text = " ".join(sentences(Digest(changed(tuned, tuning=rows, scenario=scenario))))
    assert ("Widen the grid" in text) == bool(words)
    assert words in text


@pytest.mark.slow
def test_the_same_command_trains_nothing_again_and_another_recipe_keeps_the_price(tuned, folder, monkeypatch):
    from fedtoll.server.trainer import Trainer

    monkeypatch.setattr(Trainer, "final_models", lambda *a: pytest.fail("trained a candidate again"))
    overrides = [*SMALL, RATES, "training.learning_rate=1.0"]
    again = fedtoll.run("compas-race", out=folder, overrides=overrides, seeds="0:3", executor="serial")
    pd.testing.assert_frame_equal(again.groups, tuned.groups)
    assert again.recipe is not None
    assert not again.recipe.groups["log_loss"].equals(tuned.recipe.groups["log_loss"])


@pytest.mark.slow
def test_workers_and_executor_do_not_change_the_choice(tuned, tmp_path):
    again = fedtoll.run(
        "compas-race", out=tmp_path, overrides=[*SMALL, RATES], seeds="0:3", executor="processes", workers=2
    )
    assert again.resolved["tuning"] == tuned.resolved["tuning"]
    pd.testing.assert_frame_equal(again.groups, tuned.groups)


@pytest.mark.slow
def test_a_recipe_that_was_not_tuned_says_so_and_the_probe_how_far_off_it_is(probed):
    assert probed.recipe is None
    assert set(probed.probe) == {1.0, 16.0}
    words = " ".join(sentences(Digest(probed)))
    assert words.startswith("This recipe was not tuned")
    assert "in place of the learning rate 4, 1 lowers everybody’s log-loss at ε = 0.5 from " in words
    assert "Add [tune] for the price at best constants." in words
    assert "This recipe was not tuned" in render(probed)


@pytest.mark.slow
def test_the_probe_is_silent_where_other_rates_are_no_better(probed):
    """The probe's rates are made as bad as the recipe's, so that nothing is gained."""
    digest = Digest(probed)
    worse = {}
    for rate, results in probed.probe.items():
        groups = results.groups.assign(log_loss=results.groups["log_loss"] + 10)
        worse[rate] = Digest(type(results)(**{**vars(results), "groups": groups}))
    digest.__dict__["probe"] = worse
    words = " ".join(sentences(digest))
    assert "learning rates of 1 and 16 are no better (2 seeds)" in words
    assert "Add [tune]" not in words


def test_a_small_sweep_gets_no_probe():
    planned = prepare("compas-race", SMALL, "0:9", tune=False)
    assert len(planned.runs) == 36
    assert with_probe(planned).probe == ()
    larger = with_probe(prepare("compas-race", SMALL, "0:10", tune=False))
    assert {run.learning_rate for run in larger.probe} == {0.03125, 0.5}
    assert {(r.strategy.name, r.seed) for r in larger.probe} == {("fedavg", 0), ("fedavg", 1)}
    no_budget = prepare("compas-race", [*SMALL, 'privacy.epsilons=["inf"]'], "0:30", tune=False)
    assert with_probe(no_budget).probe == ()


@pytest.mark.slow
def test_the_reference_is_compared_with_a_converged_model(tuned):
    from sklearn.linear_model import LogisticRegression

    planned = prepare("compas-race", SMALL, "0:3", tune=False)
    records = planned.federation.records(0)
    rows = np.concatenate(records.held)
    model = LogisticRegression(C=1e4, max_iter=10_000, tol=1e-9).fit(
        records.table.features[rows].astype(float), records.table.label[rows]
    )
    p = model.predict_proba(records.table.features[records.test].astype(float))[:, 1]
    label = records.table.label[records.test]
    expected = -np.log(np.where(label == 1, p, 1 - p)).mean()
    converged = tuned.resolved["converged"]
    assert converged["seeds"] == [0, 1]
    assert converged["log_loss"][0] == pytest.approx(expected, abs=2e-4)
    digest = Digest(tuned)
    free = tuned.groups.query("mechanism == 'none' and strategy == 'fedavg' and group == '(all)'")
    last = free[free["round"] == 3].set_index("seed")["log_loss"]
    beyond = np.mean([last[seed] - converged["log_loss"][seed] for seed in (0, 1)])
    assert ("training has not converged, or converges elsewhere" in " ".join(sentences(digest))) == (
        beyond > OFF
    )


@pytest.mark.slow
def test_candidates_of_other_versions_are_refused_before_anything_is_trained(tuned, folder, monkeypatch):
    from fedtoll.sweep import cache

    planned = prepare("compas-race", [*SMALL, RATES], "0:3")
    monkeypatch.setattr(cache, "_installed", lambda folder: {"torch": "99.0"})
    with pytest.raises(ScenarioError, match=r"tuning: trained with torch .*, but 99\.0 is installed"):
        complete(planned, Store(folder), executor="serial")


def test_tuning_under_flower_run_is_refused():
    with pytest.raises(ScenarioError, match=r"\[tune\]: needs --grid local or --no-tune"):
        prepare("compas-race", (), "0:2", grid="flower")
    assert prepare("compas-race", (), "0:2", grid="flower", tune=False).recipe == ()
