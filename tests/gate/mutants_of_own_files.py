"""Mechanisms that are broken only on a node with a file of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import Error, Message

from fedtoll.clients import node
from fedtoll.clients import train as clients
from fedtoll.clients.clipping import steps
from fedtoll.clients.failures import CLIENT_FAILED
from fedtoll.clients.node import Node
from fedtoll.privacy.ledger import Ledger, owed
from fedtoll.scenarios import holder
from fedtoll.scenarios.federation import Records
from fedtoll.scenarios.run import Run
from tests.gate.mutants import mutant

NODES = ("opacus",)
"""The engine of clients that are processes of their own."""


def _with_own_size(change: Any) -> list[Any]:
    """Change the plan of a node's client, given how many records its file has."""
    prepare = Node._prepare

    def changed(self: Any, *arguments: Any) -> Any:
        job = prepare(self, *arguments)
        held = len(job.task.labels_N)
        return replace(
            job, task=replace(job.task, plan=job.task.plan.model_copy(update=change(job.task.plan, held)))
        )

    return [patch.object(Node, "_prepare", changed)]


@mutant("a node normalises by the number of records in its file", NODES)
def batch_of_the_own_file() -> list[Any]:
    return _with_own_size(lambda plan, held: {"batch_size": plan.sampling_rate * held})


@mutant("a node samples with the rate that gives the declared batch from its file", NODES)
def rate_of_the_own_file() -> list[Any]:
    return _with_own_size(lambda plan, held: {"sampling_rate": min(1.0, plan.batch_size / held)})


@mutant("a node says how many records its file has", NODES)
def the_own_size_is_sent() -> list[Any]:
    return _with_own_size(lambda plan, held: {"size": held})


@mutant("a node with secret noise adds nine tenths of it", NODES)
def less_secret_noise() -> list[Any]:
    prepare = Node._prepare

    def changed(self: Any, *arguments: Any) -> Any:
        job = prepare(self, *arguments)
        less = job.task.plan.noise_multiplier * (0.9 if self._decided.secret is not None else 1.0)
        return replace(
            job, task=replace(job.task, plan=job.task.plan.model_copy(update={"noise_multiplier": less}))
        )

    return [patch.object(Node, "_prepare", changed)]


def _secret(bits: Any) -> list[Any]:
    def secret(context: Any) -> int:
        found: int = bits(context)
        return found

    return [patch.object(node, "_secret", secret)]


@mutant("the secret of a node is its number", NODES)
def the_secret_is_known() -> list[Any]:
    return _secret(lambda context: int(context.node_config["partition-id"]))


@mutant("a node keeps its secret for all Flower runs", NODES)
def one_secret_for_ever() -> list[Any]:
    kept: dict[Any, int] = {}
    draw = np.random.default_rng()
    return _secret(lambda c: kept.setdefault(c.node_config["partition-id"], int(draw.integers(2**62))))


@mutant("a node draws a new secret for every message, so that a repeated broadcast is a new release", NODES)
def a_secret_for_every_message() -> list[Any]:
    draw = np.random.default_rng()
    return _secret(lambda context: int(draw.integers(2**62)))


def _spends(count: Any) -> list[Any]:
    """Let the limit count other releases than the plan has."""

    def spends(run: Run, client: int, delta: float) -> float:
        if run.mechanism != "dp-sgd":
            return float("inf")
        counted = count(run.model_copy(update={"delta": delta}))
        ledger, plan = Ledger.of(counted), counted.clients[client]
        for round in range(1, counted.rounds + 1):
            ledger.charge(owed(counted, plan, round))
        return ledger.epsilon(plan.id)

    return [patch.object(node, "_spends", spends)]


@mutant("the limit of a node does not count statistics", NODES)
def the_limit_forgets_statistics() -> list[Any]:
    return _spends(lambda run: run.model_copy(update={"statistics": ()}))


@mutant("the limit of a node counts one step a round", NODES)
def the_limit_counts_one_step() -> list[Any]:
    def single(run: Run) -> Run:
        plans = tuple(c.model_copy(update={"steps": 1}) for c in run.clients)
        return run.model_copy(update={"clients": plans})

    return _spends(single)


@mutant("a node believes the ε that the plan states", NODES)
def the_limit_believes_the_plan() -> list[Any]:
    return [patch.object(node, "_spends", lambda run, client, delta: run.epsilon)]


@mutant("a node computes what a run spends at the δ that the plan states", NODES)
def the_limit_believes_the_delta() -> list[Any]:
    spends = node._spends
    return [patch.object(node, "_spends", lambda run, client, delta: spends(run, client, run.delta))]


@mutant("the counts of a mechanism go out without noise if the plan gives them no share of it", NODES)
def counts_without_a_share() -> list[Any]:
    return [patch.object(steps, "check_noise", lambda run, sd, cells: None)]


@mutant("a node that cannot read its file says why", NODES)
def the_error_quotes_the_file() -> list[Any]:
    def failed(message: Any, context: Any, error: Exception, failures: Any) -> Message:
        return Message(Error(CLIENT_FAILED, str(error)), reply_to=message)

    return [patch.object(clients, "_failed", failed)]


@mutant("a node scales its columns by the largest value in its file", NODES)
def the_own_file_decides_the_scale() -> list[Any]:
    read = holder.read

    def scaled(*arguments: Any, **options: Any) -> Records:
        found = read(*arguments, **options)
        features = found.table.features / np.maximum(np.abs(found.table.features).max(axis=0), 1e-9)
        return replace(
            found, table=replace(found.table, features=features.astype(found.table.features.dtype))
        )

    return [patch.object(holder, "read", scaled)]
