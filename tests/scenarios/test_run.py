"""Runs convert to and from JSON, and their hash covers everything that can change a number, nothing else."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import pytest

from fedtoll.scenarios.read import read
from fedtoll.scenarios.run import Run
from fedtoll.server.plan import plan
from tests.server.federation import FEDAVG, TERM, scenario, single_run


def _hashes(*overrides, seeds="0:1", name="adult-race"):
    base = ("training.rounds=2", "training.learning_rate=2.0", 'privacy.epsilons=["inf", 2]')
    return {
        (run.strategy.path.rsplit(":")[-1], run.mechanism): run.hash
        for run in plan(read(name, [*base, *overrides], seeds), "x.toml").runs
    }


@pytest.fixture(scope="module")
def before():
    return _hashes()


def test_json_both_ways(runs):
    for run in runs.values():
        again = Run.from_json(run.to_json())
        assert again == run
        assert again.hash == run.hash


@pytest.mark.parametrize(
    "override",
    [
        'title="another"',
        'description="another"',
        'name="another"',
        'training.engine="cohort"',
        "training.learning_rate=2",
    ],
)
def test_what_cannot_change_a_number_is_not_in_the_hash(before, override):
    assert _hashes(override) == before


def test_a_public_part_is_in_the_hash_with_the_rule_that_draws_it(before):
    """An earlier rule drew the public part for each seed; its results must not be taken for today's."""
    (run, *_) = plan(read("adult-race", ["training.rounds=2", "split.validation=0.2"], "0:1"), "x").runs
    assert run.hash not in before.values()
    content = run.model_dump(mode="json")
    del content["strategy"]["name"]
    content["strategy"]["path"] = content["strategy"]["path"].rsplit("/", 1)[-1]
    content["data"]["file"] = ""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert run.hash != hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_other_runs_of_a_scenario_are_not_in_the_hash(before):
    budgets = 'privacy.epsilons=[2, "clip-only", 7, "inf"]'
    scenario = read("adult-race", ["training.rounds=2", "training.learning_rate=2.0", budgets], "0:4")
    hashes = {run.hash for run in plan(scenario, "x").runs}
    assert set(before.values()) <= hashes


@pytest.mark.parametrize(
    "override",
    [
        "training.rounds=3",
        "training.local_steps=9",
        "training.sampling_rate=0.03",
        "training.learning_rate=1.5",
        'training.precision="float64"',
        'model={kind="mlp", hidden=[4]}',
        'data.exclude=["sex"]',
        'data.groups=["race", "sex"]',
        "split.folds=4",
        "partition.clients={White=7}",
        'training.on_failure="skip"',
    ],
)
def test_what_can_change_a_number_changes_every_hash(before, override):
    beside = ["partition.clients={}"] if "groups" in override else []
    after = _hashes(override, *beside)
    assert not set(after.values()) & set(before.values())


@pytest.mark.parametrize(
    "override",
    ["training.clip=2.0", "privacy.delta=1e-7", "privacy.noise_seed=7", 'privacy.accountant="rdp"'],
)
def test_what_only_privacy_uses_changes_private_runs_only(before, override):
    after = _hashes(override)
    for key, value in before.items():
        assert (after[key] == value) == (key[1] == "none"), key


def test_the_noise_of_statistics_concerns_only_who_asks_for_them(before):
    after = _hashes("statistics.noise_multiplier=80.0")
    changed = {key for key in before if after[key] != before[key]}
    assert changed == {("Term", "dp-sgd")}


def test_seeds_and_strategy_parameters_are_in_the_hash(before):
    assert not set(_hashes(seeds="1:2").values()) & set(before.values())
    spec = 'strategies=[{name="term", t=4.0, clip=1.0}]'
    assert not set(_hashes(spec).values()) & set(before.values())


def test_a_default_stated_is_the_same_run(before):
    after = _hashes('strategies=[{name="term", t=5.0, clip=1.0, debias=true}]')
    assert after[("Term", "dp-sgd")] == before[("Term", "dp-sgd")]
    assert _hashes('strategies=[{name="fedtoll.strategies.fedavg:FedAvg"}]').items() <= before.items()


def test_a_users_file_counts_by_its_content_and_not_by_its_place(tmp_path):
    text = "from fedtoll.strategies.uniform import Uniform\n\nclass Mine(Uniform):\n    pass\n"
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(text if folder != "c" else text + "# other\n")
    a, b, c = (_hashes(f'strategies=[{{name="{tmp_path}/{f}/mine.py:Mine"}}]') for f in "abc")
    assert a == b
    assert not set(a.values()) & set(c.values())


def test_a_later_key_with_its_default_changes_no_hash_and_nothing_that_is_written():
    """Golden hashes of an earlier arithmetic: a key that is new and has its default is not in them."""
    run = single_run(FEDAVG, training={"device": "cpu"})
    assert run.changed(numerics=1).hash == "dba9f7e36745224e"
    clipped = single_run(TERM, "clip-only", training={"device": "cpu"})
    assert clipped.changed(numerics=1).hash == "883b7e88c9cfdae4"
    stated = single_run(FEDAVG, training={"device": "cpu", "on_failure": "abort"})
    assert stated == run
    assert "on_failure" not in run.to_json()
    assert "on_failure" not in scenario().model_dump(mode="json")["training"]
    skips = single_run(FEDAVG, training={"on_failure": "skip"})
    assert '"on_failure":"skip"' in skips.to_json()
    assert Run.from_json(skips.to_json()) == skips
    assert (
        scenario(training={"on_failure": "skip"}).model_dump(mode="json")["training"]["on_failure"] == "skip"
    )


WRONG: dict[str, list[Any]] = {
    "clip": [-1.0, 0.0, math.inf],
    "delta": [0.0, 1.0, -1e-5],
    "rounds": [0, -1],
    "size": [0, -7],
    "sampling_rate": [0.0, 1.5],
    "batch_size": [0.0, -1.0],
    "steps": [0, -2],
    "noise_multiplier": [-1.0, math.inf, math.nan],
    "epsilon_factor": [0.0, 1.5],
}
"""Numbers that no plan of the server's has, and that would disarm what a client does with them."""


@pytest.mark.parametrize(("key", "value"), [(key, value) for key in WRONG for value in WRONG[key]])
def test_a_plan_out_of_range_is_refused(key, value):
    run = single_run(FEDAVG, 2.0)
    content = json.loads(run.to_json())
    part = content if key in content else content["clients"][0]
    assert key in part or key == "epsilon_factor"
    part[key] = value
    with pytest.raises(ValueError, match=key):
        Run.from_json(json.dumps(content))


@pytest.mark.parametrize(
    "change", [{"clip": None}, {"mechanism": "none"}, {"mechanism": "clip-only"}], ids=str
)
def test_a_mechanism_that_is_not_what_it_says_is_refused(change):
    """Otherwise a finite ε would be charged without clipping or noise."""
    run = single_run(FEDAVG, 2.0)
    with pytest.raises(ValueError, match="does not go with this clip and noise"):
        Run.model_validate({**run.model_dump(), **change})


def test_a_strategy_whose_arithmetic_changed_has_other_hashes_and_so_has_its_wrapper():
    def written(spec):
        overrides = [f"strategies=[{spec}]", 'privacy.epsilons=["inf"]']
        return plan(read("adult-race", overrides, "0:1"), "x").runs[0]

    for spec, revision in (
        ('{name="fedavg"}', 1),
        ('{name="afl"}', 2),
        ('{name="fedminmax"}', 2),
        ('{name="noise-fair", target="term"}', 1),
        ('{name="noise-fair", target="afl"}', 2),
    ):
        run = written(spec)
        assert run.strategy.revision == revision
        assert ('"revision"' in run.to_json()) == (revision > 1)
        assert Run.from_json(run.to_json()) == run
        assert run.changed(strategy=run.strategy.changed(revision=3 - revision)).hash != run.hash


def test_a_parameter_that_a_strategy_gained_later_is_stored_only_where_it_is_used():
    specs = '{name="fedavgm"}, {name="fedavgm", nesterov=false}, {name="fedavgm", nesterov=true}'
    three = plan(read("adult-race", [f"strategies=[{specs}]", 'privacy.epsilons=["inf"]'], "0:1"), "x").runs
    assert three[0].strategy.parameters == {"server_learning_rate": 1.0, "momentum": 0.9}
    assert three[0].hash == three[1].hash != three[2].hash
    assert three[2].strategy.parameters["nesterov"] is True
