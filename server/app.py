"""The Flower ``ServerApp``: one run, driven over any Grid."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from fedtoll.clients import model
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.run import Run
from fedtoll.server import adapter, tables
from fedtoll.server.evaluate import HeldOut
from fedtoll.server.strict import Strict
from fedtoll.server.tables import Tables
from fedtoll.strategies import registry

Look = Callable[[int, tuple[NDArray[Any], ...]], None]
"""Called with every round (0 is the first model) and the model that is evaluated there."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the one training that the run configuration names, and store it under ``out``."""
    from fedtoll.server import plan, store

    out = str(context.run_config.get("out", ""))
    if out and not Path(out).is_absolute():
        raise ScenarioError(f"out = {out!r}: must be an absolute path, for Flower runs a copy of the app")
    planned = plan.one(context.run_config)
    (run,) = planned.runs
    stored = federate(grid, run, federation=planned.federation)
    if out:
        store.Store(Path(out)).write(run, stored)
    last = stored["groups"].query(f"round == {run.rounds}").drop(columns="round")
    print(f"{run.label}\n{last.to_string(index=False)}")  # noqa: T201  (what `flwr run` shows)


def federate(grid: Grid, run: Run, look: Look | None = None, federation: Federation | None = None) -> Tables:
    """Drive one run over a Grid: roll call, rounds, and held-out evaluation of every group.

    Parameters
    ----------
    grid
        Ours, Flower's simulation or a SuperLink's.
    run
        What to train.
    look
        Shown the model of every round; an auditor's place, and no strategy's.
    federation
        The records, of which the held-out ones are evaluated here; resolved from the run where not given.

    Returns
    -------
    Tables
        ``groups`` (one row a round and group), ``clients`` and ``ledger`` (a round and client),
        ``rounds``, and ``predictions`` (the final score of every held-out record). They hold no
        clock times.

    Raises
    ------
    RunError
        One line that names round and client when a reply is missing, failed, malformed or not finite;
        where the run says that such replies are skipped, only if none of a round is left.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    federation = Federation.of(run, like=federation)
    _check_sources(run)
    strict = Strict(grid, run)
    strict.roll_call()
    strategy = adapter.build(run, strict)
    read = adapter.model_of(strategy)
    held_out = HeldOut(run, federation)
    features = federation.table.features.shape[1]
    start = model.initial(run.model, features, run.classes, run.precision, run.seed)
    groups: list[dict[str, Any]] = []
    final: dict[str, Any] = {}

    mean: list[NDArray[np.float64]] = []

    def evaluate(round: int, arrays: ArrayRecord) -> None:
        made = read(arrays)
        if run.average and round > 0:  # of the models of rounds 1 to now
            mean[:] = [m + (x - m) / round for m, x in zip(mean or made, made, strict=True)]
            made = tuple(m.astype(x.dtype) for m, x in zip(mean, made, strict=True))
        probabilities = held_out.probabilities(made)
        if np.isnan(probabilities).any():
            raise RunError(f"round {round}: {run.strategy.name} made a model whose scores are not finite")
        groups.extend({"round": round, **row} for row in held_out.measure(probabilities))
        final["probabilities"] = probabilities
        if look is not None:
            look(round, made)

    strategy.start(
        grid=strict,
        initial_arrays=ArrayRecord(start),
        num_rounds=run.rounds,
        train_config=ConfigRecord({"run": run.to_json()}),
        evaluate_fn=evaluate,
    )
    history = strategy.history if isinstance(strategy, adapter.Adapted) else {}
    return tables.run_tables(run, federation, groups, held_out, final["probabilities"], history, strict)


def _check_sources(run: Run) -> None:
    """Refuse to run other source than the hash is of: a user may edit a file while a sweep runs."""
    if registry.resolve(run.strategy.path)[1] != run.strategy.digest:
        raise RunError(f"{run.strategy.path}: changed since the sweep was planned; run the command again")
    if model.digest(run.model) != run.model_digest:
        raise RunError(f"{run.model.kind}: changed since the sweep was planned; run the command again")
