"""Small groups tables whose tolls can be computed by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedtoll.scenarios.measures import EVERYBODY, RUN

INF = float("inf")
NAN = float("nan")


def table(*rows: Any, **columns: Any) -> pd.DataFrame:
    """Make a groups table from (strategy, mechanism, epsilon, seed, group, log_loss) and further columns."""
    frame = pd.DataFrame(rows, columns=["strategy", "mechanism", "epsilon", "seed", "group", "log_loss"])
    defaults = {
        "round": 5,
        "n": 500,
        "positives": 100,
        "tpr": 0.5,
        "collapsed": False,
        "below_majority": False,
    }
    return frame.assign(**(defaults | columns))


def pair(
    losses: Any, strategy: str = "fedavg", group: str = "a", epsilon: float = 1.0, **columns: Any
) -> pd.DataFrame:
    """Make one strategy and group at ∞ and at ε; ``losses`` holds one pair (at ∞, at ε) per seed."""
    rows = [
        (strategy, mechanism, e, seed, group, loss[i])
        for i, (mechanism, e) in enumerate((("none", INF), ("dp-sgd", epsilon)))
        for seed, loss in enumerate(losses)
    ]
    return table(*rows, **columns)


def at(frame: pd.DataFrame, mechanism: str = "dp-sgd", **where: Any) -> Any:
    """Return the one row of a mechanism (and of further columns)."""
    rows = frame[frame["mechanism"] == mechanism]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1
    return rows.iloc[0]


@dataclass
class FakeResults:
    """The attributes of results that the toll reads."""

    groups: pd.DataFrame
    resolved: dict[str, Any] = field(default_factory=dict)
    predictions: pd.DataFrame = field(default_factory=pd.DataFrame)
    folder: Path = Path()
    clients: pd.DataFrame = field(default_factory=pd.DataFrame)
    rounds: pd.DataFrame = field(default_factory=pd.DataFrame)
    ledger: pd.DataFrame = field(default_factory=pd.DataFrame)


def resolved(
    strategies: tuple[str, ...], epsilons: tuple[float | str, ...], folds: int = 1, **scenario: Any
) -> dict[str, Any]:
    """Make the part of ``resolved.json`` that describes a scenario."""
    split = {"kind": "folds", "folds": folds} if folds > 1 else {"kind": "canonical"}
    return {
        "scenario": {
            "strategies": [{"name": s.split("(")[0], "label": s} for s in strategies],
            "privacy": {"epsilons": ["inf" if e == INF else e for e in epsilons]},
            "split": split,
        }
        | scenario
    }


def rates(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the groups table of predictions; with several scores per record there is no positive class."""
    rows = []
    for _, run in predictions.groupby(RUN, sort=False):
        for name, part in [*run.groupby("group", sort=False), (EVERYBODY, run)]:
            head = part.iloc[0][RUN].to_dict() | {"round": 5, "group": name, "n": len(part)}
            head |= {"collapsed": False, "below_majority": False}
            if "score" in part:
                chosen, positive = part["score"] >= 0.5, part["label"] == 1
                loss = float(np.mean((part["label"] - part["score"]) ** 2))  # any measure will do
                head |= {"positives": int(positive.sum()), "log_loss": loss}
                head |= {"tpr": chosen[positive].mean(), "fpr": chosen[~positive].mean()}
            else:
                head |= dict.fromkeys(("positives", "tpr", "fpr"), NAN)
            rows.append(head)
    return pd.DataFrame(rows)
