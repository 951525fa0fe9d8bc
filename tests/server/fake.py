"""Synthetic results: the flagship scenario's figures with seed noise, to test toll and report."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

INF = float("inf")
GROUPS = ("White", "Black", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other")
RECORDS = dict(zip(GROUPS, (41_762, 4_685, 1_519, 470, 406), strict=True))
BASE_RATE = dict(zip(GROUPS, (0.254, 0.121, 0.269, 0.117, 0.123), strict=True))
SILOS = dict(zip(GROUPS, (8, 2, 1, 1, 1), strict=True))
# At ε = ∞, then what ε = .5 takes away under FedAvg and under uniform weights.
LOG_LOSS = dict(zip(GROUPS, (0.36, 0.22, 0.38, 0.25, 0.26), strict=True))
TPR = dict(zip(GROUPS, (0.59, 0.36, 0.58, 0.30, 0.34), strict=True))
BALANCED = dict(zip(GROUPS, (0.753, 0.671, 0.744, 0.639, 0.658), strict=True))
ACCURACY = dict(zip(GROUPS, (0.837, 0.890, 0.828, 0.892, 0.895), strict=True))
TOLL = dict(zip(GROUPS, (0.049, 0.107, 0.252, 0.135, 0.172), strict=True))
UNIFORM_TOLL = dict(zip(GROUPS, (0.60, 0.56, 1.18, 0.74, 0.93), strict=True))
TPR_TOLL = dict(zip(GROUPS, (0.03, 0.14, 0.22, 0.15, 0.14), strict=True))
SPREAD = dict(zip(GROUPS, (0.005, 0.026, 0.054, 0.036, 0.040), strict=True))
PRIVACY = {INF: 0.0, 8.0: 0.12, 2.0: 0.4, 1.0: 0.65, 0.5: 1.0}
NOISE_MULTIPLIER = {8.0: 0.65, 2.0: 1.12, 1.0: 1.7, 0.5: 2.86}


@dataclass
class Fake:
    """The attributes of loaded results that the toll and the report use."""

    folder: Path
    resolved: dict[str, Any]
    groups: pd.DataFrame
    clients: pd.DataFrame
    rounds: pd.DataFrame
    ledger: pd.DataFrame
    predictions: pd.DataFrame = field(repr=False)


def adult_race(
    folder: Path = Path(),
    strategies: tuple[str, ...] = ("fedavg", "uniform", "term(t=5)"),
    epsilons: tuple[float, ...] = (INF, 8.0, 2.0, 0.5),
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    rounds: int = 3,
    records: int = 400,
    clip_only: bool = False,
    names: dict[str, str] | None = None,
) -> Fake:
    """Return results of the flagship scenario; ``names`` renames groups, each run predicts ``records``."""
    runs: list[tuple[str, str, float, int]] = [
        (s, "none" if e == INF else "dp-sgd", e, k)
        for s, e, k in itertools.product(strategies, epsilons, seeds)
    ]
    if clip_only:
        runs += [(s, "clip-only", INF, k) for s, k in itertools.product(strategies, seeds)]
    named = {g: (names or {}).get(g, g) for g in GROUPS}
    return Fake(
        folder=folder,
        resolved=_resolved(runs, strategies, epsilons, seeds, rounds, named),
        groups=pd.DataFrame([row for run in runs for row in _groups(run, rounds, named)]),
        clients=pd.DataFrame([row for run in runs for row in _clients(run, rounds, named)]),
        rounds=pd.DataFrame([row for run in runs for row in _rounds(run, rounds)]),
        ledger=pd.DataFrame([row for run in runs for row in _ledger(run, rounds)]),
        predictions=pd.concat([_predictions(run, records, named) for run in runs], ignore_index=True),
    )


def _run(run: tuple[str, str, float, int]) -> dict[str, Any]:
    return dict(zip(("strategy", "mechanism", "epsilon", "seed"), run, strict=True))


def _share(strategy: str, group: str, step: float = 0.0) -> float:
    """Return a group's share of the weight: by size, by client, or tilted towards high losses."""
    if strategy.startswith("uniform"):
        return SILOS[group] / sum(SILOS.values())
    tilt = {g: RECORDS[g] * (np.exp(5 * LOG_LOSS[g] * step) if "term" in strategy else 1) for g in GROUPS}
    return float(tilt[group] / sum(tilt.values()))


def _groups(run: tuple[str, str, float, int], rounds: int, named: dict[str, str]) -> list[dict[str, Any]]:
    strategy, mechanism, epsilon, seed = run
    stress = 0.05 if mechanism == "clip-only" else PRIVACY[epsilon]
    rows = []
    for r in range(rounds + 1):
        here = []
        learnt = 1 - np.exp(-6 * r / rounds)
        for i, g in enumerate(GROUPS):
            # The same draw for every ε: paired runs share their noise, so a seed's tolls move together.
            noise = np.random.default_rng([seed, i]).normal(size=3)
            toll = {"u": UNIFORM_TOLL, "t": {k: 0.8 * v + 0.01 for k, v in TOLL.items()}}.get(
                strategy[0], TOLL
            )
            n = RECORDS[g] // 5
            positives = round(n * BASE_RATE[g])
            loss = LOG_LOSS[g] + 0.01 * noise[0] + stress * (toll[g] + SPREAD[g] * noise[1])
            tpr = float(np.clip(TPR[g] + 0.03 * noise[0] - stress * (TPR_TOLL[g] + 0.08 * noise[2]), 0, 1))
            auroc = 0.9 - 0.2 * stress
            here.append(
                _run(run)
                | {
                    "round": r,
                    "group": named[g],
                    "n": n,
                    "positives": positives,
                    "weight": _share(strategy, g, r / rounds) if r else np.nan,
                    "accuracy": ACCURACY[g] - 0.02 * stress + 0.004 * noise[2],
                    "balanced_accuracy": max(0.5, BALANCED[g] - stress * TPR_TOLL[g] / 2 + 0.01 * noise[0]),
                    "tpr": learnt * tpr,
                    "fpr": 0.05,
                    "selection_rate": 0.2,
                    "log_loss": learnt * loss + (1 - learnt) * 0.693,
                    "auroc": auroc,
                    "auroc_low": auroc - 0.05,
                    "auroc_high": auroc + 0.05,
                    "collapsed": bool(r == 0 or tpr < 0.12),
                    "below_majority": bool(r == 0 or (stress == 1 and g == "Other" and seed == 1)),
                }
            )
        total = sum(row["n"] for row in here)
        everybody = _run(run) | {"round": r, "group": "(all)", "n": total}
        everybody["positives"] = sum(row["positives"] for row in here)
        everybody["weight"] = 1.0 if r else np.nan
        for name in here[0].keys() - everybody.keys():
            everybody[name] = sum(row["n"] * row[name] for row in here) / total
        everybody["collapsed"] = everybody["below_majority"] = r == 0
        rows += [*here, everybody]
    return rows


def _silos(named: dict[str, str]) -> list[dict[str, Any]]:
    labels = [g for g in GROUPS for _ in range(SILOS[g])]
    return [
        {"id": i, "group": named[g], "size": int(RECORDS[g] * 0.8 / SILOS[g])} for i, g in enumerate(labels)
    ]


def _clients(run: tuple[str, str, float, int], rounds: int, named: dict[str, str]) -> list[dict[str, Any]]:
    epsilon = run[2]
    return [
        _run(run)
        | {
            "round": r,
            "client": c["id"],
            "group": c["group"],
            "public_size": c["size"],
            "weight": 1 / 13,
            "coefficient": 1 / 13,
            "noise_variance": NOISE_MULTIPLIER.get(epsilon, 0.0) ** 2 / c["size"],
            "epsilon_spent": min(epsilon, epsilon * r / rounds * 0.9996),
        }
        for r in range(1, rounds + 1)
        for c in _silos(named)
    ]


def _rounds(run: tuple[str, str, float, int], rounds: int) -> list[dict[str, Any]]:
    strategy, _, epsilon, _ = run
    variance = 36 if strategy.startswith("uniform") else 1 + ("term" in strategy)
    noise = NOISE_MULTIPLIER.get(epsilon, 0.0) ** 2 * variance * 1e-6
    return [
        _run(run) | {"round": r, "effective_noise": noise * (1 + 0.02 * r), "replies": 13, "engine": "opacus"}
        for r in range(1, rounds + 1)
    ]


def _ledger(run: tuple[str, str, float, int], rounds: int) -> list[dict[str, Any]]:
    strategy, mechanism, epsilon, _ = run
    if mechanism != "dp-sgd":
        return []
    releases = [("dp-sgd", 0.02, NOISE_MULTIPLIER[epsilon], 10)]
    if "term" in strategy:
        releases.append(("mean_loss", 1.0, 100.0, 1))
    return [
        _run(run)
        | {
            "client": c,
            "round": r,
            "release": name,
            "sampling_rate": q,
            "noise_multiplier": sigma,
            "count": n,
            "epsilon_spent": epsilon * r / rounds * 0.9996,
            "delta": 1e-5,
            "accountant": "rdp",
        }
        for r in range(1, rounds + 1)
        for c in range(13)
        for name, q, sigma, n in releases
    ]


def _predictions(run: tuple[str, str, float, int], records: int, named: dict[str, str]) -> pd.DataFrame:
    rng = np.random.default_rng([run[3], 7])
    # At least ten of each group, so that every group has positives and negatives.
    groups = rng.permutation(np.concatenate([np.repeat(GROUPS, 10), rng.choice(GROUPS, records - 50)]))
    label = (np.arange(records) % 4 == 0).astype(int)
    score = np.clip(
        0.15 + 0.45 * label + 0.15 * rng.normal(size=records) - 0.1 * PRIVACY[run[2]], 0.001, 0.999
    )
    frame = pd.DataFrame({"record": np.arange(records), "group": groups, "label": label, "score": score})
    frame["group"] = frame["group"].map(named)
    return frame.assign(**_run(run))


def _resolved(
    runs: list[tuple[str, str, float, int]],
    strategies: tuple[str, ...],
    epsilons: tuple[float, ...],
    seeds: tuple[int, ...],
    rounds: int,
    named: dict[str, str],
) -> dict[str, Any]:
    def text(epsilon: float) -> float | str:
        return "inf" if epsilon == INF else epsilon

    return {
        "fedtoll": "0.1.0",
        "numerics": 1,
        "command": "fedtoll run adult-race",
        "scenario": {
            "name": "adult-race",
            "title": "Who pays for privacy on Adult, by race",
            "description": "Thirteen silos of one race each train a logistic regression on census income.",
            "data": {"source": "adult", "groups": ["race"], "exclude": []},
            "split": {"kind": "folds", "folds": 5},
            "partition": {"kind": "group", "clients": {named[g]: k for g, k in SILOS.items()}},
            "model": {"kind": "logistic"},
            "training": {
                "rounds": rounds,
                "sampling_rate": 0.02,
                "local_steps": 10,
                "learning_rate": 2.0,
                "clip": 3.0,
                "engine": "opacus",
            },
            "privacy": {
                "epsilons": [text(e) for e in epsilons],
                "delta": 1e-5,
                "accountant": "rdp",
            },
            "statistics": {
                "noise_multiplier": 100.0,
                "budget_share": None,
                "every": 1,
                "smoothing": 0.0,
                "shrinkage": False,
            },
            "strategies": [{"name": s} for s in strategies],
            "seeds": list(seeds),
        },
        "data": {
            "source": "adult",
            "title": "Adult (UCI census income)",
            "rows": 48_842,
            "licence": "CC BY 4.0",
            "citation": "Becker, B. and Kohavi, R. (1996). Adult. UCI Machine Learning Repository.",
            "checksum": "sha256:38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b",
        },
        "clients": _silos(named),
        "versions": {
            "python": "3.11.7",
            "torch": "2.13.0",
            "numpy": "2.4.6",
            "opacus": "1.6.0",
            "flwr": "1.41.0",
        },
        "runs": [
            {
                "hash": f"{i:016x}",
                "strategy": s,
                "mechanism": m,
                "epsilon": text(e),
                "seed": k,
                "engine": "opacus",
            }
            for i, (s, m, e, k) in enumerate(runs)
        ],
        "noise": [
            {
                "strategy": s,
                "mechanism": "dp-sgd",
                "epsilon": e,
                "client": c,
                "sampling_rate": 0.02,
                "steps": 10 * rounds,
                "noise_multiplier": NOISE_MULTIPLIER[e],
                "epsilon_spent": e * 0.9996,
            }
            for s, e, c in itertools.product(strategies, [e for e in epsilons if e != INF], range(13))
        ],
        "mixed_with": [],
        "rdp_orders": [1.25, 1.5, 2.0, 64.0],
        "partition": {
            "groups": list(named.values()),
            "expected": [
                [c["size"] if c["group"] == g else 0 for g in named.values()] for c in _silos(named)
            ],
        },
    }
