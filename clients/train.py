"""One handler for one client or for a whole cohort.

The Flower ``ClientApp`` calls :func:`train` with one message, the in-process
Grid with a round's. Every client gets and returns a Flower message of its
own; statistics, ledger and encoding are written once, here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

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

from fedtoll.clients import model, statistics
from fedtoll.clients.engines.base import Engine, Task
from fedtoll.clients.ledger import DP_SGD, Release
from fedtoll.scenarios.records import Records, records
from fedtoll.scenarios.run import NUMERICS, Run
from fedtoll.scenarios.statistics import Estimate

LEDGER = "fedtoll.ledger"
"""The record in which a client keeps, and reports, everything that it has released."""

CLIENT_FAILED = 1
"""Code of the error reply of a client that raised."""

_KNOWN = {"run", "server-round", "proximal_mu"}


def train(messages: Sequence[Message], contexts: Sequence[Context]) -> list[Message]:
    """Train every addressed client for one round and answer every message.

    A message carries the model in its one ``ArrayRecord`` and, in its ``ConfigRecord``, the run as
    JSON (``run``) and the round (``server-round``). A reply carries the new weights, the public
    size as ``num-examples``, the private statistics as ``<name>`` and ``<name>.sd``, and the client's
    ledger.

    A client that raises answers with an error; the others are not affected.
    """
    replies: dict[int, Message] = {}
    jobs: list[tuple[int, Run, Task, list[tuple[str, Estimate]]]] = []
    for i, (message, context) in enumerate(zip(messages, contexts, strict=True)):
        try:
            jobs.append((i, *_prepare(message, context)))
        except Exception as error:
            replies[i] = _failed(message, error)
    for batch in [jobs] if len({run.hash for _, run, _, _ in jobs}) == 1 else [[j] for j in jobs]:
        for i, reply in _train_batch(batch, messages, contexts):
            replies[i] = reply
    return [replies[i] for i in range(len(messages))]


def _train_batch(
    jobs: Sequence[tuple[int, Run, Task, list[tuple[str, Estimate]]]],
    messages: Sequence[Message],
    contexts: Sequence[Context],
) -> list[tuple[int, Message]]:
    run = jobs[0][1]
    try:
        trained = engine(run.engine).train(run, [task for _, _, task, _ in jobs])
    except Exception as error:
        if len(jobs) == 1:
            return [(jobs[0][0], _failed(messages[jobs[0][0]], error))]
        # One bad client must not hide the others: find it by training them apart.
        return [pair for job in jobs for pair in _train_batch([job], messages, contexts)]
    replies = []
    for (i, _, task, answers), result in zip(jobs, trained, strict=True):
        plan = task.plan
        released = [
            Release(plan.id, task.round, name, 1.0, s.noise_multiplier, 1)
            for s, (name, _) in zip(run.statistics, answers, strict=True)
        ]
        released.append(
            Release(plan.id, task.round, DP_SGD, plan.sampling_rate, plan.noise_multiplier, result.steps)
        )
        _enter(contexts[i].state, released)
        metrics: dict[str, float | int] = {"num-examples": plan.size}
        for name, estimate in answers:
            metrics |= {name: estimate.value, f"{name}.sd": estimate.sd}
        content = RecordDict(
            {
                "arrays": ArrayRecord(result.parameters),
                "metrics": MetricRecord(metrics),  # type: ignore[arg-type]
                LEDGER: contexts[i].state.config_records[LEDGER],
            }
        )
        replies.append((i, Message(content, reply_to=messages[i])))
    return replies


def roll_call(message: Message, context: Context) -> Message:
    """Say which client this node is and which fedtoll it runs."""
    from fedtoll import __version__

    content = ConfigRecord(
        {"partition-id": _partition_id(context), "fedtoll": __version__, "numerics": NUMERICS}
    )
    return Message(RecordDict({"roll-call": content}), reply_to=message)


@lru_cache(maxsize=8)
def engine(name: str) -> Engine:
    """Return an engine by name."""
    if name == "opacus":
        from fedtoll.clients.engines.opacus import OpacusEngine

        return OpacusEngine()
    raise ValueError(f"engine {name!r} is unknown")


def _prepare(message: Message, context: Context) -> tuple[Run, Task, list[tuple[str, Estimate]]]:
    """Read one message; answer its statistics at the broadcast model, before training."""
    (config,) = message.content.config_records.values()
    (arrays,) = message.content.array_records.values()
    if unknown := sorted(set(config) - _KNOWN):
        raise ValueError(f"instruction {unknown[0]!r} is unknown to this client")
    run = _run(str(config["run"]))
    round = int(config["server-round"])  # type: ignore[arg-type]
    index = _partition_id(context)
    plan = run.clients[index]
    features, labels = _tensors(records(run), index, run.precision)
    task = Task(
        plan=plan,
        round=round,
        parameters=arrays.to_numpy_ndarrays(),
        features_ND=features,
        labels_N=labels,
        proximal_mu=float(config.get("proximal_mu", 0.0)),  # type: ignore[arg-type]
    )
    answers = []
    if run.statistics:
        module = model.build(run.model, features.shape[1], run.classes, run.precision)
        model.put(module, task.parameters)
        for index, wanted in enumerate(run.statistics):
            estimate = statistics.release(
                wanted,
                module,
                features,
                labels,
                size=plan.size,
                seed=run.noise_seed,
                client=plan.id,
                round=round,
                index=index,
            )
            answers.append((wanted.name, estimate))
    return run, task, answers


def _partition_id(context: Context) -> int:
    return int(context.node_config["partition-id"])


@lru_cache(maxsize=16)
def _run(text: str) -> Run:
    return Run.from_json(text)


@lru_cache(maxsize=64)
def _tensors(held: Records, index: int, precision: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the features and labels of one client; converted once for all its rounds."""
    rows = held.held[index]
    features = torch.from_numpy(held.table.features[rows]).to(model.DTYPES[precision])
    return features, torch.from_numpy(held.table.label[rows])


def _enter(state: RecordDict, releases: Sequence[Release]) -> None:
    """Append to the ledger that the client keeps in its context."""
    kept = state.config_records.get(LEDGER)
    columns: dict[str, list[Any]] = (
        {k: list(v) for k, v in kept.items()}  # type: ignore[arg-type]
        if kept is not None
        else {"round": [], "what": [], "sampling_rate": [], "noise_multiplier": [], "count": []}
    )
    for release in releases:
        for column, values in columns.items():
            values.append(getattr(release, column))
    state.config_records[LEDGER] = ConfigRecord(columns)  # type: ignore[arg-type]


def releases_in(content: RecordDict, client: int) -> tuple[Release, ...]:
    """Read the ledger of a reply."""
    columns: Any = content.config_records[LEDGER]
    names = ("round", "what", "sampling_rate", "noise_multiplier", "count")
    return tuple(Release(client, *row) for row in zip(*(columns[n] for n in names), strict=True))


def _failed(message: Message, error: Exception) -> Message:
    logging.getLogger("fedtoll").debug("a client failed", exc_info=error)
    return Message(Error(CLIENT_FAILED, f"{type(error).__name__}: {error}"), reply_to=message)
