"""Handle training messages, of one client or of a whole cohort.

The Flower ``ClientApp`` calls :meth:`Clients.train` with one message, the in-process Grid with all messages
of a round. Each client receives and returns its own Flower message. Statistics, ledger and encoding are
implemented here only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.app.message_type import MessageType
from numpy.typing import NDArray

from fedtoll.clients import calibration, mechanisms, model, personal, updates, wire
from fedtoll.clients.engines import make_engine
from fedtoll.clients.engines.base import Engine, Task
from fedtoll.clients.failures import (
    CLIENT_FAILED,
    MESSAGE_REJECTED,
    MOST_FAILURES,
    REASONS,
    Failure,
    RejectedError,
)
from fedtoll.clients.roll_call import partition_id
from fedtoll.clients.state import LEDGER, answer, claim, enter, entered, keep_mechanism_state, mechanism_state
from fedtoll.clients.weights import example_weights, score_weights
from fedtoll.privacy.ledger import DP_SGD, Release, chosen, joint
from fedtoll.scenarios.federation import Federation, Records
from fedtoll.scenarios.participation import Attendance
from fedtoll.scenarios.run import Run

Record = TypeVar("Record")

_INSTRUCTIONS = {"run", "server-round", "proximal_mu", "group_weights", "score_weights", updates.CLIP}

MOST_RUNS = 16
"""The maximum number of runs whose records and constants are kept."""

BOUND = "gradient-bound"
"""The metric with the typical bound on a scaled gradient. It follows from noised counts, so it is free."""

Tensors = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
"""The features, labels and groups of every client's records."""


class Clients:
    """The clients that train in this process, with the state that their rounds share.

    Records are resolved once, and engines cache the draws that runs of one seed share. A process that trains
    several runs should therefore use one object for all of them.

    Parameters
    ----------
    federation
        The records. If not given, they are resolved from the run of the first message.

    Attributes
    ----------
    failures
        The clients' own log: what was raised, and by whom. Whoever runs the clients may read and clear it.
    """

    def __init__(self, federation: Federation | None = None) -> None:
        self._federation = federation
        self._engines: dict[tuple[str, str], Engine] = {}
        self._cohorts: dict[str, _Cohort] = {}
        self._tensors: tuple[Records, str, Tensors] | None = None
        self.failures: list[Failure] = []

    def federation(self, run: Run) -> Federation:
        """Return the federation of a run, resolved once."""
        self._federation = Federation.of(run, like=self._federation)
        return self._federation

    def read(self, text: str) -> Run:
        """Return the run that a message describes."""
        return Run.from_json(text)

    def records(self, run: Run) -> Records:
        """Return the records of the clients of a run."""
        return self.federation(run).records(run.seed)

    def train(self, messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
        """Train every addressed client for one round, and reply to every message.

        A message has the model in its single ``ArrayRecord`` and, in its ``ConfigRecord``, the run as JSON
        (``run``) and the round (``server-round``). A reply has the new weights, the public size as
        ``num-examples``, the private statistics that are due as ``<name>`` (a number or a flat list of
        cells) and ``<name>.sd``, ``gradient-bound`` with a client-side mechanism, and the client's ledger.

        Batches and noise are functions of (run, client, round, step). A client therefore replies once per
        round. If the same broadcast arrives again, bit for bit, it sends the same reply and charges nothing.

        A client that raises replies with a constant error (:data:`fedtoll.clients.failures.REASONS`) and does
        not affect the others.
        """
        return self.train_together([Round(messages, contexts, self.failures)])[0]

    def train_together(self, rounds: Sequence[Round]) -> list[list[Message]]:
        """Train the clients of several runs for one round each; the replies are those of :meth:`train`.

        Runs of one seed share batches and noise, so that an engine is faster with all of them at once.
        """
        replies: list[dict[int, Message]] = [{} for _ in rounds]
        batches: list[tuple[int, list[_Job]]] = []  # of jobs of one run, with the position of its round
        for position, each in enumerate(rounds):
            jobs: list[_Job] = []
            read: dict[int, _Broadcast] = {}  # the messages of a round may share their content
            for i, (message, context) in enumerate(zip(each.messages, each.contexts, strict=True)):
                try:
                    if message.metadata.message_type == MessageType.EVALUATE:
                        replies[position][i] = calibration.reply(self._cohort_of, message, context)
                    else:
                        jobs.append(self._prepare(i, message, context, read))
                except Exception as error:
                    replies[position][i] = _failed(message, context, error, each.failures)
            if jobs and all(job.run is jobs[0].run for job in jobs):
                batches.append((position, jobs))
            else:
                batches += [(position, [job]) for job in jobs]
        try:
            trained = self._train_batches([jobs for _, jobs in batches])
        except Exception:  # find out whose it is
            for position, jobs in batches:
                replies[position] |= self._train_batch(jobs, rounds[position].failures)
        else:
            for (position, jobs), results in zip(batches, trained, strict=True):
                replies[position] |= {j.index: _reply(j, r) for j, r in zip(jobs, results, strict=True)}
        return [
            [found[i] for i in range(len(each.messages))] for found, each in zip(replies, rounds, strict=True)
        ]

    def _train_batches(self, batches: Sequence[list[_Job]]) -> list[list[personal.Result]]:
        """Train jobs of several runs, with one call of each engine."""
        by_engine: dict[int, list[int]] = {}
        for i, jobs in enumerate(batches):
            by_engine.setdefault(id(self.engine(jobs[0].run)), []).append(i)
        results: list[list[personal.Result]] = [[] for _ in batches]
        for members in by_engine.values():
            engine = self.engine(batches[members[0]][0].run)
            work = [(batches[i][0].run.local, [job.task for job in batches[i]]) for i in members]
            for i, trained in zip(members, personal.train_together(engine, work), strict=True):
                results[i] = trained
        return results

    def _train_batch(self, jobs: Sequence[_Job], failures: list[Failure]) -> dict[int, Message]:
        """Train jobs of one run together and return their replies by index."""
        run = jobs[0].run
        try:
            work = [(run.local, [job.task for job in jobs])]
            (trained,) = personal.train_together(self.engine(run), work)
        except Exception as error:
            if len(jobs) == 1:
                return {jobs[0].index: _failed(jobs[0].message, jobs[0].context, error, failures)}
            # One failing client must not hide the others: find it by training each alone.
            return {k: v for job in jobs for k, v in self._train_batch([job], failures).items()}
        return {job.index: _reply(job, result) for job, result in zip(jobs, trained, strict=True)}

    def engine(self, run: Run) -> Engine:
        """Return the engine of a run, cached for the next run."""
        key = run.engine, run.device
        if key not in self._engines:
            self._engines[key] = make_engine(*key)
        return self._engines[key]

    def _prepare(self, index: int, message: Message, context: Context, read: dict[int, _Broadcast]) -> _Job:
        """Read one message, and release its statistics at the broadcast model, before training."""
        content = message.content
        if id(content) not in read:
            read[id(content)] = self._read(only(ConfigRecord, content), only(ArrayRecord, content))
        broadcast = read[id(content)]
        run, client = broadcast.cohort.run, partition_id(context)
        if not (turn := broadcast.cohort.attendance.turn(client, broadcast.round)):  # it was not charged
            raise RejectedError(f"round {broadcast.round}: by its plan, this client does not take part")
        features, labels, groups = broadcast.cohort.tensors[client]
        asked = broadcast.instructions
        weights = example_weights(asked.get("group_weights"), groups, labels, run, features.dtype)
        scores = score_weights(asked.get("score_weights"), groups, run, features.dtype)
        task = Task(
            plan=run.clients[client],
            round=broadcast.round,
            parameters=broadcast.parameters,
            features_ND=features,
            labels_N=labels,
            proximal_mu=float(asked.get("proximal_mu", 0.0)),
            weights_N=weights,
            score_weights_N=scores,
            groups_N=groups,
            mechanism_state=mechanism_state(context.state, broadcast.round) if run.scales_gradients else None,
            update_clip=updates.clip(run, asked),
        )
        claim(context.state, broadcast.answered)
        answers = _answers(broadcast.cohort, task, groups, turn)
        return _Job(index, message, context, run, personal.task(run, context.state, task), answers)

    def _read(self, config: ConfigRecord, arrays: ArrayRecord) -> _Broadcast:
        """Read the two records of a message and compute their digest, by which a client recognises a repeat.

        Raises
        ------
        RejectedError
            If an instruction is unknown, or the run has no such round.
        """
        if unknown := sorted(set(config) - _INSTRUCTIONS):
            raise RejectedError(f"instruction {unknown[0]!r} is unknown to this client")
        text, round = str(config["run"]), int(config["server-round"])  # type: ignore[arg-type]
        cohort = self._cohort_of(text)
        if not 1 <= round <= cohort.run.rounds:
            raise RejectedError(f"round {round}: the run has rounds 1 to {cohort.run.rounds}")
        instructions = {name: value for name, value in config.items() if name != "run"}
        answered = answer(cohort.digest, round, instructions, arrays)
        return _Broadcast(cohort, round, wire.arrays(arrays), instructions, answered)

    def _cohort_of(self, text: str) -> _Cohort:
        """Return what the clients of a run share, computed once per run."""
        if text not in self._cohorts:
            run = self.read(text)
            records = self.records(run)
            if self._tensors is None or self._tensors[:2] != (records, run.precision):
                self._tensors = records, run.precision, _tensors(records, run.precision)
            features = records.table.features.shape[1]
            asked = run.statistics or run.calibration
            module = model.build(run.model, features, run.classes, run.precision) if asked else None
            digest = hashlib.sha256(text.encode()).hexdigest()
            while len(self._cohorts) >= MOST_RUNS:
                self._cohorts.pop(next(iter(self._cohorts)))
            self._cohorts[text] = _Cohort(text, digest, run, self._tensors[2], module, run.attendance)
        return self._cohorts[text]


@dataclass
class Round:
    """The messages of one run and round, the contexts of the addressed clients, and the clients' own log."""

    messages: Sequence[Message]
    contexts: Sequence[Context]
    failures: list[Failure]


@dataclass(eq=False)
class _Cohort:
    """What the clients of a run share: run, digest, records, a module for evaluation, who takes part."""

    text: str
    digest: str
    run: Run
    tensors: Tensors
    module: torch.nn.Module | None
    attendance: Attendance
    loaded: Any = None  # the parameters that are in the module


@dataclass(frozen=True)
class _Broadcast:
    """The content of a round's messages, read once for all clients that received the same records."""

    cohort: _Cohort
    round: int
    parameters: list[NDArray[np.floating]]
    instructions: dict[str, Any]
    answered: ConfigRecord  # stored by every client that replies to it


@dataclass(frozen=True)
class _Job:
    """One message, read: the training task and the statistics released before training."""

    index: int
    message: Message
    context: Context
    run: Run
    task: Task
    answers: mechanisms.Answers


def _failed(message: Message, context: Context, error: Exception, failures: list[Failure]) -> Message:
    """Log what a client raised, and return its reply."""
    if len(failures) < MOST_FAILURES:
        failures.append(Failure(partition_id(context), _round_of(message), error))
    code = MESSAGE_REJECTED if isinstance(error, RejectedError) else CLIENT_FAILED
    return Message(Error(code, REASONS[code]), reply_to=message)


def _reply(job: _Job, result: personal.Result) -> Message:
    """Record the releases in the client's ledger, and return the reply."""
    plan, round, trained = job.task.plan, job.task.round, result.trained
    released = [Release(plan.id, round, s.name, 1.0, s.noise_multiplier, 1) for s, _ in job.answers]
    sigma = plan.noise_multiplier
    released.append(Release(plan.id, round, DP_SGD, plan.sampling_rate, sigma, trained.steps))
    if job.run.unit == "client":  # all of them are one release
        released = [joint(job.run, plan, round, [s for s, _ in job.answers])]
    released += personal.released(job.task, result)
    if LEDGER not in job.context.state:
        released = [*chosen(job.run, plan), *released]
    own = personal.keep(job.context.state, job.task, result)
    if not entered(job.context.state, round):
        enter(job.context.state, released)
    parameters, bits = updates.sent(job.run, job.task, trained.parameters)
    metrics: dict[str, Any] = {"num-examples": plan.size, **bits}
    if trained.mechanism_state is not None:
        keep_mechanism_state(job.context.state, round, job.task.mechanism_state, trained.mechanism_state)
        metrics[BOUND] = trained.bound
    for statistic, estimate in job.answers:
        value = estimate.value
        value = value.ravel().tolist() if isinstance(value, np.ndarray) else value
        metrics |= {statistic.name: value, f"{statistic.name}.sd": estimate.sd}
    records: Any = {"arrays": wire.encoded(parameters), "metrics": MetricRecord(metrics)}
    records |= {LEDGER: job.context.state[LEDGER], **own}
    return Message(RecordDict(records), reply_to=job.message)


def _answers(cohort: _Cohort, task: Task, groups_N: torch.Tensor, turn: int) -> mechanisms.Answers:
    """Release every statistic that is due in this one of the client's rounds."""
    run, module = cohort.run, cohort.module
    due = run.due(task.round, turn)
    if not due or module is None:
        return []
    plan = task.plan
    if cohort.loaded is not task.parameters:
        model.put(module, task.parameters)
        cohort.loaded = task.parameters
    records = mechanisms.evaluate(
        module,
        task.features_ND,
        task.labels_N,
        groups_N,
        size=plan.size,
        groups=len(run.groups),
        classes=run.classes,
    )
    group = run.groups.index(plan.group) if plan.group and run.trust == "local" else None
    key = {"seed": run.noise_seed, "client": plan.id, "round": task.round}
    return [
        (statistic, mechanisms.release(statistic, records, group=group, index=index, **key))
        for index, statistic in due
    ]


def _round_of(message: Message) -> int:
    """Return the round of a message of any content; 0 if it does not say."""
    try:
        return int(only(ConfigRecord, message.content)["server-round"])  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        return 0


def _tensors(records: Records, precision: str) -> Tensors:
    """Return the records of every client as tensors."""
    return [
        (
            torch.from_numpy(records.table.features[rows]).to(model.DTYPES[precision]),
            torch.from_numpy(records.table.label[rows]),
            torch.from_numpy(records.groups.codes[rows]),
        )
        for rows in records.held
    ]


def only(kind: type[Record], content: RecordDict) -> Record:
    """Return the single record of a kind in a message.

    Raises
    ------
    ValueError
        If it has none of this kind, or several.
    """
    found = {name: record for name, record in content.items() if isinstance(record, kind)}
    if len(found) != 1:
        raise ValueError(f"{kind.__name__}s {list(found)} instead of one")
    return next(iter(found.values()))
