"""Central baselines of a finding: the records, the reference at ε = ∞, the cache, and what is refused."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss

from fedtoll.findings import baselines, prepare
from fedtoll.findings.baselines import check_supported, public_norm, run_baselines
from fedtoll.findings.models import file_of
from fedtoll.scenarios.baseline import OBJECTIVE_PERTURBATION, Baseline
from fedtoll.scenarios.claims import Setting
from fedtoll.scenarios.data.adult import ADULT
from fedtoll.scenarios.data.source import Categorical, Numeric
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import findings, read
from fedtoll.server.plan import plan

NAME = "poor-become-poorer"
FEW = ["training.rounds=1", 'privacy.epsilons=["inf", 1]']
BASELINE = Baseline(kind="objective-perturbation", regularisation=2.0)


def planned(*overrides, seeds="0:1", name=NAME):
    return plan(read(name, [*FEW, *overrides], seeds), "x")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baselines")
    setting = planned(seeds="0:2")
    return setting, folder, run_baselines(setting, BASELINE, folder, executor="serial")


@pytest.mark.slow
def test_every_epsilon_and_seed_has_a_row_for_every_group(trained):
    _, _, table = trained
    assert set(table["strategy"]) == {OBJECTIVE_PERTURBATION}
    assert len(table) == 2 * 2 * 6  # ε, seed, five races and everybody
    by = table.set_index(["mechanism", "seed", "group"])["accuracy"]
    everybody = by.xs("(all)", level="group")
    for seed in (0, 1):
        assert 0.6 < everybody["dp-sgd", seed] < everybody["none", seed] < 0.87


@pytest.mark.slow
def test_without_privacy_it_is_scikit_learns_model(trained):
    setting, _, table = trained
    records = setting.federation.records(0)
    X = np.column_stack([records.table.features, np.ones(len(records.table))]).astype(float)
    y = records.table.label
    (rows,) = records.held
    model = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-7, max_iter=5000).fit(X[rows], y[rows])
    found = table[(table["mechanism"] == "none") & (table["seed"] == 0)].set_index("group")
    for code, group in enumerate(records.groups.names):
        test = records.test[records.groups.codes[records.test] == code]
        scores = model.predict_proba(X[test])
        assert found.loc[group, "n"] == len(test)
        assert found.loc[group, "accuracy"] == pytest.approx(
            accuracy_score(y[test], scores.argmax(1)), abs=2e-3
        )
        assert found.loc[group, "log_loss"] == pytest.approx(
            log_loss(y[test], scores, labels=[0, 1]), abs=1e-4
        )


@pytest.mark.slow
def test_processes_give_the_same_bytes(trained, tmp_path):
    setting, _, table = trained
    assert run_baselines(setting, BASELINE, tmp_path, executor="processes", workers=2).equals(table)


@pytest.mark.slow
def test_models_depend_on_seed_and_noise_alone(trained, monkeypatch):
    setting, folder, table = trained
    other = planned("privacy.noise_seed=5")
    free, private = (baselines.train(run, setting.federation, BASELINE) for run in setting.runs[:2])
    free_too, private_too = (baselines.train(run, setting.federation, BASELINE) for run in other.runs)
    assert np.array_equal(free, free_too)
    assert not np.allclose(private, private_too)
    assert np.array_equal(private, baselines.train(setting.runs[1], setting.federation, BASELINE))
    monkeypatch.setattr(baselines, "run_baseline", lambda *a: pytest.fail("trained again"))
    assert run_baselines(setting, BASELINE, folder, executor="serial").equals(table)


@pytest.mark.slow
def test_another_regularisation_is_another_model(trained):
    setting, folder, _ = trained
    run = setting.runs[0]
    weights = [
        np.linalg.norm(
            baselines.train(run, setting.federation, Baseline(kind=BASELINE.kind, regularisation=r))
        )
        for r in (1.0, 100.0)
    ]
    assert weights[1] < 0.5 * weights[0]
    stronger = BASELINE.model_copy(update={"regularisation": 100.0})
    assert not file_of(folder, run, stronger).exists()
    assert file_of(folder, run, BASELINE).exists()


def test_the_norm_is_public_and_no_record_exceeds_it():
    """Seven categories of 1, five numbers between −1 and 1, and the constant."""
    assert public_norm(ADULT) == pytest.approx(13**0.5)
    assert public_norm(ADULT, ("race", "sex")) == pytest.approx(11**0.5)
    table = planned().federation.table
    lengths = np.linalg.norm(baselines.with_constant(table.features), axis=1)
    assert 0.8 * public_norm(ADULT) < lengths.max() <= public_norm(ADULT) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("column", "square"),
    [
        (Numeric.bounded("x", 0, 99, "log1p"), 1.0),
        (Numeric("x", centre=1, scale=2, low=-9, high=3), 25.0),
        (Numeric("x", centre=1, scale=2), np.inf),
        (Categorical("x", ("a", "b")), 1.0),
    ],
)
def test_each_column_adds_its_largest_square(column, square):
    class Facts:
        columns = (column,)

    assert public_norm(Facts) ** 2 == pytest.approx(1 + square)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        (NAME, ["partition.clients=2"], "needs one client and a binary label"),
        ("rare-class", ['partition={kind="iid", clients=1}'], "needs one client and a binary label"),
        (NAME, ['privacy.epsilons=["inf", "clip-only", 1]'], "must not have 'clip-only'"),
    ],
)
def test_unsupported_settings_are_rejected(name, overrides, expected):
    with pytest.raises(ScenarioError, match=expected) as caught:
        check_supported(planned(*overrides, name=name))
    assert "\n" not in str(caught.value)


def test_numbers_without_bounds_are_rejected(monkeypatch):
    monkeypatch.setattr(baselines, "public_norm", lambda *a: np.inf)
    with pytest.raises(ScenarioError, match="needs bounds for every number of data 'adult'"):
        check_supported(planned())


def own(tmp_path, change):
    table = tomllib.loads(findings()[NAME].read_text(encoding="utf-8"))
    change(table)
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(table))
    return str(file)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"set": ["partition.clients=2"]}, "mine.json: setting 'mechanism': baseline: needs one client"),
        ({"tuned": True}, "baseline: a setting cannot be tuned and have a baseline"),
        ({"baseline": {"kind": "objective-perturbatio"}}, "did you mean 'objective-perturbation'"),
        ({"baseline": {"kind": OBJECTIVE_PERTURBATION, "regularisation": 0}}, "baseline.regularisation = 0"),
    ],
)
def test_mistakes_are_one_line(tmp_path, changes, expected):
    def change(table):
        next(s for s in table["setting"] if s["name"] == "mechanism").update(changes)

    with pytest.raises(ScenarioError) as caught:
        prepare(own(tmp_path, change), quick=True)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_claim_may_name_the_baseline_only_where_it_is_trained(tmp_path):
    def change(table):
        next(c for c in table["claim"] if c["name"] == "mechanism-everybody-pays")["settings"] = ["base"]

    with pytest.raises(ScenarioError, match="strategy = 'objective-perturbation': not in setting 'base'"):
        prepare(own(tmp_path, change))


def test_a_setting_without_a_baseline_is_written_as_before():
    assert "baseline" not in Setting(name="x", title="x").model_dump(mode="json")
    with_it = Setting(name="x", title="x", baseline=BASELINE)
    assert Setting.model_validate_json(with_it.model_dump_json()) == with_it
    with pytest.raises(ValidationError):
        Baseline.model_validate({"kind": "output-perturbation"})


@pytest.mark.slow
def test_the_finding_runs_and_resumes(tmp_path, here, monkeypatch):
    def change(table):
        kept = ("mechanism-everybody-pays", "mechanism-small-groups-lose-much")
        table["claim"] = [c for c in table["claim"] if c["name"] in kept]

    file = own(tmp_path, change)
    code, out, err = here("findings", file, "--quick", "--json")
    assert (code, err) == (0, "")
    (found,) = json.loads(out)["findings"]
    assert [o["setting"] for o in found["outcomes"]] == ["mechanism", "mechanism"]
    assert all(0.0 < o["mean"] < 0.4 for o in found["outcomes"])
    folder = tmp_path / "results/findings-quick" / NAME / "mechanism/baselines"
    assert len(list(folder.glob("*.parquet"))) == 4
    stamp = json.loads((folder / "versions.json").read_text())
    assert set(stamp["versions"]) == {"numpy", "scipy", "scikit-learn"}
    monkeypatch.setattr(baselines, "run_baseline", lambda *a: pytest.fail("trained again"))
    assert here("findings", file, "--quick", "--json")[1] == out
    page = (tmp_path / "results/findings-quick/findings.html").read_text(encoding="utf-8")
    assert "also trains its baseline" in page
