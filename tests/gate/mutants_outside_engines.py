"""Broken mechanisms outside the engines: records, statistics, the ledger and messages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from fedtoll.clients import mechanisms, roll_call, wire
from fedtoll.clients import state as client_state
from fedtoll.clients import train as clients
from fedtoll.clients.engines import gradients, opacus, sampling
from fedtoll.privacy import accounting, calibration_cache, constants, ledger
from fedtoll.privacy.ledger import DP_SGD, Ledger, Release
from fedtoll.scenarios import data
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.streams import stream
from fedtoll.server import strict
from fedtoll.server.strict import Strict
from tests.gate import tables
from tests.gate.mutants import engines, mutant
from tests.gate.system import ClientError


class Proxy:
    """A module with some functions replaced."""

    def __init__(self, module: Any, **replaced: Any) -> None:
        self._module, self._replaced = module, replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced[name] if name in self._replaced else getattr(self._module, name)


# Records.


def _standardised(x: np.ndarray) -> np.ndarray:
    return np.asarray((x - x.mean(0)) / (x.std(0) + 1e-6), dtype=x.dtype) if len(x) else x


@mutant("columns are centred and scaled by the records instead of the declared facts")
def scaler_fitted_on_records() -> list[Any]:
    original = data.encode

    def encode(frame: Any, source: Any) -> Any:
        table = original(frame, source)
        return replace(table, features=_standardised(table.features))

    return [patch.object(data, "encode", encode)]


@mutant("every client centres and scales columns by its own records")
def scaler_fitted_by_each_client() -> list[Any]:
    original = clients._tensors

    def tensors(held: Any, precision: str) -> Any:
        return [(torch.from_numpy(_standardised(x.numpy())), y, g) for x, y, g in original(held, precision)]

    return [patch.object(clients, "_tensors", tensors)]


@mutant("a record with a non-finite gradient ends the round", ends=(ClientError,))
def non_finite_record_aborts() -> list[Any]:
    def isfinite(x: torch.Tensor) -> torch.Tensor:
        if not (found := torch.isfinite(x)).all():
            raise ValueError("a gradient is not finite")
        return found

    return [patch.object(module, "torch", Proxy(torch, isfinite=isfinite)) for module in (gradients, opacus)]


@mutant("a non-finite gradient is added to the others")
def non_finite_gradient_is_added() -> list[Any]:
    proxy = Proxy(torch, isfinite=lambda x: torch.ones_like(x, dtype=torch.bool))
    return [patch.object(module, "torch", proxy) for module in (gradients, opacus)]


# Statistics.


@mutant("a non-finite loss is not clipped")
def non_finite_loss_is_added() -> list[Any]:
    return [patch.object(mechanisms, "np", Proxy(np, nan_to_num=lambda x, **_: x))]


@mutant("statistics are released without noise")
def statistic_without_noise() -> list[Any]:
    class Silent:
        def standard_normal(self, shape: Any) -> Any:
            return np.zeros(shape)

    return [patch.object(mechanisms, "stream", lambda *key: Silent())]


@mutant("the noise of statistics is nine tenths of what is charged")
def statistic_noise_times_nine_tenths() -> list[Any]:
    original = stream

    class Less:
        def __init__(self, *key: Any) -> None:
            self.rng = original(*key)

        def standard_normal(self, shape: Any) -> Any:
            return 0.9 * self.rng.standard_normal(shape)

    return [patch.object(mechanisms, "stream", Less)]


@mutant("two clients use the same noise for their statistics")
def same_statistic_noise_for_two_clients() -> list[Any]:
    original = mechanisms.release

    def release(*args: Any, client: int, **key: Any) -> Any:
        return original(*args, client=client // 2, **key)

    return [patch.object(mechanisms, "release", release)]


@mutant("a mean is divided by the number of records, but its sensitivity by the public size")
def statistic_over_records() -> list[Any]:
    def mean_loss(held: Any, losses_N: Any, clip: float) -> float:
        return float(losses_N.sum()) / max(1, len(losses_N))

    def error_rate(held: Any, losses_N: Any, clip: float) -> float:
        return float((held.predicted_N != held.labels_N).sum()) / max(1, len(losses_N))

    return [patch.dict(mechanisms._VALUES, {"mean_loss": mean_loss, "error_rate": error_rate})]


@mutant("losses enter statistics unclipped")
def statistic_without_a_clip() -> list[Any]:
    losses = {n: f for n, f in mechanisms._VALUES.items() if n.endswith("loss")}
    return [
        patch.dict(
            mechanisms._VALUES,
            {n: lambda held, _, clip, f=f: f(held, held.losses_N, clip) for n, f in losses.items()},
        )
    ]


@mutant("a record adds its number to the sums of probabilities, as if the pair had a norm of 1")
def scores_with_a_count() -> list[Any]:
    def group_score(held: Any, losses_N: Any, clip: float) -> Any:
        value = score(held, losses_N, clip)
        value[:, 0] = np.bincount(held.groups_N, minlength=held.groups)
        return value

    score = mechanisms._VALUES["group_score"]
    return [patch.dict(mechanisms._VALUES, {"group_score": group_score})]


@mutant("the log-odds of a record enter the sums of scores in place of its probabilities")
def scores_without_a_bound() -> list[Any]:
    def group_score(held: Any, losses_N: Any, clip: float) -> Any:
        p_NC = held.scores_NC.clip(1e-9, 1 - 1e-9)
        return score(replace(held, scores_NC=np.log(p_NC / (1 - p_NC))), losses_N, clip)

    score = mechanisms._VALUES["group_score"]
    return [patch.dict(mechanisms._VALUES, {"group_score": group_score})]


# The ledger.


def no_memory() -> list[Any]:
    """Disable the cache of calibrations, so that it holds none of a broken accountant."""
    return [
        patch.object(calibration_cache, "recall", lambda key: None),
        patch.object(calibration_cache, "remember", lambda key, sigma: None),
    ]


def recorded(change: Any) -> list[Any]:
    """Patch the releases that client and server enter in their ledgers, so that the two agree."""
    owed, enter = ledger.owed, client_state.enter

    def owes(*args: Any) -> tuple[Release, ...]:
        return tuple(change(owed(*args)))

    def enters(state: Any, releases: Any) -> None:
        enter(state, list(change(releases)))

    return [patch.object(strict, "owed", owes), patch.object(clients, "enter", enters)]


@mutant("a client's ledger starts again in each round")
def ledger_reset_each_round() -> list[Any]:
    original = Ledger.charge

    def charge(self: Ledger, releases: Any) -> None:
        releases = list(releases)
        for release in releases:
            if release.round > max((r.round for r in self.releases_of(release.client)), default=0):
                self._counts[release.client] = {}
        original(self, releases)

    return [patch.object(Ledger, "charge", charge)]


@mutant("the noise is calibrated for one round")
def calibrated_for_one_round() -> list[Any]:
    original = constants.client_of

    def client(scenario: Any, *rest: Any) -> Any:
        training = scenario.training.model_copy(update={"rounds": 1})
        return original(scenario.model_copy(update={"training": training}), *rest)

    return [patch.object(constants, "client_of", client)]


@mutant("amplification by a secret sample of half the cohort is claimed, but the server sees who takes part")
def amplification_for_visible_sampling() -> list[Any]:
    original = accounting.epsilon

    def epsilon(events: Any, *rest: Any) -> float:
        return original([replace(e, sampling_rate=e.sampling_rate / 2) for e in events], *rest)

    return [patch.object(owner, "epsilon", epsilon) for owner in (accounting, ledger)] + no_memory()


@mutant("all steps of a round are charged as one step")
def steps_charged_once() -> list[Any]:
    return recorded(lambda rows: [replace(r, count=1) for r in rows])


@mutant("statistics are released but not charged")
def statistic_not_charged() -> list[Any]:
    return recorded(lambda rows: [r for r in rows if r.what == DP_SGD])


@mutant("a step with an empty batch is not charged")
def empty_batches_not_charged() -> list[Any]:
    return engines(steps=lambda run, task: sum(len(rows) > 0 for rows in sampling.batches(run, task)))


@mutant("a release is charged when the reply arrives instead of when it is requested")
def charged_on_arrival() -> list[Any]:
    owed, check = ledger.owed, Strict._check

    def checks(self: Strict, client: int, message: Any, reply: Any) -> None:
        self.ledger.charge(owed(self._plan, self._clients[client], strict._round(message)))
        check(self, client, message, reply)

    return [patch.object(strict, "owed", lambda *_: ()), patch.object(Strict, "_check", checks)]


# Messages.


def _replies(change: Any) -> list[Any]:
    original = clients._reply

    def reply(job: Any, trained: Any) -> Any:
        message = original(job, trained)
        (metrics,) = message.content.metric_records.values()
        change(metrics, job, trained)
        return message

    return [patch.object(clients, "_reply", reply)]


@mutant("a client also sends an exact count of its records, and the server accepts it")
def extra_number() -> list[Any]:
    def count(metrics: Any, job: Any, trained: Any) -> None:
        metrics["positives"] = int(job.task.labels_N.sum())

    metrics = Strict._metrics

    def lenient(self: Strict, client: int, round: int) -> Any:
        public, cells = metrics(self, client, round)
        return public, {**cells, "positives": ()}

    return [*_replies(count), patch.object(Strict, "_metrics", lenient)]


def _messages(change: Any) -> list[Any]:
    original = clients._reply

    def reply(job: Any, trained: Any) -> Any:
        message = original(job, trained)
        change(message.content, job)
        return message

    return [patch.object(clients, "_reply", reply)]


@mutant("labels are appended to the bytes of an array, where np.load does not read")
def bytes_after_an_array() -> list[Any]:
    def append(content: Any, job: Any) -> None:
        array = next(iter(content["arrays"].values()))
        array.data += np.asarray(job.task.labels_N, dtype=np.int64).tobytes()

    return [*_messages(append), patch.object(wire, "decoded", lambda array, *_: array.numpy())]


@mutant("the name of a record contains a count of the client's records")
def number_in_a_name() -> list[Any]:
    def rename(content: Any, job: Any) -> None:
        content[f"metrics-{int(job.task.labels_N.sum())}"] = content.pop("metrics")

    return [*_messages(rename), patch.object(strict, "_check_names", lambda content: None)]


@mutant("the version in a client's roll call ends in its number of records")
def number_in_the_roll_call() -> list[Any]:
    original, called = roll_call.roll_call, strict._called

    def answers(message: Any, context: Any) -> Any:
        reply = original(message, context)
        answer: Any = reply.content["roll-call"]
        answer["fedtoll"] += f"+{tables.HELD[roll_call.partition_id(context)]}"
        return reply

    def lenient(content: Any) -> Any:
        index, version, numerics = called(content)
        return index, version.partition("+")[0], numerics

    return [patch.object(roll_call, "roll_call", answers), patch.object(strict, "_called", lenient)]


@mutant("a round is answered again for another model, with the same noise")
def round_answered_twice() -> list[Any]:
    return [patch.object(clients, "claim", lambda *_: None)]


@mutant("a client sends its number of records instead of its public size")
def number_of_records_as_size() -> list[Any]:
    return _replies(lambda metrics, job, trained: metrics.update({"num-examples": len(job.task.labels_N)}))


@mutant("statistics are released every round but charged every other round")
def statistics_between_their_rounds() -> list[Any]:
    original, metrics = clients._answers, Strict._metrics

    def often(run: Run) -> Run:
        return run.model_copy(
            update={"statistics": tuple(s.model_copy(update={"every": 1}) for s in run.statistics)}
        )

    def answers(cohort: Any, task: Any, groups: Any, turn: int) -> Any:
        return original(replace(cohort, run=often(cohort.run)), task, groups, turn)

    def enter(state: Any, releases: Any, original: Any = client_state.enter) -> None:
        original(state, [r for r in releases if r.what == DP_SGD or r.round % 2])

    def lenient(self: Strict, client: int, round: int) -> Any:
        return metrics(self, client, 1)

    return [
        patch.object(clients, "_answers", answers),
        patch.object(clients, "enter", enter),
        patch.object(Strict, "_metrics", lenient),
    ]
