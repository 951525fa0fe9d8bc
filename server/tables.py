"""Build the tables of one run: groups, clients, rounds, ledger, predictions; without clock times."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedtoll.privacy.ledger import ALL_CLIENTS, CHOICE, Ledger, Release
from fedtoll.privacy.update_noise import noise_variance
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.scenarios.run import Run
from fedtoll.scenarios.statistics import Value
from fedtoll.server import adapter, sums
from fedtoll.server.evaluate import HeldOut
from fedtoll.server.strict import Strict
from fedtoll.strategies.postprocess import undefined

Tables = dict[str, pd.DataFrame]
"""The tables of one run by name: groups, clients, rounds, ledger and, if the run stores them, predictions."""

Spent = dict[tuple[int, int], float]
"""The ε spent, by client and round."""


def run_tables(
    run: Run,
    federation: Federation,
    groups: Sequence[dict[str, Any]],
    held_out: HeldOut,
    probabilities_NC: NDArray[np.float64],
    history: Mapping[int, adapter.Aggregation],
    strict: Strict,
) -> Tables:
    """Return the tables of a finished run.

    Parameters
    ----------
    run, federation
        The run that was trained, and its records.
    groups
        The measures of every round and group, as returned by :meth:`HeldOut.measure`, with ``round``.
    held_out
        The held-out records.
    probabilities_NC
        The final model's probability of each class for every held-out record.
    history
        What our strategies recorded in each round; empty for Flower's own strategies.
    strict
        The Grid of the run, which has the ledger and the skipped replies.
    """
    spent = _spent(run, strict)
    clients = _clients(run, spent, history, strict)
    return {
        "groups": _with_weights(pd.DataFrame(groups), clients, run, federation.layout.expected_KG),
        "clients": clients,
        "rounds": _rounds(run, clients, strict, history),
        "ledger": _ledger(run, strict, spent),
        **({"predictions": _predictions(held_out, probabilities_NC)} if run.predictions else {}),
    }


def _predictions(held_out: HeldOut, probabilities_NC: NDArray[np.float64]) -> pd.DataFrame:
    """Return the final score of every held-out record, with its row, group and label."""
    names = np.array(held_out.names, dtype=object)
    known = {"record": held_out.rows, "group": names[held_out.codes], "label": held_out.labels}
    if held_out.owners is not None:
        known["client"] = held_out.clients[held_out.owners]
    return pd.DataFrame({**known, **_scores(probabilities_NC)})


def _scores(probabilities_NC: np.ndarray[Any, Any]) -> dict[str, Any]:
    if probabilities_NC.shape[1] == 2:
        return {"score": probabilities_NC[:, 1]}
    return {f"score_{c}": probabilities_NC[:, c] for c in range(probabilities_NC.shape[1])}


def _clients(
    run: Run, spent: Spent, history: Mapping[int, adapter.Aggregation], strict: Strict
) -> pd.DataFrame:
    """Return one row per round and client that takes part in it: weight, noise, statistics and ε.

    If the run may skip replies, a column has the reason; a skipped reply has no update and no noise.
    """
    rows, so_far = [], dict.fromkeys((c.id for c in run.clients), 0.0)
    personal = run.has_personal_budgets
    mu = run.strategy.parameters.get("proximal_mu", 0.0)  # Flower's own FedProx
    planned = [] if history else [noise_variance(run, client, mu) for client in run.clients]
    for round in range(1, run.rounds + 1):
        recorded = history.get(round, adapter.Aggregation())
        for i, place in enumerate(strict.attendance.clients(round)):
            client = run.clients[place]
            charged = ALL_CLIENTS if run.hides_clients else client.id
            so_far[client.id] = spent.get((charged, round), so_far[client.id])
            row: dict[str, Any] = {
                "round": round,
                "client": client.id,
                "group": client.group,
                "public_size": client.size,
                "weight": math.nan if recorded.weights is None else float(recorded.weights[i]),
                "coefficient": (
                    math.nan if recorded.coefficients is None else float(recorded.coefficients[i])
                ),
                "noise_variance": recorded.noise_variances[i] if recorded.noise_variances else planned[place],
                "epsilon_spent": so_far[client.id],
            }
            if personal:
                row["epsilon_target"] = run.target_of(client)
            for statistic in run.statistics if run.trust == "local" else ():
                estimate = recorded.statistics[i][statistic.name]
                row |= {statistic.name: _flat(estimate.value), f"{statistic.name}_sd": _flat(estimate.sd)}
            if run.on_failure == "skip":
                row["skipped"] = reason = strict.skipped[client.id].get(round, "")
                row["noise_variance"] = math.nan if reason else row["noise_variance"]
            rows.append(row)
    return (
        pd.DataFrame(rows) if rows else _nobody("round", "client", "group", "public_size", "weight", *_NONE)
    )


_NONE = ("coefficient", "noise_variance", "epsilon_spent")
_INTEGERS = {"round", "client", "public_size", "count"}
_TEXTS = {"group", "release", "accountant"}


def _nobody(*columns: str) -> pd.DataFrame:
    """Return a table without rows, of a run in which nobody takes part."""
    kinds = {c: "int64" if c in _INTEGERS else "object" if c in _TEXTS else "float64" for c in columns}
    return pd.DataFrame({column: pd.Series(dtype=kind) for column, kind in kinds.items()})


def _flat(value: Value) -> float | list[float]:
    return [float(x) for x in value.ravel()] if isinstance(value, np.ndarray) else float(value)


def _spent(run: Run, strict: Strict) -> Spent:
    """Return the ε spent by client and round, composed from the ledger's releases."""
    spent: Spent = {}
    account = Ledger.of(run)
    for client in [ALL_CLIENTS] if run.hides_clients else [c.id for c in run.clients]:
        by_round: dict[int, list[Release]] = {}
        for release in strict.ledger.releases_of(client):
            by_round.setdefault(release.round, []).append(release)
        for round in sorted(by_round):  # 0 is the choice of constants
            account.charge(by_round[round])
            spent[client, round] = account.epsilon(client)
    return spent


def _rounds(
    run: Run, clients: pd.DataFrame, strict: Strict, history: Mapping[int, adapter.Aggregation]
) -> pd.DataFrame:
    """Return the effective noise Σ a_k² v_k, the number of replies and the engine of every round.

    A round in which nobody takes part has no noise. With ``[participation]``, ``participants`` is the number
    of clients that took part. If the strategy saw sums only: the noise that the server added, and the
    statistics of the sum, too.
    """
    noise = (clients["coefficient"] ** 2 * clients["noise_variance"]).groupby(clients["round"])
    effective = noise.sum(min_count=1).rename("effective_noise")
    counts = strict.attendance.present_TK.sum(axis=1)
    if not counts.all():
        effective = effective.reindex(pd.RangeIndex(1, run.rounds + 1, name="round"))
        effective[counts == 0] = 0.0
    frame = effective.reset_index()
    if run.trust != "local":
        total = clients.groupby("round")["coefficient"].sum(min_count=1).to_numpy()
        if run.unit == "client":
            seen_TR = [history[t] for t in frame["round"]]
            frame["effective_noise"] = frame["effective_noise"].fillna(0.0) + [a.added for a in seen_TR]
            frame["update_clip"] = [math.nan if a.clip is None else a.clip for a in seen_TR]
        else:
            frame["effective_noise"] += total**2 * sums.added_variance(run)
        for statistic in run.statistics:
            nothing = undefined(run, statistic)  # in a round in which nobody takes part
            seen = [history[t].total.get(statistic.name, nothing) for t in frame["round"]]
            frame[statistic.name] = pd.Series([_flat(estimate.value) for estimate in seen])
            frame[f"{statistic.name}_sd"] = pd.Series([_flat(estimate.sd) for estimate in seen])
    lost = [sum(t in reasons for reasons in strict.skipped.values()) for t in frame["round"]]
    if run.participation is not None:
        frame["participants"] = counts
    frame["replies"] = counts - lost
    frame["engine"] = run.engine
    return frame


def _with_weights(
    groups: pd.DataFrame, clients: pd.DataFrame, run: Run, expected_KG: NDArray[np.float64]
) -> pd.DataFrame:
    """Add each group's share of the weight in each round; undefined in round 0, and if nobody takes part.

    A client's weight is divided over the groups in proportion to its expected records of each. A client with
    a declared group gives its whole weight to that group. Otherwise the shares are exact counts of records,
    as much the experimenter's view as the measures.
    """
    shares = expected_KG / expected_KG.sum(axis=1, keepdims=True)
    weight_TK = np.zeros((run.rounds, len(run.clients)))
    places = pd.Series(range(len(run.clients)), [client.id for client in run.clients])
    weight_TK[clients["round"] - 1, places[clients["client"]]] = clients["weight"]
    weight_TK[~np.isin(np.arange(run.rounds) + 1, clients["round"])] = math.nan
    index = pd.MultiIndex.from_product([range(1, run.rounds + 1), run.groups], names=["round", "group"])
    share = pd.Series((weight_TK @ shares).ravel(), index)
    total = clients.groupby("round")["weight"].sum(min_count=1)
    total.index = pd.MultiIndex.from_product([total.index, [EVERYBODY]], names=["round", "group"])
    weights = pd.concat([share, total]).rename("weight").reset_index()
    return groups.merge(weights, on=["round", "group"], how="left")


def _ledger(run: Run, strict: Strict, spent: Spent) -> pd.DataFrame:
    """Return the server's ledger, from which anyone can recompute every ε."""
    targets = {c.id: run.target_of(c) for c in run.clients} if run.has_personal_budgets else {}
    rows = [
        {
            "client": r.client,
            "round": r.round,
            "release": r.what,
            "sampling_rate": math.nan if r.what == CHOICE else r.sampling_rate,
            "noise_multiplier": math.nan if r.what == CHOICE else r.noise_multiplier,
            "count": r.count,
            "epsilon_spent": spent[r.client, r.round],
            **({"epsilon_target": targets[r.client]} if targets else {}),
            "delta": math.nan if run.delta is None else run.delta,
            "accountant": run.accountant or "none",
        }
        for r in strict.ledger.releases
        if (r.client == ALL_CLIENTS) == run.hides_clients
    ]
    if not rows:
        known = ("client", "round", "release", "sampling_rate", "noise_multiplier", "count")
        return _nobody(*known, "epsilon_spent", "delta", "accountant")
    return pd.DataFrame(rows)
