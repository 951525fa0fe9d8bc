"""Per-group measures on held-out records: the experimenter's view, which no strategy can reach.

All rates of all groups are computed from one table of counts, so they merge exactly by addition. A rate whose
denominator is 0 is NaN (null in the tables), never 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
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
from fedtoll.server.calibration import Offsets
from fedtoll.server.personal import OwnModels
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
    """Return the AUROC of ascending scores from cumulative counts, without sorting again.

    The shares of records below a score are the same for all records of that score, so they are computed for
    each distinct score.
    """
    m = int(np.count_nonzero(positive))
    n = len(positive) - m
    if m == 0 or n == 0:
        return Auroc()
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)  # of each distinct score
    up_to_P = np.cumsum(positive)[last]
    up_to_N = last + 1 - up_to_P
    tied_P, tied_N = np.diff(up_to_P, prepend=0), np.diff(up_to_N, prepend=0)
    below = (up_to_N - tied_N / 2) / n  # share of negatives below a score, ties half
    above = 1 - (up_to_P - tied_P / 2) / m
    value = float(tied_P @ below) / m
    if m < 2 or n < 2:
        return Auroc(value)
    below -= value  # the mean over the positives; that of ``above`` over the negatives is the same
    above -= value
    variance_P, variance_N = tied_P @ below**2 / (m - 1), tied_N @ above**2 / (n - 1)
    half = _Z * math.sqrt(variance_P / m + variance_N / n)
    return Auroc(value, max(0.0, value - half), min(1.0, value + half))


class HeldOut:
    """The held-out records of a run, and measures of models on them."""

    def __init__(self, run: Run, federation: Federation | None = None) -> None:
        federation = Federation.of(run, like=federation)
        records = federation.records(run.seed)
        self.names = records.groups.names
        self.rows = records.test
        self.labels = records.table.label[self.rows]
        self.codes = records.groups.codes[self.rows]
        self.classes = run.classes
        self._features = torch.from_numpy(records.table.features[self.rows]).to(model.DTYPES[run.precision])
        self._module = model.build(run.model, self._features.shape[1], run.classes, run.precision)
        self.owners = federation.owners(self.rows, run.seed) if run.personal else None
        self.clients = np.array([client.id for client in run.clients])

    def probabilities(
        self,
        parameters: Arrays,
        own: OwnModels | None = None,
        offset_G: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Return the class probabilities of every held-out record, shape ``[N, C]``.

        An offset of each group is added to the logits of its records.

        With personal models, a record is scored by the own model of the client that it was dealt to, and by
        ``parameters`` if that client has not trained yet.
        """
        if self.owners is None:
            return self._scored(
                parameters, self._features, None if offset_G is None else offset_G[self.codes]
            )
        found = np.empty((len(self.rows), self.classes))
        for place, client in enumerate(self.clients.tolist()):
            mine = np.flatnonzero(self.owners == place)
            if len(mine):
                arrays = (own or {}).get(client, parameters)
                found[mine] = self._scored(arrays, self._features[torch.from_numpy(mine)])
        return found

    def _scored(
        self,
        parameters: Sequence[NDArray[Any]],
        features_ND: torch.Tensor,
        offset_N: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        model.put(self._module, parameters)
        self._module.eval()
        with torch.no_grad():
            logits = self._module(features_ND).double()
            if offset_N is not None:
                logits += torch.from_numpy(offset_N).unsqueeze(1)
            return losses.probabilities(logits).numpy()

    def calibrated(
        self, probabilities_NC: NDArray[np.float64], round: int, offsets: Offsets
    ) -> list[dict[str, Any]]:
        """Return the rows of :meth:`measure` with the round and each group's offset and its noise."""
        rows = self.measure(probabilities_NC)
        values, sds = ([*x.tolist(), float("nan")] for x in (offsets.values, offsets.sds))
        return [
            {"round": round, **row, "offset": b, "offset_sd": sd}
            for row, b, sd in zip(rows, values, sds, strict=True)
        ]

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
        areas = self._areas(probabilities_NC[:, 1]) if classes == 2 else [Auroc()] * (count + 1)
        rows = []
        for code, name in enumerate((*self.names, EVERYBODY)):
            everybody = code == count
            confusion = (counts_GCC.sum(axis=0) if everybody else counts_GCC[code]).tolist()
            total = float(nats_G.sum() if everybody else nats_G[code])
            rows.append({"group": name, **_rates(confusion, total, areas[code])})
        return rows

    def _areas(self, scores_N: NDArray[np.float64]) -> list[Auroc]:
        """Return the AUROC of every group, and of all records.

        Scores are sorted once, then by group in this order, so that those of each group ascend, too.
        """
        order = np.argsort(scores_N)
        scores, positive, codes = scores_N[order], self.labels[order] == 1, self.codes[order]
        by_group = np.argsort(codes.astype(np.uint16), kind="stable")  # 16 bits are sorted in one pass
        grouped, grouped_positive = scores[by_group], positive[by_group]
        ends = np.cumsum(np.bincount(codes, minlength=len(self.names))).tolist()
        return [
            *(
                _auroc_of_sorted(grouped[start:end], grouped_positive[start:end])
                for start, end in itertools.pairwise([0, *ends])
            ),
            _auroc_of_sorted(scores, positive),
        ]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _rates(confusion_CC: Sequence[Sequence[int]], nats: float, area: Auroc) -> dict[str, Any]:
    """Return the measures of one group from its counts (rows true, columns predicted)."""
    true, predicted = (
        [sum(row) for row in confusion_CC],
        [sum(column) for column in zip(*confusion_CC, strict=True)],
    )
    n, right = sum(true), [row[c] for c, row in enumerate(confusion_CC)]
    recalls = [_ratio(hits, of) for hits, of in zip(right, true, strict=True)]
    binary = len(true) == 2
    accuracy = _ratio(sum(right), n)
    one_class = n > 0 and sum(count > 0 for count in predicted) == 1
    # With several classes a group may have only one; predicting that one is right and not flagged.
    judged = n > 0 and (binary or sum(count > 0 for count in true) > 1)
    return {
        "n": n,
        "positives": true[1] if binary else float("nan"),
        "accuracy": accuracy,
        "balanced_accuracy": float(np.mean(recalls)),
        "tpr": recalls[1] if binary else float("nan"),
        "fpr": 1 - recalls[0] if binary else float("nan"),
        "selection_rate": _ratio(predicted[1], n) if binary else float("nan"),
        "log_loss": _ratio(nats, n),
        "auroc": area.value,
        "auroc_low": area.low,
        "auroc_high": area.high,
        "collapsed": bool(judged and (one_class or area.low <= 0.5 <= area.high)),
        "below_majority": bool(judged and accuracy <= max(true) / n),
    }
