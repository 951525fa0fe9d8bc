"""Runs that train together: grouping changes no byte, and one run's fault is not the others'."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedtoll.scenarios.errors import RunError
from fedtoll.scenarios.run import Run
from fedtoll.server.in_step import in_step
from fedtoll.server.plan import plan
from fedtoll.server.store import Store
from fedtoll.server.trainer import Trainer
from fedtoll.sweep import executor, groups
from fedtoll.sweep.executor import outcomes_together
from tests.server import jobs
from tests.server.federation import FEDAVG, TERM, YOGI, parquet, planned, scenario, single_run, with_strategy
from tests.sweep.test_executor import RAISES

STRATEGIES = [FEDAVG, TERM, YOGI, {"name": "uniform"}, {"name": "fairfed"}]


def some_runs(seed: int) -> list[Run]:
    """Return the runs of a random small scenario, of which some share their batches."""
    rng = np.random.default_rng(seed)
    picked = [STRATEGIES[i] for i in rng.choice(len(STRATEGIES), size=2, replace=False)]
    found: list[Run] = []
    model = [{"kind": "logistic"}, {"kind": "mlp", "hidden": [5]}, {"kind": "mlp", "hidden": [6, 4]}]
    changes: dict[str, Any] = {
        "seeds": [0, 1][: int(rng.integers(1, 3))],
        "partition": {"clients": {"Male": int(rng.integers(1, 4)), "Female": int(rng.integers(1, 3))}},
        "model": model[int(rng.integers(3))],
        "privacy": {"epsilons": [["inf", 2], ["clip-only", 4, 1], ["inf", 0.5]][int(rng.integers(3))]},
    }
    batches: dict[str, Any] = {"sampling_rate": float(rng.choice([0.01, 0.02]))}
    if rng.random() < 0.4:
        batches = {"sampling_rate": None, "batch_size": 40, "local_steps": None, "local_epochs": 0.02}
    for rate in (0.5, 2.0):  # as candidates differ
        training = {
            **{"rounds": int(rng.integers(1, 4)), "learning_rate": rate, "clip": float(rng.choice([0.5, 2]))},
            **{"precision": "float64" if rng.random() < 0.3 else "float32", **batches},
        }
        found += plan(scenario(*picked, **changes, training=training), "x").runs
    return found


def check(runs: list[Run], seed: int) -> None:
    """Compare the tables of runs alone, and in random groups of random order."""
    alone = {run.hash: parquet(Trainer().train(run)) for run in runs}
    rng = np.random.default_rng(seed)
    trainer = Trainer()
    for _ in range(2):
        order = [runs[i] for i in rng.permutation(len(runs))]
        for group in np.split(np.arange(len(order)), np.sort(rng.choice(len(order), 2))):
            together = trainer.train_together([order[i] for i in group])
            for i, tables in zip(group, together, strict=True):
                assert isinstance(tables, dict), tables
                assert parquet(tables) == alone[order[i].hash], order[i].label


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_group_of_any_size_changes_no_byte(seed):
    check(some_runs(seed), seed)


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(4, 30))
def test_a_group_of_any_size_changes_no_byte_in_more_scenarios(seed):
    check(some_runs(seed), seed)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.parquet")}


@pytest.mark.slow
def test_workers_and_what_is_stored_already_change_no_byte(tmp_path):
    runs = planned(FEDAVG, TERM, seeds=[0, 1], privacy={"epsilons": ["inf", 2, 1]}).runs
    alone = tmp_path / "alone"
    for run in runs:
        Store(alone).write(run, Trainer().train(run))
    for workers in (1, 2, 4):
        store = Store(tmp_path / str(workers))
        store.write(runs[workers], Trainer().train(runs[workers]))  # the rest is resumed
        assert executor.execute(runs, store, workers=workers) == []
        assert files(store.folder) == files(alone)


def test_a_run_that_fails_in_a_group_has_its_own_error_and_the_others_their_bytes(tmp_path):
    good = [single_run(FEDAVG, e) for e in ("inf", 2.0)]
    (tmp_path / "raises.py").write_text(RAISES)
    bad = with_strategy(good[0], f"{tmp_path / 'raises.py'}:Raises")
    with pytest.raises(Exception, match=r".") as alone:
        Trainer().train(bad)
    first, error, last = Trainer().train_together([good[0], bad, good[1]])
    assert (type(error), str(error)) == (type(alone.value), str(alone.value))
    for run, tables in zip(good, (first, last), strict=True):
        assert isinstance(tables, dict)
        assert parquet(tables) == parquet(Trainer().train(run))


def test_a_client_that_fails_in_a_group_is_told_apart(monkeypatch):
    """The engine does not say whose fault an error is."""
    from fedtoll.clients.engines.cohort import CohortEngine

    runs = [single_run(FEDAVG, e) for e in ("inf", 2.0, 1.0)]
    real = CohortEngine.train_together

    def train(self: Any, work: Any) -> Any:
        if any(run.epsilon == 2.0 and any(t.plan.id == 1 for t in tasks) for run, tasks in work):
            raise ValueError("too much")
        return real(self, work)

    monkeypatch.setattr(CohortEngine, "train_together", train)
    first, error, last = Trainer().train_together(runs)
    assert str(error).endswith("client 1 (Male): the client failed: ValueError: too much")
    monkeypatch.undo()
    for run, tables in zip((runs[0], runs[2]), (first, last), strict=True):
        assert isinstance(tables, dict)
        assert parquet(tables) == parquet(Trainer().train(run))


# Which runs train together.


def test_runs_of_one_seed_and_the_same_batches_train_together():
    runs = planned(FEDAVG, TERM, seeds=[0, 1], privacy={"epsilons": ["inf", 2]}).runs
    found = groups.groups(runs, None, workers=1)
    assert [{runs[i].seed for i in group} for group in found] == [{0}, {1}]
    assert sorted(i for group in found for i in group) == list(range(len(runs)))
    rarer = planned(FEDAVG, training={"sampling_rate": 0.02}).runs
    assert len(groups.groups([runs[0], *rarer], None, workers=1)) == 2
    assert len(groups.groups(runs, None, workers=1, alone=True)) == len(runs)


def test_foreign_code_and_opacus_train_alone(tmp_path):
    own = single_run(FEDAVG)
    (tmp_path / "raises.py").write_text(RAISES)
    foreign = with_strategy(own, f"{tmp_path / 'raises.py'}:Raises")
    assert foreign.strategy.digest
    opacus = own.model_copy(update={"engine": "opacus"})
    assert len(groups.groups([foreign, foreign, opacus, opacus], None, workers=1)) == 4


@pytest.mark.parametrize(("workers", "size"), [(1, 16), (2, 15), (4, 8), (100, 1)])
def test_all_workers_have_something_to_do_and_groups_are_bounded(workers, size):
    runs = [single_run(FEDAVG)] * 60
    found = groups.groups(runs, None, workers)
    assert max(len(group) for group in found) <= size
    assert len(found) >= min(2 * workers, 60)


def test_a_group_fits_in_the_cache(monkeypatch):
    one = 3 * 92 * 4  # three clients, 91 weights and a bias, four bytes
    monkeypatch.setattr(groups, "CACHE", 5 * one)
    found = groups.groups([single_run(FEDAVG)] * 60, None, 1)
    assert {len(group) for group in found} == {5}


@pytest.mark.slow
def test_a_group_whose_worker_dies_is_done_one_by_one(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))  # a spawned process imports the jobs
    done = dict(outcomes_together(jobs.all_die, "abcd", [[0, 1], [2, 3]], workers=2))
    assert [done[i][0] for i in (0, 2, 3)] == ["a", "c", "d"]
    assert done[1][0] is None
    assert "SIGKILL" in done[1][1]


# Servers in step.


def test_servers_work_one_at_a_time_in_their_order():
    log: list[str] = []

    def server(name: str, rounds: int) -> Any:
        def serve(ask: Any) -> int:
            got = 0
            for _ in range(rounds):
                log.append(name)
                got = ask(got + 1)
            return got

        return serve

    def answer(numbers: Any) -> Any:
        log.append(str(len(numbers)))
        return [10 * n for n in numbers]

    assert in_step([server("a", 2), server("b", 1), server("c", 3)], answer) == [110, 10, 1110]
    assert log == ["a", "b", "c", "3", "a", "c", "2", "c", "1"]


def test_a_server_that_raises_does_not_end_the_others():
    def bad(ask: Any) -> int:
        raise RunError(f"after {ask(1)}")

    first, error = in_step([lambda ask: ask(1) + ask(2), bad], lambda numbers: numbers)
    assert first == 3
    assert str(error) == "after 1"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_no_thread_is_left_if_the_answer_fails(error):
    def answer(numbers: Any) -> Any:
        raise error

    before = threading.active_count()
    with pytest.raises(error):
        in_step([lambda ask: ask(1), lambda ask: ask(2)], answer)
    assert threading.active_count() == before


def test_what_is_no_exception_ends_all():
    def leaves(ask: Any) -> None:
        raise SystemExit(3)

    before = threading.active_count()
    with pytest.raises(SystemExit):
        in_step([lambda ask: ask(1), leaves], lambda numbers: numbers)
    assert threading.active_count() == before
