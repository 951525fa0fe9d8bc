"""fairlearn's grid search over our classifier: which models are picked, their measures and the cache."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

from fedtoll.findings import prepare
from fedtoll.findings.reductions import check_supported, disparities, run_grid, run_grids
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.read import findings, read
from fedtoll.scenarios.reduction import ACCURATE, FAIR, Reduction
from fedtoll.server.plan import plan
from fedtoll.server.trainer import Trainer

FEW = ["training.rounds=1", 'privacy.epsilons=["inf", 1]']


def test_disparities_are_fairlearns():
    rng = np.random.default_rng(0)
    label, codes = rng.integers(0, 2, 500), rng.integers(0, 3, 500)
    predicted = (rng.random(500) < 0.2 + 0.2 * codes).astype(np.int64)
    ours = disparities(predicted, label, codes)
    parity = demographic_parity_difference(label, predicted, sensitive_features=codes)
    odds = equalized_odds_difference(label, predicted, sensitive_features=codes)
    assert ours == {"demographic parity": pytest.approx(parity), "equalized odds": pytest.approx(odds)}
    none = disparities(predicted, np.where(codes == 0, 0, label), codes)
    assert np.isnan(none["equalized odds"])  # undefined without positives, and not 0


@pytest.mark.slow
def test_the_two_picked_models_are_measured_like_any_other_and_kept(tmp_path, monkeypatch):
    planned = plan(read("private-reductions", FEW, "0:1"), "x")
    reduction = Reduction(constraint="demographic parity", points=9)
    table = run_grids(planned, reduction, tmp_path, workers=1)
    assert set(table["strategy"]) == {ACCURATE, FAIR}
    assert set(table["mechanism"]) == {"none", "dp-sgd"}
    assert len(table) == 2 * 2 * 3  # ε, model, and two sexes with everybody
    for _, rows in table.groupby("mechanism"):
        by = rows.set_index(["strategy", "group"])
        gap = {
            s: abs(np.diff(by.loc[s]["selection_rate"].loc[["Male", "Female"]])[0]) for s in (ACCURATE, FAIR)
        }
        assert gap[FAIR] < gap[ACCURATE] / 2
        accuracy = by["accuracy"].xs("(all)", level="group")
        assert accuracy[ACCURATE] > accuracy[FAIR]
        assert set(by["n"].xs("(all)", level="group")) == {9769}
    monkeypatch.setattr("fedtoll.findings.reductions.run_grid", lambda *a: pytest.fail("trained again"))
    again = run_grids(planned, reduction, tmp_path, workers=1)
    assert again.equals(table)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (['partition={kind="iid", clients=2}'], "needs one client"),
        (
            ["training={rounds=1, batch_size=100, local_steps=3, learning_rate=1.0, clip=1.0}"],
            "local_epochs = 1",
        ),
    ],
)
def test_unsupported_settings_are_rejected(overrides, expected):
    with pytest.raises(ScenarioError, match=expected):
        check_supported(plan(read("private-reductions", [*FEW, *overrides], "0:1"), "x"))


@pytest.mark.slow
def test_a_claim_may_name_a_picked_model_only_where_there_is_a_grid(tmp_path):
    table = tomllib.loads(findings()["private-reductions"].read_text(encoding="utf-8"))
    table["claim"][0]["settings"] = ["parity", "base"]
    file = tmp_path / "x.json"
    file.write_text(json.dumps(table))
    with pytest.raises(ScenarioError, match="strategy = 'grid: most accurate': not in setting 'base'"):
        prepare(str(file))


def test_the_grid_takes_the_runs_own_noise(monkeypatch):
    """A noise seed of 0 is a valid seed, and must not be replaced by the seed of the records."""
    from fedtoll import sklearn

    class AskedError(Exception):
        pass

    def no(*a, random_state, **k):
        raise AskedError(random_state)

    monkeypatch.setattr(sklearn, "DPClassifier", no)
    run = plan(read("private-reductions", FEW, "3:4"), "x").runs[0].model_copy(update={"noise_seed": 0})
    with pytest.raises(RunError, match=r"^fedavg, ε = ∞, seed 3: AskedError: 0$") as caught:
        run_grid(
            Trainer(), (run.to_json(), Reduction(constraint="demographic parity", points=9).model_dump_json())
        )
    assert isinstance(caught.value.__cause__, AskedError)
