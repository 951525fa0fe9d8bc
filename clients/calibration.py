"""How a client answers the server's last message: with its residuals by group, noised and charged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedtoll.clients import model, wire
from fedtoll.clients.failures import RejectedError
from fedtoll.clients.noise import noised
from fedtoll.clients.state import LEDGER, answer, claim, enter, entered
from fedtoll.privacy.ledger import owed_after
from fedtoll.scenarios.calibration import GroupResidual
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.streams import Purpose, stream


def reply(cohort_of: Callable[[str], Any], message: Message, context: Context) -> Message:
    """Release the residuals of a client at the final model, once, and charge them.

    Parameters
    ----------
    cohort_of
        Returns what the clients of a run share, given the run as JSON.
    message
        The final model, the run as JSON (``run``), and the round after the last (``server-round``).
    context
        The client's.
    """
    config, arrays = message.content.config_records["config"], message.content.array_records["arrays"]
    cohort = cohort_of(str(config["run"]))
    run: Run = cohort.run
    round = run.rounds + 1
    if run.calibration is None or set(config) != {"run", "server-round"} or config["server-round"] != round:
        raise RejectedError("by its plan, the run is not calibrated now")
    client = int(context.node_config["partition-id"])
    plan, (features, labels, groups) = run.clients[client], cohort.tensors[client]
    claim(context.state, answer(cohort.digest, round, {"server-round": round}, arrays))
    cohort.loaded = None  # the module holds another model from here on
    model.put(cohort.module, wire.arrays(arrays))
    cohort.module.eval()
    with torch.no_grad():
        logits = cohort.module(features).double().squeeze(1).numpy()
    exact = residuals(logits, labels.numpy(), groups.numpy(), len(run.groups))
    group = run.groups.index(plan.group) if plan.group else None
    value, sd = release(exact if group is None else exact[group], run, client)
    if not entered(context.state, round):
        enter(context.state, owed_after(run, plan))
    name = GroupResidual.name
    metrics = MetricRecord({"num-examples": plan.size, name: value.ravel().tolist(), f"{name}.sd": sd})
    return Message(RecordDict({"metrics": metrics, LEDGER: context.state[LEDGER]}), reply_to=message)


def residuals(
    logits_N: NDArray[np.float64], labels_N: NDArray[np.int64], groups_N: NDArray[np.int64], groups: int
) -> NDArray[np.float64]:
    """Return Σ (y − p) and Σ p (1 − p) of every group, ``[groups, 2]``.

    A record whose logit is not finite counts as absent.
    """
    finite = np.isfinite(logits_N)
    p = 1 / (1 + np.exp(-np.clip(logits_N[finite], -500, 500)))
    of, y = groups_N[finite], labels_N[finite]
    sums = [np.bincount(of, weights=w, minlength=groups) for w in (y - p, p * (1 - p))]
    return np.stack(sums, axis=1)


def release(exact: NDArray[np.float64], run: Run, client: int) -> tuple[NDArray[np.float64], float]:
    """Return cells with N(0, z²) added to each, rounded as all releases are, and the noise's sd."""
    assert run.calibration is not None
    sd = run.calibration.noise_multiplier * GroupResidual().sensitivity()
    if sd == 0:
        return exact, 0.0
    rng = stream(run.noise_seed, Purpose.CALIBRATION, run.clients[client].id)
    normals = torch.from_numpy(rng.standard_normal((1, *exact.shape)))
    return noised(torch.from_numpy(exact[None]), normals, [sd])[0].numpy(), sd
