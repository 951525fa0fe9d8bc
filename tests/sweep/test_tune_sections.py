"""``[tune]`` chooses constants of ``[client]`` and ``[personal]``, with a ledger for each."""

from __future__ import annotations

import math
from typing import Any

import pytest

import fedtoll
from fedtoll.findings.prepare import _quick
from fedtoll.privacy.ledger import Ledger, all_owed
from fedtoll.report import who
from fedtoll.report.constants import describe, sentences
from fedtoll.report.digest import Digest
from fedtoll.report.sensitivity import axis, candidates
from fedtoll.report.tables.sensitivity import sensitivity_table
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.read import validate
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import plan
from fedtoll.sweep import candidates as grids
from fedtoll.sweep.dry_run import _noise, preview

ADAPTIVE = {"mechanism": "adaptive-clip"}
DITTO = {"kind": "ditto", "strength": 0.3, "steps": 3}


def table(tune: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    """Return three clients of made-up records, two rounds of two steps, and ``[tune]``."""
    content: dict[str, Any] = {
        "name": "sections",
        "title": "Constants of all sections",
        "seeds": [0],
        "data": {
            "source": "synthetic",
            "groups": ["group"],
            "synthetic": {"features": 3, "groups": {"A": {"size": 90}, "B": {"size": 45}}},
        },
        "split": {"folds": 3, "validation": 0.2},
        "partition": {"kind": "group", "clients": {"A": 2}},
        "training": {
            "rounds": 2,
            "sampling_rate": 0.4,
            "local_steps": 2,
            "learning_rate": 0.7,
            "clip": 0.5,
        },
        "privacy": {"epsilons": ["inf", "clip-only", 3], "delta": 1e-3, "accountant": "rdp"},
        "strategies": [{"name": "fedavg"}, {"name": "uniform"}],
    }
    if tune is not None:
        content["tune"] = {"seeds": [1000], **tune}
    for key, value in changes.items():
        content[key] = {**content.get(key, {}), **value} if isinstance(value, dict) else value
    return content


def tried(tune: dict[str, Any], **changes: Any) -> list[grids.Candidate]:
    planned = plan(validate(table(tune, **changes), "x"), "x")
    assert planned.scenario.tune is not None
    return grids.candidates(planned, planned.scenario.tune)


def constants(found: list[grids.Candidate], epsilon: Any, strategy: str = "fedavg") -> list[dict[str, Any]]:
    return [c.constants.to_dict() for c in found if (c.epsilon, c.strategy) == (epsilon, strategy)]


def private(found: list[grids.Candidate]) -> list[tuple[dict[str, Any], Run]]:
    return [(c.constants.to_dict(), c.runs[0]) for c in found if (c.epsilon, c.strategy) == (3.0, "fedavg")]


def spent(run: Run) -> float:
    """Return what the ledger of the first client of a run adds up to."""
    ledger = Ledger.of(run)
    ledger.charge(all_owed(run, 0, run.attendance))
    return ledger.epsilon(run.clients[0].id)


def test_all_strategies_try_them_wherever_they_can_change_a_run():
    tune = {"client": {"momentum": [0.0, 0.9], "quantile": [0.5, 0.8], "statistic_share": [0.01, 0.5]}}
    found = tried(tune, client=ADAPTIVE)
    momentum = [{"client.momentum": 0.0}, {"client.momentum": 0.9}]
    for strategy in ("fedavg", "uniform"):
        assert constants(found, math.inf, strategy) == momentum
        assert len(constants(found, "clip-only", strategy)) == 4
        assert len(constants(found, 3.0, strategy)) == 8
        assert not any("client.statistic_share" in c for c in constants(found, "clip-only", strategy))
    assert len({c.runs[0].hash for c in found}) == len(found)  # no two candidates are the same run
    for values, run in private(found):
        local = run.client_mechanism
        assert local is not None
        assert (local.momentum, local.parameters["quantile"]) == (
            values["client.momentum"],
            values["client.quantile"],
        )


def test_a_share_of_the_noise_is_divided_anew_for_every_candidate():
    """The counts' share changes the gradient's noise, and not what a step is charged."""
    found = private(tried({"client": {"statistic_share": [0.01, 0.5]}}, client=ADAPTIVE))
    (_, few), (_, half) = found
    for values, run in found:
        client = run.clients[0]
        expected = client.noise_multiplier / math.sqrt(1 - values["client.statistic_share"])
        assert client.noise_share == pytest.approx(expected)
        assert spent(run) == pytest.approx(3.0, abs=0.01)
    assert few.clients[0].noise_multiplier == half.clients[0].noise_multiplier


def test_every_candidate_is_calibrated_for_the_steps_that_it_takes():
    found = private(tried({"personal": {"steps": [1, 6], "strength": [0.0, 0.5]}}, personal=DITTO))
    assert [(run.personal.steps, run.personal.strength) for _, run in found if run.personal] == [
        (1, 0.0),
        (1, 0.5),
        (6, 0.0),
        (6, 0.5),
    ]
    noise = {values["personal.steps"]: run.clients[0].noise_multiplier for values, run in found}
    assert noise[6] > 1.2 * noise[1]
    for _, run in found:
        assert spent(run) == pytest.approx(3.0, abs=0.01)


def test_a_plugged_in_mechanism_releases_counts_in_some_candidates_only(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from fedtoll.clients.clipping.base import ClientMechanism\n"
        "@dataclass(frozen=True)\n"
        "class Mine(ClientMechanism):\n"
        "    asks: bool = False\n"
        "    def cells(self, groups): return int(self.asks)\n"
        "    def count(self, norms_N, groups_N, state, public):\n"
        "        return np.ones((len(norms_N), int(self.asks)))\n"
    )
    mine = {"mechanism": f"{tmp_path}/mine.py:Mine"}
    silent, asking = (run for _, run in private(tried({"client": {"asks": [False, True]}}, client=mine)))
    assert silent.clients[0].noise_share is None
    assert (asking.clients[0].noise_share or 0) > asking.clients[0].noise_multiplier
    with pytest.raises(ScenarioError, match=r"^x: tune.client: Mine: unknown parameter 'ask'; .* 'asks'"):
        tried({"client": {"ask": [False, True]}}, client=mine)


def test_a_charged_choice_draws_from_the_whole_grid():
    tune = {"client": {"quantile": [0.5, 0.8]}, "charge": "random-stopping"}
    found = private(tried(tune, client=ADAPTIVE, strategies=[{"name": "fedavg"}]))
    assert {values["client.quantile"] for values, _ in found} <= {0.5, 0.8}
    assert len({run.seed for _, run in found}) == len(found)
    assert all(run.choice is not None for _, run in found)


@pytest.mark.parametrize(
    ("tune", "changes", "line"),
    [
        ({"personal": {"strength": [0.1, 1.0]}}, {}, "tune.personal: needs [personal]"),
        ({"personal": {"strenght": [0.1, 1.0]}}, {"personal": DITTO}, "did you mean 'strength'"),
        ({"personal": {"last": [1, 2]}}, {"personal": DITTO}, "last: only with kind = 'fedper'"),
        ({"personal": {"strength": [0.1, -1.0]}}, {"personal": DITTO}, "tune.personal.strength = -1.0: "),
        ({"personal": {"kind": ["ditto", "mr-mtl"]}}, {"personal": DITTO}, "tune.personal.kind: not a const"),
        (
            {"personal": {"last": [1, 3]}},
            {"personal": {"kind": "fedper", "last": 1}},
            "tune.personal.last = 3: the model has 2 parameter arrays",
        ),
        ({"averages": [False, True]}, {"personal": DITTO}, "tune.averages: must be false"),
        ({"client": {"momentum": [0.0, 1.0]}}, {}, "tune.client.momentum = 1.0: "),
        ({"client": {"momentum": 0.9}}, {}, "tune.client.momentum = 0.9: must be a list"),
        ({"client": {"momentum": [0.9, 0.9]}}, {}, "client.momentum: the same value twice"),
        ({"client": {"momentum": [0.9]}}, {}, "nothing to choose from"),
        ({"client": {"momentun": [0.0, 0.9]}}, {}, "tune.client.momentun: unknown key; did you mean 'mom"),
        (
            {"client": {"momentum": [0.0, 0.9]}},
            {"training": {"local_steps": 1}},
            "tune.client.momentum = 0.9: has no effect with one local step",
        ),
        ({"client": {"momentum": [0.0, 0.9]}}, {"personal": DITTO}, "tune.client: not with [personal]"),
        ({"client": {"mechanism": ["dp-sgd", "dpsgd-f"]}}, {}, "tune.client.mechanism: not a constant"),
        (
            {"client": {"quantil": [0.5, 0.8]}},
            {"client": ADAPTIVE},
            "tune.client: AdaptiveClip: unknown parameter 'quantil'; did you mean 'quantile'",
        ),
        (
            {"client": {"quantile": [0.5, 2.0]}},
            {"client": ADAPTIVE},
            "tune.client: AdaptiveClip: quantile = 2.0: must be between 0 and 1",
        ),
        (
            {"client": {"statistic_share": [0.01, 0.1]}},
            {"client": {"mechanism": "dp-sgd-global"}},
            "tune.client.statistic_share: no effect, because 'dp-sgd-global' has no counts",
        ),
        (
            {"clips": [1.0, 2.0], "client": {"momentum": [0.0, 0.9]}, "candidates": 5},
            {},
            "tune.candidates = 5: fedavg has 4 combinations",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_one_line(tune, changes, line):
    with pytest.raises(ScenarioError) as error:
        plan(validate(table(tune, **changes), "x"), "x")
    assert line in str(error.value)
    assert str(error.value).startswith("x: ")
    assert "\n" not in str(error.value)


def test_a_scenario_without_them_is_written_as_before():
    written = validate(table({"clips": [1.0, 2.0]}), "x").model_dump_json()
    assert '"client"' not in written
    assert '"personal"' not in written
    (lists,) = {validate(table({"client": {"momentum": [0.0, 0.9]}}), "x")}
    assert validate(lists.model_dump(mode="json"), "x") == lists


CHOSEN = table(
    {"client": {"momentum": [0.0, 0.9], "quantile": [0.4, 0.6]}},
    client=ADAPTIVE,
    privacy={"epsilons": ["inf", 3], "delta": 1e-4},
    strategies=[{"name": "fedavg"}],
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return fedtoll.run(CHOSEN, out=tmp_path_factory.mktemp("tuned") / "out", executor="serial")


def test_results_record_and_show_what_was_tried(results):
    rows = results.resolved["tuning"]
    assert [len([r for r in rows if r["mechanism"] == m]) for m in ("none", "dp-sgd")] == [2, 4]
    (best,) = (r["constants"] for r in rows if r["chosen"] and r["mechanism"] == "dp-sgd")
    assert set(best) == {"client.momentum", "client.quantile"}
    digest = Digest(results)
    words = describe(best)
    assert words.startswith("client momentum ")
    assert words in " ".join(sentences(digest))
    assert "Widen the grid: " in " ".join(sentences(digest))  # of two values, each is on the edge
    shown = sensitivity_table(digest)
    assert shown is not None
    assert words in str(shown.rows)
    assert axis(candidates(digest)) == "client.momentum"


def test_it_resumes_and_is_counted_before(results, monkeypatch):
    monkeypatch.setattr("fedtoll.sweep.tune.validation_losses", lambda *a: pytest.fail("trained again"))
    again = fedtoll.run(CHOSEN, out=results.folder, executor="serial")
    assert again.resolved["tuning"] == results.resolved["tuning"]
    monkeypatch.setattr("fedtoll.sweep.dry_run._seconds", lambda *a: 0.0)
    text = preview(plan(validate(CHOSEN, "x"), "x"), 1)
    assert "6 runs of candidates, then 2 with the best" in text


def test_a_quick_finding_tries_two_candidates():
    quick = _quick(validate(CHOSEN, "x"), tuned=True)
    assert quick[1:] == ["tune.seeds=[1000]", "tune.client.momentum=[0.0, 0.9]", "tune.client.quantile=[0.4]"]


def test_the_preview_counts_the_steps_of_own_models():
    rows = _noise(plan(validate(table(None, personal=DITTO), "x"), "x"))
    assert {row["steps"] for row in rows} == {2 * (2 + 3)}


def test_the_card_names_no_constant_that_was_chosen():
    section = {"kind": "mr-mtl", "strength": 0.5}
    tuned = {"personal": section, "tune": {"personal": {"strength": [0.1, 0.5]}}}
    assert who.phrase(tuned) == " with personal models (MR-MTL, λ chosen for each strategy and ε)"
    assert "0.5" in who.phrase({"personal": section, "tune": {"clips": [1.0, 2.0]}})
