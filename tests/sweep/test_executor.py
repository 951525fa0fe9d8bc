"""Executors: equal bytes from each, stored runs are not trained again, failures do not affect other runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from fedtoll.scenarios.run import Run
from fedtoll.scenarios.scenario import StrategySpec
from fedtoll.server import app, plan
from fedtoll.server.grid import LocalGrid
from fedtoll.server.store import Store
from fedtoll.server.trainer import Trainer
from fedtoll.sweep import executor, workers
from tests.server.federation import FEDAVG, TERM, TOML, YOGI, parquet, planned, single_run

RAISES = '''
from dataclasses import dataclass
from fedtoll.strategies.fedavg import FedAvg

@dataclass(frozen=True)
class Raises(FedAvg):
    """Raises an error of two lines."""

    def weigh(self, reports, state):
        raise RuntimeError("no\\nweights")
'''


def files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of a results folder's tables by path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Run, ...]:
    """Return three runs that succeed, and between them one whose strategy raises."""
    file = tmp_path_factory.mktemp("strategy") / "raises.py"
    file.write_text(RAISES)
    good = planned(FEDAVG, TERM, privacy={"epsilons": [2.0]}).runs
    bad = single_run({"name": f"{file}:Raises"}, 2.0)
    return (good[0], bad, good[1], single_run(YOGI))


@pytest.fixture(scope="module")
def serial(runs, tmp_path_factory) -> tuple[Path, list[str], list[str]]:
    folder = tmp_path_factory.mktemp("serial")
    done: list[str] = []
    failures = executor.execute(
        runs, Store(folder), executor="serial", finished=lambda run: done.append(run.hash)
    )
    return folder, failures, done


def test_every_run_but_the_failing_one_is_there(runs, serial):
    folder, failures, done = serial
    good = [run.hash for run in runs if run.strategy.name != "Raises"]
    assert done == good
    assert sorted(p.name for p in (folder / "runs").iterdir() if not p.name.startswith(".")) == sorted(good)
    assert len(files(folder)) == 5 * len(good)
    assert len(failures) == 1


def test_a_failure_is_one_line_and_its_traceback_a_file(runs, serial):
    folder, (line,), _ = serial
    traceback_file = folder / "errors" / f"{runs[1].hash}.txt"
    assert line == f"Raises, ε = 2, seed 0: RuntimeError: no weights (traceback in {traceback_file})"
    assert [p.name for p in (folder / "errors").iterdir()] == [traceback_file.name]
    text = traceback_file.read_text()
    assert text.startswith("Raises, ε = 2, seed 0\n\nTraceback (most recent call last):")
    assert 'raise RuntimeError("no\\nweights")' in text


def test_training_again_gives_the_same_bytes(runs, serial, tmp_path):
    folder, failures, _ = serial
    again = executor.execute(runs[::-1], Store(tmp_path), executor="serial")
    assert files(tmp_path) == files(folder)
    assert len(again) == len(failures)


@pytest.mark.slow
def test_two_processes_give_the_same_bytes_and_the_same_failure(runs, serial, tmp_path):
    before = dict(os.environ)
    folder, (line,), _ = serial
    (other,) = executor.execute(runs, Store(tmp_path), executor="processes", workers=2)
    assert files(tmp_path) == files(folder)
    assert other == line.replace(str(folder), str(tmp_path))
    assert dict(os.environ) == before


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["cohort", "opacus"])
def test_a_process_that_trains_several_federations_mixes_neither_records_nor_draws(engine):
    """One seed, other records: no cache returns the records, batches or noise of another run."""
    options = {"training": {"engine": engine}, "statistics": {"noise_multiplier": 50.0}}
    others: list[dict[str, Any]] = [
        {},
        {"partition": {"keep": {"Male": 0.5}}},
        {"partition": {"clients": {"Male": 1, "Female": 2}}},
        {"split": {"validation": 0.2}},
    ]
    runs = [single_run(TERM, 2.0, **options, **other) for other in others]
    runs.append(runs[0].model_copy(update={"noise_seed": 7}))
    fresh = [parquet(Trainer().train(run)) for run in runs]
    assert len({str(tables) for tables in fresh}) == len(runs)
    shared = Trainer()
    for i in (0, 1, 2, 3, 4, 0, 3, 1, 4, 2):
        assert parquet(shared.train(runs[i])) == fresh[i]


def test_only_what_is_missing_is_trained(runs, serial, tmp_path, monkeypatch):
    folder, *_ = serial
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    good = [run for run in runs if run.strategy.name != "Raises"]
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.parquet")}
    trained: list[str] = []
    train = Trainer.train_together

    def spy(self: Trainer, runs: Sequence[Run]) -> Any:
        trained.extend(run.hash for run in runs)
        return train(self, runs)

    monkeypatch.setattr(Trainer, "train_together", spy)
    assert executor.execute(good, Store(tmp_path), executor="serial") == []
    assert not trained
    shutil.rmtree(tmp_path / "runs" / good[1].hash)
    assert executor.execute(good, Store(tmp_path), executor="serial") == []
    assert trained == [good[1].hash]
    assert files(tmp_path) == files(folder)
    others = {p: t for p, t in stamps.items() if good[1].hash not in p.parts}
    assert all(p.stat().st_mtime_ns == t for p, t in others.items())


LARGEST = """
from dataclasses import dataclass
import numpy as np
from fedtoll.strategies.base import Strategy

@dataclass(frozen=True)
class One(Strategy):
    def weigh(self, reports, state):
        return np.eye(len(reports))[{which}], state
"""


def test_a_strategy_that_was_edited_while_the_sweep_ran_is_not_run(tmp_path):
    file = tmp_path / "one.py"
    file.write_text(LARGEST.format(which=0))
    run = single_run({"name": f"{file}:One"}, 2.0)
    file.write_text(LARGEST.format(which=1))
    (line,) = executor.execute([run], Store(tmp_path / "out"), executor="serial")
    assert "one.py:One: changed since the sweep was planned; run the command again" in line
    again = single_run({"name": f"{file}:One"}, 2.0)
    assert again.hash != run.hash
    assert executor.execute([again], Store(tmp_path / "out"), executor="serial") == []


def test_a_strategy_that_leaves_python_is_a_failed_run(tmp_path):
    file = tmp_path / "leaves.py"
    file.write_text(RAISES.replace('raise RuntimeError("no\\nweights")', "raise SystemExit(3)"))
    run = single_run({"name": f"{file}:Raises"}, 2.0)
    (line,) = executor.execute([run], Store(tmp_path / "out"), executor="serial")
    assert "SystemExit: 3" in line


def test_nothing_to_do_starts_nothing(runs, serial, monkeypatch):
    folder, *_ = serial
    monkeypatch.setattr(workers, "_Worker", None)
    assert executor.execute([runs[0], runs[2]], Store(folder), executor="processes", workers=2) == []


def context(**config: str | int) -> Context:
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=dict(config))


def test_the_server_app_stores_what_the_executor_does(tmp_path, capsys):
    # The engine of separate clients, as under Flower.
    run = single_run(TERM, 2.0, training={"engine": "opacus"})
    assert executor.execute([run], Store(tmp_path / "ours"), executor="serial") == []
    (tmp_path / "sex.toml").write_text(TOML + '[[strategies]]\nname = "term"\nt = 5.0\n')
    out = tmp_path / "out"
    config: dict[str, str | int] = {
        "scenario": str(tmp_path / "sex.toml"),
        "strategy": "term(t=5)",
        "epsilon": "2.0",
        "seed": 0,
    }
    assert plan.from_config(config).runs[0].hash == run.hash
    app.main(LocalGrid(run), context(**config, out=str(out)))
    assert files(out) == files(tmp_path / "ours")
    shown = capsys.readouterr().out
    assert shown.startswith("term(t=5), ε = 2, seed 0\n")
    assert "(all)" in shown


def test_the_server_app_takes_no_relative_folder(runs):
    with pytest.raises(Exception, match=r"out = 'here': must be an absolute path"):
        app.main(LocalGrid(runs[0]), context(scenario="adult-race", out="here"))


def test_an_alias_of_a_strategy_is_the_same_run():
    path = {"name": "fedtoll.strategies.fedavg:FedAvg"}
    assert single_run(path).hash == single_run(FEDAVG).hash
    assert StrategySpec(**path).label == "FedAvg"


def test_cores_are_counted_where_there_is_no_affinity(monkeypatch):
    assert workers.cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert workers.cores() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert workers.cores() == 1


FORKS = '''
import os, time
from dataclasses import dataclass
from fedtoll.strategies.fedavg import FedAvg

@dataclass(frozen=True)
class Forks(FedAvg):
    """Goes on in two processes after the first round."""

    def weigh(self, reports, state):
        if not os.environ.get("FEDTOLL_TEST_FORKED"):
            os.environ["FEDTOLL_TEST_FORKED"] = "1"
            if copy := os.fork():
                os.waitpid(copy, 0)
        return super().weigh(reports, state)
'''


def test_of_a_strategy_that_forks_one_process_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDTOLL_TEST_FORKED", "")
    file = tmp_path / "forks.py"
    file.write_text(FORKS)
    run = single_run({"name": f"{file}:Forks"})
    log = tmp_path / "log"

    def finished(run: Run) -> None:
        with log.open("a") as text:
            text.write(f"{run.hash}\n")

    parent = os.getpid()
    try:
        failures = executor.execute([run], Store(tmp_path / "out"), executor="serial", finished=finished)
    finally:
        if os.getpid() != parent:  # what this test is about: no copy gets here
            os._exit(0)
    assert failures == []
    assert log.read_text().split() == [run.hash]


ENDS = '''
import os, signal
from dataclasses import dataclass
from fedtoll.strategies.fedavg import FedAvg

@dataclass(frozen=True)
class Ends(FedAvg):
    """Ends its process as an out-of-memory killer does."""

    def weigh(self, reports, state):
        os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_run_that_kills_its_workers_fails_and_the_others_are_stored(runs, tmp_path, count):
    file = tmp_path / "ends.py"
    file.write_text(ENDS)
    bad, store, done = single_run({"name": f"{file}:Ends"}), Store(tmp_path / "out"), []
    (line,) = executor.execute(
        [bad, runs[0]], store, executor="processes", workers=count, finished=lambda run: done.append(run.hash)
    )
    assert done == [runs[0].hash]
    noted = store.folder / "errors" / f"{bad.hash}.txt"
    reason = "its worker process was killed by signal 9 (SIGKILL, out of memory?)"
    assert line == f"Ends, ε = ∞, seed 0: {reason} (noted in {noted})"
    assert noted.read_text() == f"Ends, ε = ∞, seed 0\n\n{reason}\n"


@pytest.mark.slow
def test_a_strategy_that_hangs_is_stopped_and_the_sweep_goes_on(here, tmp_path):
    (tmp_path / "hangs.py").write_text(
        ENDS.replace("import os, signal", "import time").replace(
            "os.kill(os.getpid(), signal.SIGKILL)", "time.sleep(600)"
        )
    )
    (tmp_path / "sex.toml").write_text(TOML + '[[strategies]]\nname = "hangs.py:Ends"\n')
    code, out, err = here("run", "sex.toml", "--out", "out", "--timeout", 20, "--no-probe", "--json")
    assert code == 1
    (line,) = json.loads(out)["failed"]
    assert "Ends, ε = ∞, seed 0: not finished after 20 s (noted in" in line
    assert line in err
    assert len(list(tmp_path.glob("out/runs/*/run.json"))) == 1


def test_the_executor_that_cannot_stop_a_run_refuses_a_time_limit(here, tmp_path):
    (tmp_path / "sex.toml").write_text(TOML)
    code, _, err = here("run", "sex.toml", "--timeout", 5, "--executor", "serial")
    assert (code, err) == (
        2,
        "fedtoll: --timeout: the executor 'serial' cannot stop a run; use processes\n",
    )


NOISY = '''
print("imported")
import os
from dataclasses import dataclass
from fedtoll.strategies.fedavg import FedAvg

@dataclass(frozen=True)
class Noisy(FedAvg):
    """Prints wherever it can, also past Python."""

    def __post_init__(self):
        print("created")

    @property
    def requests(self):
        print("asked")
        return ()

    def weigh(self, reports, state):
        print("weighing")
        os.system("echo weighing")
        return super().weigh(reports, state)
'''


@pytest.mark.slow
@pytest.mark.parametrize("name", ["serial", "processes"])
def test_what_a_strategy_prints_does_not_spoil_the_json(here, tmp_path, name):
    (tmp_path / "noisy.py").write_text(NOISY.replace('        os.system("echo weighing")\n', ""))
    (tmp_path / "sex.toml").write_text(TOML.replace('"fedavg"', '"noisy.py:Noisy"'))
    code, out, err = here("run", "sex.toml", "--out", "out", "--executor", name, "--no-probe", "--json")
    assert code == 0
    assert json.loads(out)["runs"] == 1
    assert "created" in err


@pytest.mark.slow
def test_what_a_strategy_prints_in_a_worker_goes_to_stderr(runs, tmp_path, capfd):
    (tmp_path / "noisy.py").write_text(NOISY)
    noisy = single_run({"name": f"{tmp_path / 'noisy.py'}:Noisy"})
    capfd.readouterr()
    assert executor.execute([noisy], Store(tmp_path / "out"), executor="processes", workers=1) == []
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("weighing\n") == 4


@pytest.mark.parametrize("where", ["requests", "__post_init__"])
def test_a_strategy_that_exits_when_it_is_planned_is_an_error(here, tmp_path, where):
    decorator = "    @property\n" if where == "requests" else ""
    text = RAISES + f"\n{decorator}    def {where}(self):\n        raise SystemExit(0)\n"
    (tmp_path / "leaves.py").write_text(text)
    (tmp_path / "sex.toml").write_text(TOML.replace('"fedavg"', '"leaves.py:Raises"'))
    code, out, err = here("run", "sex.toml", "--out", "out")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "SystemExit" in err
