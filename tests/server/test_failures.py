"""What a client raises can contain values of its records: it stays with the client and its experimenter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from fedtoll.clients import engines
from fedtoll.clients import train as clients
from fedtoll.clients.failures import MOST_FAILURES, REASONS
from fedtoll.scenarios.run import Run
from fedtoll.server.app import federate
from fedtoll.server.grid import LocalGrid
from fedtoll.server.store import Store
from fedtoll.server.trainer import Trainer
from fedtoll.sweep.executor import execute
from tests.server.federation import TERM, Replies, parquet, single_run

SECRET = "age 87, race Other"


class Listening(LocalGrid):
    """A LocalGrid that keeps the text of every error reply: what the server is told."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.told: list[tuple[int, str | None]] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Replies:
        replies = super().send_and_receive(messages, timeout=timeout)
        self.told += [(r.error.code, r.error.reason) for r in replies if r.has_error()]
        return replies


@pytest.fixture(params=["training", "statistics"])
def fails(request, monkeypatch) -> None:
    """Let client 1 raise in round 2, with a value of its records in the text."""
    real, answers = engines.make_engine, clients._answers

    class Fails:
        def __init__(self, *which: Any) -> None:
            self.engine = real(*which)

        def train(self, run: Run, tasks: list[Any]) -> Any:
            if any(task.round == 2 and task.plan.id == 1 for task in tasks):
                raise KeyError(SECRET)
            return self.engine.train(run, tasks)

        def train_together(self, jobs: list[Any]) -> Any:
            return [self.train(*job) for job in jobs]

    def asked(cohort: Any, task: Any, groups: Any, turn: int) -> Any:
        if task.round == 2 and task.plan.id == 1:
            raise KeyError(SECRET)
        return answers(cohort, task, groups, turn)

    if request.param == "training":
        monkeypatch.setattr(clients, "make_engine", Fails)
    else:
        monkeypatch.setattr(clients, "_answers", asked)


def run_that(on_failure: str) -> Run:
    return single_run(TERM, 2.0, training={"on_failure": on_failure, "rounds": 3})


@pytest.mark.usefixtures("fails")
def test_the_server_learns_only_that_a_client_failed():
    grid = Listening(run := run_that("abort"))
    with pytest.raises(Exception, match=r"^round 2, client 1 \(Male\): the client failed$") as caught:
        federate(grid, run)
    assert caught.value.__cause__ is None
    assert grid.told == [(101, REASONS[101])]


@pytest.mark.usefixtures("fails")
def test_no_table_has_what_a_skipped_client_raised():
    tables = federate(Listening(run := run_that("skip")), run)
    assert set(tables["clients"]["skipped"]) == {"", "the client failed"}
    assert not any(SECRET.encode() in content for content in parquet(tables).values())


@pytest.mark.usefixtures("fails")
def test_the_experimenter_sees_what_their_own_simulation_raised(tmp_path):
    store = Store(tmp_path / "out")
    (line,) = execute([run := run_that("abort")], store, executor="serial")
    assert f"round 2, client 1 (Male): the client failed: KeyError: '{SECRET}' (traceback in " in line
    text = (tmp_path / "out/errors" / f"{run.hash}.txt").read_text()
    assert f"raise KeyError(SECRET)\nKeyError: '{SECRET}'" in text  # the client's own traceback


def test_a_run_that_succeeds_later_leaves_no_trace_of_its_failure(tmp_path):
    store, run = Store(tmp_path / "out"), run_that("abort")
    other = run.model_copy(update={"seed": 1})
    store.fail(run, "it failed")
    store.fail(other, "this one, too")
    store.write(run, Trainer().train(run))
    assert [file.stem for file in (tmp_path / "out/errors").iterdir()] == [other.hash]
    store.no_failure(other)
    assert not (tmp_path / "out/errors").exists()


@pytest.mark.usefixtures("fails")
def test_the_experimenter_sees_why_replies_were_skipped(caplog):
    Trainer().train(run := run_that("skip"))
    assert [record.getMessage() for record in caplog.records] == [
        f"fedtoll: {run.label}: 1 replies failed, first round 2, client 1: KeyError: '{SECRET}'"
    ]


def test_the_log_of_failures_is_bounded_and_starts_anew_with_every_run(monkeypatch):
    run = single_run(TERM, 2.0, training={"on_failure": "skip"})
    trainer = Trainer()
    trainer.clients.failures.extend([None] * MOST_FAILURES)  # type: ignore[list-item]
    monkeypatch.setattr(clients, "_answers", None)
    with pytest.raises(Exception, match=r"round 1: every reply was skipped.*: TypeError: 'NoneType' object"):
        trainer.train(run)
    assert len(trainer.clients.failures) == len(run.clients)
    many = clients.Clients()
    grid = LocalGrid(run, many.train)
    for _ in range(2 * MOST_FAILURES):
        reply = clients._failed(
            Message(RecordDict(), 1, "train"), grid._contexts[1], KeyError("x"), many.failures
        )
        assert reply.has_error()
    assert len(many.failures) == MOST_FAILURES
