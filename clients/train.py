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
from numpy.typing import NDArray

from fedtoll.clients import mechanisms, model, wire
from fedtoll.clients.engines import make_engine
from fedtoll.clients.engines.base import Engine, Task, Trained
from fedtoll.clients.failures import (
    CLIENT_FAILED,
    MESSAGE_REJECTED,
    MOST_FAILURES,
    REASONS,
    Failure,
    RejectedError,
)
from fedtoll.privacy.ledger import COLUMNS, DP_SGD, Release, chosen
from fedtoll.scenarios.federation import Federation, Records
from fedtoll.scenarios.run import NUMERICS, Run, StatisticPlan
from fedtoll.scenarios.statistics import Estimate

LEDGER = "fedtoll.ledger"
"""The name of the record in which a client stores and reports all of its releases."""

ANSWERED = "fedtoll.answered"
"""The name of the record in which a client stores the run, round and broadcast of its last reply."""

Record = TypeVar("Record")

_INSTRUCTIONS = {"run", "server-round", "proximal_mu", "group_weights"}


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
        self._cohort: _Cohort | None = None
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
        cells) and ``<name>.sd``, and the client's ledger.

        Batches and noise are functions of (run, client, round, step). A client therefore replies once per
        round. If the same broadcast arrives again, bit for bit, it sends the same reply and charges nothing.

        A client that raises replies with a constant error (:data:`fedtoll.clients.failures.REASONS`) and does
        not affect the others.
        """
        replies: dict[int, Message] = {}
        jobs: list[_Job] = []
        read: dict[tuple[int, int], _Broadcast] = {}  # the messages of a round share their two records
        for i, (message, context) in enumerate(zip(messages, contexts, strict=True)):
            try:
                jobs.append(self._prepare(i, message, context, read))
            except Exception as error:
                replies[i] = self._failed(message, context, error)
        together = all(job.run is jobs[0].run for job in jobs)
        for batch in [jobs] if jobs and together else [[job] for job in jobs]:
            replies |= self._train_batch(batch)
        return [replies[i] for i in range(len(messages))]

    def _train_batch(self, jobs: Sequence[_Job]) -> dict[int, Message]:
        """Train jobs of one run together and return their replies by index."""
        run = jobs[0].run
        try:
            trained = self.engine(run).train(run, [job.task for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                return {jobs[0].index: self._failed(jobs[0].message, jobs[0].context, error)}
            # One failing client must not hide the others: find it by training each alone.
            return {k: v for job in jobs for k, v in self._train_batch([job]).items()}
        return {job.index: _reply(job, result) for job, result in zip(jobs, trained, strict=True)}

    def _failed(self, message: Message, context: Context, error: Exception) -> Message:
        """Log what a client raised, and return its reply."""
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(Failure(_partition_id(context), _round_of(message), error))
        code = MESSAGE_REJECTED if isinstance(error, RejectedError) else CLIENT_FAILED
        return Message(Error(code, REASONS[code]), reply_to=message)

    def engine(self, run: Run) -> Engine:
        """Return the engine of a run, cached for the next run."""
        key = run.engine, run.device
        if key not in self._engines:
            self._engines[key] = make_engine(*key)
        return self._engines[key]

    def _prepare(
        self, index: int, message: Message, context: Context, read: dict[tuple[int, int], _Broadcast]
    ) -> _Job:
        """Read one message, and release its statistics at the broadcast model, before training."""
        config, arrays = only(ConfigRecord, message.content), only(ArrayRecord, message.content)
        key = id(config), id(arrays)
        if key not in read:
            read[key] = self._read(config, arrays)
        broadcast = read[key]
        run, client = broadcast.cohort.run, _partition_id(context)
        features, labels, groups = broadcast.cohort.tensors[client]
        weights = _example_weights(broadcast.instructions.get("group_weights"), groups, run, features.dtype)
        task = Task(
            plan=run.clients[client],
            round=broadcast.round,
            parameters=broadcast.parameters,
            features_ND=features,
            labels_N=labels,
            proximal_mu=float(broadcast.instructions.get("proximal_mu", 0.0)),
            weights_N=weights,
        )
        _claim(context.state, broadcast.answered)
        return _Job(index, message, context, run, task, _answers(broadcast.cohort, task, groups))

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
        digest = hashlib.sha256(repr(sorted(instructions.items())).encode())
        for name, array in arrays.items():
            digest.update(
                repr((name, array.dtype, tuple(array.shape), array.stype, len(array.data))).encode()
            )
            digest.update(array.data)
        answered = ConfigRecord({"run": cohort.digest, "round": round, "broadcast": digest.hexdigest()})
        return _Broadcast(cohort, round, arrays.to_numpy_ndarrays(), instructions, answered)

    def _cohort_of(self, text: str) -> _Cohort:
        """Return what the clients of a run share, computed once per run."""
        if self._cohort is None or self._cohort.text != text:
            run = self.read(text)
            records = self.records(run)
            if self._tensors is None or self._tensors[:2] != (records, run.precision):
                self._tensors = records, run.precision, _tensors(records, run.precision)
            features = records.table.features.shape[1]
            module = model.build(run.model, features, run.classes, run.precision) if run.statistics else None
            digest = hashlib.sha256(text.encode()).hexdigest()
            self._cohort = _Cohort(text, digest, run, self._tensors[2], module)
        return self._cohort


@dataclass(frozen=True, eq=False)
class _Cohort:
    """What the clients of a run share: the run, its digest, their records and a module for evaluation."""

    text: str
    digest: str
    run: Run
    tensors: Tensors
    module: torch.nn.Module | None


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
    answers: list[tuple[StatisticPlan, Estimate]]


def _reply(job: _Job, trained: Trained) -> Message:
    """Record the releases in the client's ledger, and return the reply."""
    plan, round = job.task.plan, job.task.round
    released = [Release(plan.id, round, s.name, 1.0, s.noise_multiplier, 1) for s, _ in job.answers]
    released.append(Release(plan.id, round, DP_SGD, plan.sampling_rate, plan.noise_multiplier, trained.steps))
    if LEDGER not in job.context.state:
        released = [*chosen(job.run, plan), *released]
    if not _entered(job.context.state, round):
        _enter(job.context.state, released)
    metrics: dict[str, Any] = {"num-examples": plan.size}
    for statistic, estimate in job.answers:
        value = estimate.value
        value = value.ravel().tolist() if isinstance(value, np.ndarray) else value
        metrics |= {statistic.name: value, f"{statistic.name}.sd": estimate.sd}
    content = RecordDict(
        {
            "arrays": wire.encoded(trained.parameters),
            "metrics": MetricRecord(metrics),
            LEDGER: job.context.state[LEDGER],
        }
    )
    return Message(content, reply_to=job.message)


def roll_call(message: Message, context: Context) -> Message:
    """Reply with the client of this node and its version of fedtoll."""
    from fedtoll import __version__

    content = ConfigRecord(
        {"partition-id": _partition_id(context), "fedtoll": __version__, "numerics": NUMERICS}
    )
    return Message(RecordDict({"roll-call": content}), reply_to=message)


def _claim(state: RecordDict, answered: ConfigRecord) -> None:
    """Store which broadcast of a round is answered, before anything is drawn.

    Raises
    ------
    RejectedError
        If the round would use its batches and noise twice: it precedes the last round, or it is the last
        round with another model or other instructions. Also if it belongs to another run.
    """
    new: Any = answered
    last: Any = state.get(ANSWERED, new)
    round = new["round"]
    if last["run"] != new["run"]:
        raise RejectedError(
            f"round {round} belongs to another run than round {last['round']}, already answered"
        )
    if round < last["round"]:
        raise RejectedError(f"round {round} arrived after round {last['round']} was answered")
    if round == last["round"] and last["broadcast"] != new["broadcast"]:
        raise RejectedError(f"round {round} was already answered, to another broadcast")
    state[ANSWERED] = answered


def _example_weights(
    group_weights: Any, groups_N: torch.Tensor, run: Run, dtype: torch.dtype
) -> torch.Tensor | None:
    """Return the weight of every record: that of its group."""
    if group_weights is None:
        return None
    weights_G = torch.tensor(group_weights, dtype=dtype)
    if weights_G.shape != (len(run.groups),) or not ((weights_G >= 0) & weights_G.isfinite()).all():
        raise RejectedError(
            f"group_weights {group_weights}: not {len(run.groups)} finite numbers of 0 or more"
        )
    return weights_G[groups_N]


def _answers(cohort: _Cohort, task: Task, groups_N: torch.Tensor) -> list[tuple[StatisticPlan, Estimate]]:
    """Release every statistic that is due."""
    run, module = cohort.run, cohort.module
    due = [(i, statistic) for i, statistic in enumerate(run.statistics) if statistic.due(task.round)]
    if not due or module is None:
        return []
    plan = task.plan
    model.put(module, task.parameters)
    records = mechanisms.evaluate(
        module,
        task.features_ND,
        task.labels_N,
        groups_N,
        size=plan.size,
        groups=len(run.groups),
        classes=run.classes,
    )
    group = run.groups.index(plan.group) if plan.group else None
    key = {"seed": run.noise_seed, "client": plan.id, "round": task.round}
    return [
        (statistic, mechanisms.release(statistic, records, group=group, index=index, **key))
        for index, statistic in due
    ]


def _partition_id(context: Context) -> int:
    return int(context.node_config["partition-id"])


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


def _entered(state: RecordDict, round: int) -> bool:
    """Return whether the ledger already has this round, as when a message is repeated."""
    ledger: Any = state.get(LEDGER, {})
    return bool(ledger) and ledger["round"][-1] == round


def _enter(state: RecordDict, releases: Sequence[Release]) -> None:
    """Append releases to the ledger in the client's context, in place because it grows with every round."""
    if LEDGER not in state:
        first = releases[0]
        state.config_records[LEDGER] = ConfigRecord({column: [getattr(first, column)] for column in COLUMNS})
        releases = releases[1:]
    ledger: Any = state[LEDGER]
    for release in releases:
        for column in COLUMNS:
            ledger[column].append(getattr(release, column))


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


def releases_in(content: RecordDict, client: int) -> tuple[Release, ...]:
    """Return the releases in a reply's ledger."""
    columns: Any = content[LEDGER]
    return tuple(Release(client, *row) for row in zip(*(columns[c] for c in COLUMNS), strict=True))
