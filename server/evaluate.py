"""Per-group measures on held-out records: the experimenter's view, which no strategy can reach.

All rates of all groups are computed from one table of counts, so they merge exactly by addition. A rate whose
denominator is 0 is NaN (null in the tables), never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedtoll.clients import losses, model
from fedtoll.scenarios.federation import Federation
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.scenarios.run import Run
from fedtoll.strategies.base import Arrays

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Auroc:
    """Area under the ROC curve with a 95% interval (DeLong, DeLong and Clarke-Pearson 1988)."""

    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")


def auroc(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> Auroc:
    """Return the AUROC of scores, counting ties half.

    Undefined without a positive or a negative; the interval needs two of each.

    Examples
    --------
    >>> auroc(np.array([0.1, 0.2, 0.3, 0.9]), np.array([False, False, True, True])).value
    1.0
    >>> auroc(np.array([0.1, 0.2]), np.array([True, True])).value
    nan
    """
    order = np.argsort(scores)
    return _auroc_of_sorted(scores[order], positive[order])


def _auroc_of_sorted(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> Auroc:
    """Return the AUROC of ascending scores from cumulative counts, without sorting again."""
    m = int(np.count_nonzero(positive))
    n = len(positive) - m
    if m == 0 or n == 0:
        return Auroc()
    starts = np.flatnonzero(
        np.concatenate([[True], scores[1:] != scores[:-1]])
    )  # where runs of equal scores start
    run = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(scores)))
    tied_positive = np.add.reduceat(positive.astype(np.int64), starts)
    tied_negative = np.diff(starts, append=len(scores)) - tied_positive
    below = (np.cumsum(tied_negative) - tied_negative / 2) / n  # share of negatives below a score, ties half
    above = 1 - (np.cumsum(tied_positive) - tied_positive / 2) / m
    below_P, above_N = below[run[positive]], above[run[~positive]]
    value = float(below_P.mean())
    if m < 2 or n < 2:
        return Auroc(value)
    half = _Z * float(np.sqrt(below_P.var(ddof=1) / m + above_N.var(ddof=1) / n))
    return Auroc(value, max(0.0, value - half), min(1.0, value + half))


class HeldOut:
    """The held-out records of a run, and measures of models on them."""

    def __init__(self, run: Run, federation: Federation | None = None) -> None:
        records = Federation.of(run, like=federation).records(run.seed)
        self.names = records.groups.names
        self.rows = records.test
        self.labels = records.table.label[self.rows]
        self.codes = records.groups.codes[self.rows]
        self.classes = run.classes
        self._features = torch.from_numpy(records.table.features[self.rows]).to(model.DTYPES[run.precision])
        self._module = model.build(run.model, self._features.shape[1], run.classes, run.precision)

    def probabilities(self, parameters: Arrays) -> NDArray[np.float64]:
        """Return the class probabilities of every held-out record, shape ``[N, C]``."""
        model.put(self._module, parameters)
        self._module.eval()
        with torch.no_grad():
            return losses.probabilities(self._module(self._features).double()).numpy()

    def measure(self, probabilities_NC: NDArray[np.float64]) -> list[dict[str, Any]]:
        """Return one row of measures per group, and one for all records.

        Columns: ``group, n, positives, accuracy, balanced_accuracy, tpr, fpr, selection_rate,
        log_loss`` (nats), ``auroc, auroc_low, auroc_high, collapsed, below_majority``. A record is
        predicted positive at a probability of .5 or more. With more than two classes, measures that need
        a positive class are undefined.
        """
        predicted = (
            (probabilities_NC[:, 1] >= 0.5).astype(np.int64)
            if self.classes == 2
            else probabilities_NC.argmax(axis=1)
        )
        count, classes = len(self.names), self.classes
        cell = (self.codes.astype(np.int64) * classes + self.labels) * classes + predicted
        counts = np.bincount(cell, minlength=count * classes**2)
        counts_GCC = counts.reshape(count, classes, classes).astype(np.int64)
        chosen = probabilities_NC[np.arange(len(self.labels)), self.labels]
        nats = -np.log(np.clip(chosen, 1e-15, 1.0))
        nats_G = np.asarray(np.bincount(self.codes, weights=nats, minlength=count), dtype=np.float64)
        order = np.argsort(probabilities_NC[:, 1])  # sorted once; a group's records keep this order
        scores, positive, codes = probabilities_NC[order, 1], self.labels[order] == 1, self.codes[order]
        rows = []
        for code, name in enumerate((*self.names, EVERYBODY)):
            everybody = code == count
            members = slice(None) if everybody else codes == code
            confusion = counts_GCC.sum(axis=0) if everybody else counts_GCC[code]
            total = float(nats_G.sum() if everybody else nats_G[code])
            area = _auroc_of_sorted(scores[members], positive[members]) if classes == 2 else Auroc()
            rows.append({"group": name, **_rates(confusion, total, area)})
        return rows


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _rates(confusion_CC: NDArray[np.int64], nats: float, area: Auroc) -> dict[str, Any]:
    """Return the measures of one group from its counts (rows true, columns predicted)."""
    n = int(confusion_CC.sum())
    true, predicted = confusion_CC.sum(axis=1), confusion_CC.sum(axis=0)
    recalls = [_ratio(confusion_CC[c, c], true[c]) for c in range(len(true))]
    binary = len(true) == 2
    accuracy = _ratio(int(np.trace(confusion_CC)), n)
    one_class = n > 0 and int((predicted > 0).sum()) == 1
    # With several classes a group may have only one; predicting that one is right and not flagged.
    judged = n > 0 and (binary or int((true > 0).sum()) > 1)
    return {
        "n": n,
        "positives": int(true[1]) if binary else float("nan"),
        "accuracy": accuracy,
        "balanced_accuracy": float(np.mean(recalls)),
        "tpr": recalls[1] if binary else float("nan"),
        "fpr": 1 - recalls[0] if binary else float("nan"),
        "selection_rate": _ratio(int(predicted[1]), n) if binary else float("nan"),
        "log_loss": _ratio(nats, n),
        "auroc": area.value,
        "auroc_low": area.low,
        "auroc_high": area.high,
        "collapsed": bool(judged and (one_class or area.low <= 0.5 <= area.high)),
        "below_majority": bool(judged and accuracy <= true.max() / n),
    }
