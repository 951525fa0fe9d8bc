"""The server's side of a calibration: ask every client once, after the last round, and derive offsets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message_type import MessageType
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedtoll.clients import state as client_state
from fedtoll.clients import wire
from fedtoll.privacy.ledger import owed_after
from fedtoll.scenarios.calibration import CalibrationPlan, GroupResidual
from fedtoll.scenarios.errors import DivergedError, NotFiniteError, RunError, ScenarioError, one_line
from fedtoll.scenarios.run import ClientPlan, Run
from fedtoll.scenarios.scenario import Scenario
from fedtoll.server.strict import Strict

RECORDS = {"metrics", client_state.LEDGER}
"""The records of a reply."""


@dataclass(frozen=True)
class Offsets:
    """What is added to the logits of every group, and the standard deviation of the noise in it."""

    values: NDArray[np.float64]
    sds: NDArray[np.float64]


def check(scenario: Scenario, classes: int) -> None:
    """Raise ``ScenarioError`` in one line if the labels have more than two classes."""
    if scenario.calibration is not None and classes > 2:
        raise ScenarioError(f"calibration: needs two classes, not {classes}: it moves a single logit")


def planned(scenario: Scenario, private: bool) -> CalibrationPlan | None:
    """Return the release of a run, with noise if the run is private; ``None`` without one."""
    stated = scenario.calibration
    if stated is None:
        return None
    return CalibrationPlan(noise_multiplier=stated.noise_multiplier if private else 0.0, prior=stated.prior)


def calibrate(grid: Grid, strict: Strict, run: Run, model: Sequence[NDArray[Any]], timeout: float) -> Offsets:
    """Ask every client for its residuals at the final model, and return each group's offset.

    Parameters
    ----------
    grid, strict
        The Grid of the run, and its wrapper, which knows the nodes and has the ledger.
    run, model
        The run, and the model that is evaluated.
    timeout
        Seconds to wait for replies.

    Raises
    ------
    RunError
        In one line with the client, if a reply is missing, failed, malformed or not finite, or if its ledger
        differs.
    """
    config = ConfigRecord({"run": run.to_json(), "server-round": run.rounds + 1})
    content = RecordDict({"arrays": wire.encoded(list(model)), "config": config})
    for client in run.clients:  # before anything is sent
        strict.ledger.charge(owed_after(run, client))
    nodes = [strict.node_of[client.id] for client in run.clients]
    sent = [Message(content, node, MessageType.EVALUATE) for node in nodes]
    replies: dict[int, Message] = {}
    for reply in grid.send_and_receive(sent, timeout=timeout):
        if (node := reply.metadata.src_node_id) in replies or node not in strict.client_of:
            raise RunError(f"calibration: received a second reply, or one of another node, from node {node}")
        replies[node] = reply
    released = []
    for client, node in zip(run.clients, nodes, strict=True):
        where = f"calibration, client {client.id}"
        if node not in replies:
            raise RunError(f"{where}: the reply is missing")
        released.append(_read(run, client, replies[node], strict, where))
    return offsets(run, released)


def _read(run: Run, client: ClientPlan, reply: Message, strict: Strict, where: str) -> NDArray[np.float64]:
    """Return a client's cells of all groups, not a number where it releases none."""
    from fedtoll.clients.failures import REASONS

    if reply.has_error():
        raise RunError(f"{where}: {REASONS.get(reply.error.code, 'the client failed')}")
    name, shape = GroupResidual.name, GroupResidual().shape(len(run.groups))
    assert run.calibration is not None
    try:
        content = reply.content
        if set(content) != RECORDS:
            raise ValueError(f"records {sorted(content)} instead of {sorted(RECORDS)}")
        metrics: Mapping[str, Any] = content.metric_records["metrics"]
        assert isinstance(metrics, MetricRecord)
        due = {"num-examples": client.size, f"{name}.sd": run.calibration.noise_multiplier}
        if set(metrics) != {*due, name} or any(metrics[key] != value for key, value in due.items()):
            raise ValueError(f"metrics {sorted(metrics)} instead of {sorted({*due, name})}, or other values")
        cells = np.full(shape, math.nan)
        mine: Any = run.groups.index(client.group) if client.group else slice(None)
        cells[mine] = np.reshape(np.asarray(metrics[name], dtype=np.float64), cells[mine].shape)
        if not np.isfinite(cells[mine]).all():
            raise NotFiniteError(f"{name} is not finite")
        if dict(content.config_records[client_state.LEDGER]) != strict.ledger.columns(client.id):
            raise ValueError("its ledger differs from the server's")
    except NotFiniteError as error:
        raise DivergedError(f"{where}: the reply is malformed: {error}") from None
    except (KeyError, ValueError, TypeError) as error:
        raise RunError(f"{where}: the reply is malformed: {one_line(str(error))}") from None
    return cells


def offsets(run: Run, released: Sequence[NDArray[np.float64]]) -> Offsets:
    """Return each group's offset from the clients' releases, ``[groups, 2]`` each.

    S_g and H_g are the sums of the released residuals and curvatures, and s² = z² · (number of clients that
    release the group's cells) the variance of their noise. Without noise the offset is one Newton step,
    b_g = S_g / H_g. With noise it is the posterior mean of b_g under S_g = H_g b_g + N(0, s²) and
    b_g ~ N(0, τ²), with H_g, at least 0, taken as known: b_g = H_g S_g / (H_g² + s² / τ²). Derived here.

    Examples
    --------
    A group with curvature 100 and residual 20, whose noise has the sd 20, at τ = 0.5:

    >>> 100 * 20 / (100**2 + 20**2 / 0.5**2)
    0.1724137931034483
    """
    assert run.calibration is not None
    cells_KG2 = np.stack(released)
    known_KG = np.isfinite(cells_KG2[:, :, 0])
    S, H = np.nansum(cells_KG2, axis=0).T
    H = np.maximum(H, 0.0)
    variance = run.calibration.noise_multiplier**2 * known_KG.sum(axis=0)
    below = H**2 + variance / run.calibration.prior**2
    factor = np.divide(H, below, out=np.zeros_like(H), where=below > 0)
    return Offsets(factor * S, factor * np.sqrt(variance))
