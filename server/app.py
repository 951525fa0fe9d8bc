"""The Flower ``ServerApp``: drives one run over any Grid."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from fedtoll.clients import model, public_model
from fedtoll.clients.clipping import registry as clipping
from fedtoll.scenarios.errors import DivergedError, RunError, ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.foreign import contained, end_if_forked
from fedtoll.scenarios.run import Run
from fedtoll.server import adapter, tables
from fedtoll.server.calibration import calibrate
from fedtoll.server.evaluate import HeldOut
from fedtoll.server.personal import OwnModels
from fedtoll.server.strict import Strict
from fedtoll.server.tables import Tables
from fedtoll.strategies import registry

Look = Callable[[int, tuple[NDArray[Any], ...]], None]
"""Called after every round with its number (0 for the initial model) and the evaluated model."""

TIMEOUT = 3600.0
"""Seconds that a round waits for replies, unless the scenario sets ``training.timeout``."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train the run that the run configuration describes, and store it under ``out``."""
    from fedtoll.server import plan, store

    out = str(context.run_config.get("out", ""))
    if out and not Path(out).is_absolute():
        raise ScenarioError(f"out = {out!r}: must be an absolute path, because Flower runs a copy of the app")
    planned = plan.from_config(context.run_config)
    (run,) = planned.runs
    with contained():
        stored = federate(grid, run, federation=planned.federation)
    if out:
        store.Store(Path(out)).write(run, stored)
    last = stored["groups"].query(f"round == {run.rounds}").drop(columns="round")
    print(f"{run.label}\n{last.to_string(index=False)}")  # noqa: T201  (what `flwr run` shows)


def federate(grid: Grid, run: Run, look: Look | None = None, federation: Federation | None = None) -> Tables:
    """Train one run over a Grid, and measure the model of every round on every group's held-out records.

    Parameters
    ----------
    grid
        The in-process Grid, Flower's simulation or a SuperLink's Grid.
    run
        The run to train.
    look
        Receives the model of every round. For audits; strategies cannot reach it.
    federation
        The records, for held-out evaluation; resolved from the run if not given.

    Returns
    -------
    Tables
        ``groups`` (one row per round and group), ``clients`` and ``ledger`` (per round and client),
        ``rounds``, and, if the run stores them, ``predictions`` (the final score of every held-out record).
        They contain no clock times.

    Raises
    ------
    RunError
        In one line with the round and client, if a reply is missing, failed, malformed or not finite. If
        the run skips such replies, only when no reply of a round is left.
    """
    federation = Federation.of(run, like=federation)
    held_out = HeldOut(run, federation)
    groups: list[dict[str, Any]] = []
    final: dict[str, Any] = {}
    own: OwnModels = {}

    def measure(round: int, current: tuple[NDArray[Any], ...]) -> None:
        probabilities = held_out.probabilities(current, own)
        if np.isnan(probabilities).any():
            raise DivergedError(
                f"round {round}: {run.strategy.name} returned a model whose scores are not finite"
            )
        groups.extend({"round": round, **row} for row in held_out.measure(probabilities))
        final.update(probabilities=probabilities, model=current)
        if look is not None:
            look(round, current)

    strict, history = fit(grid, run, measure, federation, own)
    if run.calibration is not None:
        offsets = calibrate(grid, strict, run, final["model"], run.timeout or TIMEOUT)
        final["probabilities"] = held_out.probabilities(final["model"], own, offsets.values)
        groups[-len(held_out.names) - 1 :] = held_out.calibrated(final["probabilities"], run.rounds, offsets)
    return tables.run_tables(run, federation, groups, held_out, final["probabilities"], history, strict)


def fit(
    grid: Grid, run: Run, look: Look, federation: Federation, own: OwnModels | None = None
) -> tuple[Strict, Mapping[int, adapter.Aggregation]]:
    """Train one run over a Grid: roll call, then rounds.

    Parameters
    ----------
    grid, run
        As in :func:`federate`.
    look
        Receives the model of every round, and in round 0 the initial one.
    federation
        The records of the run.
    own
        Filled with the clients' own models of the round before ``look`` is called, if they have any.

    Returns
    -------
    strict, history
        The Grid with the ledger and the skipped replies, and what our strategies recorded in each round.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    _check_sources(run)
    strict = Strict(grid, run)
    strict.roll_call()
    strategy = adapter.build(run, strict)
    read = adapter.model_of(strategy)
    start = public_model.start(run, federation)
    public_model.pulls(strategy, run, start)
    mean: list[NDArray[np.float64]] = []
    process = os.getpid()

    def after_round(round: int, arrays: ArrayRecord) -> None:
        end_if_forked(process)
        current = read(arrays)
        if own is not None:
            own.update(strict.own)
        if run.average and round > 0:  # the mean of the models of rounds 1 to ``round``
            mean[:] = [m + (x - m) / round for m, x in zip(mean or current, current, strict=True)]
            current = tuple(m.astype(x.dtype) for m, x in zip(mean, current, strict=True))
        look(round, current)

    strategy.start(
        grid=strict,
        initial_arrays=ArrayRecord(start),
        num_rounds=run.rounds,
        timeout=run.timeout or TIMEOUT,
        train_config=ConfigRecord({"run": run.to_json()}),
        evaluate_fn=after_round,
    )
    return strict, strategy.history if isinstance(strategy, adapter.Adapted) else {}


def _check_sources(run: Run) -> None:
    """Raise if the source of a strategy, model or mechanism was edited since the run was planned."""
    if registry.resolve(run.strategy.path)[1] != run.strategy.digest:
        raise RunError(f"{run.strategy.path}: changed since the sweep was planned; run the command again")
    if model.digest(run.model) != run.model_digest:
        raise RunError(f"{run.model.kind}: changed since the sweep was planned; run the command again")
    for path, planned, here in clipping.sources(run.client_mechanism):
        if planned != here:
            raise RunError(f"{path}: changed since the sweep was planned; run the command again")
