"""The Flower ``ServerApp``: one run, driven over any Grid."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from fedtoll.clients import model
from fedtoll.clients.ledger import Ledger
from fedtoll.scenarios.errors import RunError, ScenarioError
from fedtoll.scenarios.records import layout, records
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.statistics import Value
from fedtoll.server import adapter
from fedtoll.server.evaluate import EVERYBODY, HeldOut
from fedtoll.server.grid import LocalGrid, Strict
from fedtoll.strategies import registry

Tables = dict[str, pd.DataFrame]
"""The tables of one run by name: groups, clients, rounds, ledger, predictions."""

Spent = dict[tuple[int, int], float]
"""ε by client and round."""

Skipped = dict[int, dict[int, str]]
"""Why a reply was skipped, by client and round."""

Look = Callable[[int, tuple[NDArray[Any], ...]], None]
"""Called with every round (0 is the first model) and the model that is evaluated there."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the one training that the run configuration names, and store it under ``out``."""
    from fedtoll.server import plan, results

    out = str(context.run_config.get("out", ""))
    if out and not Path(out).is_absolute():
        raise ScenarioError(f"out = {out!r}: must be an absolute path, for Flower runs a copy of the app")
    run = plan.one(context.run_config)
    tables = federate(grid, run)
    if out:
        results.Store(Path(out)).write(run, tables)
    last = tables["groups"].query(f"round == {run.rounds}").drop(columns="round")
    print(f"{run.label}\n{last.to_string(index=False)}")  # noqa: T201  (what `flwr run` shows)


def simulate(run: Run, look: Look | None = None) -> Tables:
    """Run one training with all its clients in this process; as :func:`federate`."""
    return federate(LocalGrid(run), run, look)


def federate(grid: Grid, run: Run, look: Look | None = None) -> Tables:
    """Drive one run over a Grid: roll call, rounds, and held-out evaluation of every group.

    Parameters
    ----------
    grid
        Ours, Flower's simulation or a SuperLink's.
    run
        What to train.
    look
        Shown the model of every round; an auditor's place, and no strategy's.

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
    _check_sources(run)
    strict = Strict(grid, run)
    strict.roll_call()
    strategy = adapter.build(run, strict)
    read = adapter.model_of(strategy)
    held_out = HeldOut(run)
    features = records(run).table.features.shape[1]
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
    spent = _spent(run, strict)
    clients = _clients(run, spent, history, strict.skipped)
    return {
        "groups": _with_weights(pd.DataFrame(groups), clients, run),
        "clients": clients,
        "rounds": _rounds(run, clients, strict.skipped),
        "ledger": _ledger(run, strict, spent),
        "predictions": pd.DataFrame(
            {
                "record": held_out.rows,
                "group": np.array(held_out.names, dtype=object)[held_out.codes],
                "label": held_out.labels,
                **_scores(final["probabilities"]),
            }
        ),
    }


def _check_sources(run: Run) -> None:
    """Refuse to run other source than the hash is of: a user may edit a file while a sweep runs."""
    if registry.resolve(run.strategy.path)[1] != run.strategy.digest:
        raise RunError(f"{run.strategy.path}: changed since the sweep was planned; run the command again")
    if model.digest(run.model) != run.model_digest:
        raise RunError(f"{run.model.kind}: changed since the sweep was planned; run the command again")


def _scores(probabilities_NC: np.ndarray[Any, Any]) -> dict[str, Any]:
    if probabilities_NC.shape[1] == 2:
        return {"score": probabilities_NC[:, 1]}
    return {f"score_{c}": probabilities_NC[:, c] for c in range(probabilities_NC.shape[1])}


def _clients(
    run: Run, spent: Spent, history: dict[int, adapter.Aggregation], skipped: Skipped
) -> pd.DataFrame:
    """Return one row for each round and client: its weight, its noise, its statistics, its ε.

    Where the run may skip a reply, it says why it did; then there was no update, and nothing that noised it.
    """
    rows = []
    mu = run.strategy.parameters.get("proximal_mu", 0.0)  # of Flower's own FedProx
    theirs = [adapter.noise_variance(run, client, mu) for client in run.clients]
    for round in range(1, run.rounds + 1):
        done = history.get(round, adapter.Aggregation())
        for i, client in enumerate(run.clients):
            row: dict[str, Any] = {
                "round": round,
                "client": client.id,
                "group": client.group,
                "public_size": client.size,
                "weight": math.nan if done.weights is None else float(done.weights[i]),
                "coefficient": math.nan if done.coefficients is None else float(done.coefficients[i]),
                "noise_variance": done.noise_variances[i] if done.noise_variances else theirs[i],
                "epsilon_spent": spent[client.id, round],
            }
            for statistic in run.statistics:
                estimate = done.statistics[i][statistic.name]
                row |= {statistic.name: _flat(estimate.value), f"{statistic.name}_sd": _flat(estimate.sd)}
            if run.on_failure == "skip":
                row["skipped"] = why = skipped[client.id].get(round, "")
                row["noise_variance"] = math.nan if why else row["noise_variance"]
            rows.append(row)
    return pd.DataFrame(rows)


def _flat(value: Value) -> float | list[float]:
    return [float(x) for x in value.ravel()] if isinstance(value, np.ndarray) else float(value)


def _spent(run: Run, strict: Strict) -> Spent:
    """Return ε by client and round, recomposed from the ledger's releases."""
    spent: Spent = {}
    account = Ledger(run.delta, run.accountant)
    for client in run.clients:
        releases = strict.ledger.of(client.id)
        for round in range(1, run.rounds + 1):
            account.charge(r for r in releases if r.round == round)
            spent[client.id, round] = account.epsilon(client.id)
    return spent


def _rounds(run: Run, clients: pd.DataFrame, skipped: Skipped) -> pd.DataFrame:
    """Return the effective noise Σ a_k² v_k of every round, how many answered, and the engine that ran."""
    noise = (clients["coefficient"] ** 2 * clients["noise_variance"]).groupby(clients["round"])
    frame = noise.sum(min_count=1).rename("effective_noise").reset_index()
    frame["replies"] = [len(run.clients) - sum(t in of for of in skipped.values()) for t in frame["round"]]
    frame["engine"] = run.engine
    return frame


def _with_weights(groups: pd.DataFrame, clients: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Add each group's share of the weight in each round; undefined in round 0.

    A client's weight goes to groups in proportion to the records of each that the plan expects it to hold,
    which is public: all of it to its declared group, where it has one.
    """
    expected = layout(run.data, run.split, run.partition).expected_KG
    shares = expected / expected.sum(axis=1, keepdims=True)
    weight_TK = clients["weight"].to_numpy().reshape(run.rounds, len(run.clients))
    index = pd.MultiIndex.from_product([range(1, run.rounds + 1), run.groups], names=["round", "group"])
    share = pd.Series((weight_TK @ shares).ravel(), index)
    total = clients.groupby("round")["weight"].sum(min_count=1)
    total.index = pd.MultiIndex.from_product([total.index, [EVERYBODY]], names=["round", "group"])
    weights = pd.concat([share, total]).rename("weight").reset_index()
    return groups.merge(weights, on=["round", "group"], how="left")


def _ledger(run: Run, strict: Strict, spent: Spent) -> pd.DataFrame:
    """Return the server's ledger: what an outsider needs to recompute every ε."""
    rows = [
        {
            "client": r.client,
            "round": r.round,
            "release": r.what,
            "sampling_rate": r.sampling_rate,
            "noise_multiplier": r.noise_multiplier,
            "count": r.count,
            "epsilon_spent": spent[r.client, r.round],
            "delta": math.nan if run.delta is None else run.delta,
            "accountant": run.accountant or "none",
        }
        for r in strict.ledger.releases
    ]
    return pd.DataFrame(rows)
