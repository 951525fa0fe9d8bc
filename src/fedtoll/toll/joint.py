"""Intervals for the population: seeds and test rows vary together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.measures import EVERYBODY, RUN
from fedtoll.toll.intervals import resolved
from fedtoll.toll.limits import FEWEST_POSITIVES, FEWEST_RECORDS, LEVEL, ResultsLike
from fedtoll.toll.predictions import ROWS, Floats, coded, utilities
from fedtoll.toll.tolls import by_privacy

FEWEST_ROWS = 20
"""With fewer test rows n intervals are wider by √(20 / n), on purpose: so few do not show how they vary."""


def joint_intervals(results: ResultsLike, measure: str = "log_loss", alpha: float = LEVEL) -> pd.DataFrame:
    """Return intervals of the tolls for the population that the table was drawn from.

    :func:`~fedtoll.toll.tolls.toll`'s interval is about *this* table: what would other seeds give on
    these records? This one is about the population: what would other seeds give on other test records of the
    same kind? Seeds that test the same fold share its rows, and so do ε and strategies; their tolls are not
    independent draws, and an interval over seeds alone is then too narrow (with one fixed test set it leaves
    the test rows out altogether).

    With d_sr = U_r(∞) − U_r(ε) of seed s on row r of the group, the toll is the mean over seeds of their
    folds' means, and the model is d_sr = μ + a_s + b_r + e_sr. Drawing seeds and rows anew, jointly, gives

        Var = var_s(m_s) / S + σ_b² · Σ_f S_f (S_f − 1) / n_f / (S (S − 1)),

    m_s the mean of seed s, S_f the seeds that test fold f, n_f its rows of the group, and σ_b² the mean
    covariance over rows of two seeds on one fold. Both parts are unbiased, so nothing need be drawn.
    The interval is studentised, with Satterthwaite's degrees of freedom (a third of n − 1 for the rows,
    which lean far to one side). In simulations with the variance components of adult-race it covers in
    93.3 to 95.9% from 20 rows on; with fewer it is wider on purpose. What folds share through their training
    records is not in it, for no estimate of it can be unbiased (Bengio and Grandvalet 2004).

    Parameters
    ----------
    results
        The results of a scenario, with predictions.
    measure
        ``log_loss``, ``accuracy``, ``tpr``, ``fpr`` or ``selection_rate``: means over records. (The selection
        rate is no utility: its "toll" is the rate at ∞ minus that at ε.)
    alpha
        1 − coverage.

    Returns
    -------
    pandas.DataFrame
        One row a (strategy, mechanism, epsilon, group) with a finite ε or clip-only: ``n``, the distinct test
        rows that the measure is over (positives for ``tpr``); ``seeds``; ``toll``, ``se``, ``low``, ``high``;
        ``too_few``. NaN with fewer than two seeds or rows, or without spread.

    Raises
    ------
    ScenarioError
        If the measure is no mean over records.
    """
    if measure not in ROWS:
        raise ScenarioError(
            f"joint intervals: measure {measure!r} is no mean over records{nearest(measure, ROWS)}"
        )
    sheets, names = _sheets(results.predictions, measure)
    rows = []
    for key in dict.fromkeys(key[:3] for key in sheets if key[1] != "none"):
        own = {k[3]: sheet for k, sheet in sheets.items() if k[:3] == key}
        reference = {k[3]: sheet for k, sheet in sheets.items() if k[:2] == (key[0], "none")}
        pairs = [
            (sheet, reference[seed])
            for seed, sheet in own.items()
            if seed in reference and sheet.fold is reference[seed].fold
        ]
        found = _interval(pairs, len(names) + 1, alpha)
        folds = {sheet.fold.records: sheet.fold for sheet in own.values()}.values()
        n, everyone, positives = (sum(getattr(f, c) for f in folds) for c in ("n", "everyone", "positives"))
        few = (everyone < FEWEST_RECORDS) | (positives < FEWEST_POSITIVES)
        head = dict(zip(RUN[:3], key, strict=True)) | {"group": [*names, EVERYBODY], "measure": measure}
        rows.append(pd.DataFrame(head | {"n": n.astype(int)} | found | {"too_few": few}))
    columns = [*RUN[:3], "group", "measure", "n", "seeds", "toll", "se", "low", "high", "too_few"]
    return by_privacy(pd.concat(rows, ignore_index=True)) if rows else pd.DataFrame(columns=columns)


@dataclass(frozen=True)
class _Fold:
    """One set of test rows: the rows in the order of their groups, and how many each group has.

    ``records`` tells it from others: which rows, of which label and group.
    ``n`` counts rows that the measure is over, ``everyone`` all; "(all)" is the last. ``positives`` is
    NaN with more than two classes.
    """

    records: bytes
    order: NDArray[np.int64]
    n: Floats
    everyone: Floats
    positives: Floats

    def sums(self, x_SN: Floats) -> Floats:
        """Return sums over each group's rows, shape ``[..., groups + 1]``."""
        sums = np.zeros((*x_SN.shape[:-1], len(self.n)))
        there = np.flatnonzero(self.n[:-1])
        if len(there):
            starts = np.concatenate([[0], np.cumsum(self.n[:-1])])[there].astype(np.int64)
            sums[..., there] = np.add.reduceat(x_SN, starts, axis=-1)
        sums[..., -1] = x_SN.sum(axis=-1)
        return sums

    def variances(self, x_SN: Floats) -> Floats:
        """Return variances over each group's rows; NaN with fewer than two."""
        n = np.where(self.n > 1, self.n, np.nan)
        return np.asarray((self.sums(x_SN**2) - self.sums(x_SN) ** 2 / n) / (n - 1))


@dataclass(frozen=True)
class _Sheet:
    """One run's utilities, row by row in its fold's order."""

    fold: _Fold
    utility: Floats


def _sheets(predictions: pd.DataFrame, measure: str) -> tuple[dict[tuple[Any, ...], _Sheet], tuple[str, ...]]:
    """Return the sheet of every run by strategy, mechanism, ε and seed, and the names of the groups."""
    code = coded(predictions)
    utility = utilities(predictions, measure)
    binary = "score" in predictions
    record, label = predictions["record"].to_numpy(), predictions["label"].to_numpy()
    by_run = np.argsort(code.run, kind="stable")
    ends = np.cumsum(np.bincount(code.run, minlength=len(code.runs)))
    folds: dict[bytes, _Fold] = {}
    sheets = {}
    for key, rows in zip(
        code.runs.itertuples(index=False, name=None), np.split(by_run, ends[:-1]), strict=True
    ):
        if np.any(np.diff(record[rows]) < 0):
            rows = rows[np.argsort(record[rows], kind="stable")]
        records = b"".join(x[rows].tobytes() for x in (record, label, code.group))
        if records not in folds:
            group, part = code.group[rows], ~np.isnan(utility[rows])
            order = np.argsort(group, kind="stable")
            folds[records] = _Fold(
                records,
                order[part[order]],
                *(
                    _counted(group[chosen], len(code.groups))
                    for chosen in (part, np.ones(len(rows), dtype=bool), label[rows] == 1)
                ),
            )
            if not binary:
                folds[records].positives.fill(np.nan)
        fold = folds[records]
        sheets[key] = _Sheet(fold, utility[rows][fold.order])
    return sheets, code.groups


def _counted(group: NDArray[np.int64], groups: int) -> Floats:
    """Count rows by group, and all of them."""
    return np.append(np.bincount(group, minlength=groups), len(group)).astype(float)


def _interval(pairs: list[tuple[_Sheet, _Sheet]], groups: int, alpha: float) -> dict[str, Floats]:
    """Return seeds, toll, standard error and interval of every group, from runs and their references."""
    from scipy.special import stdtrit

    folds = {own.fold.records: own.fold for own, _ in pairs}
    mean_SG = np.empty((0, groups))
    weighted_G, pairs_G, shared_G = np.zeros(groups), np.zeros(groups), np.zeros(groups)
    freedom_G, doubled_G = np.zeros(groups), np.zeros(groups, dtype=bool)
    rows_G = sum((fold.n for fold in folds.values()), np.zeros(groups))
    for records, fold in folds.items():
        toll_SN = np.stack(
            [other.utility - own.utility for own, other in pairs if own.fold.records == records]
        )
        seeds, n = len(toll_SN), np.where(fold.n > 0, fold.n, np.nan)
        mean_SG = np.concatenate([mean_SG, fold.sums(toll_SN) / n])
        if seeds > 1:
            own_G = fold.variances(toll_SN).sum(axis=0)
            covariances = seeds**2 * fold.variances(toll_SN.mean(axis=0)) - own_G  # of all ordered pairs
            more = np.maximum(fold.n - 1, 0)
            weighted_G += np.nan_to_num(covariances) * more
            pairs_G += seeds * (seeds - 1) * more
            freedom_G += more / 3  # not n − 1: differences of single rows lean far to one side
            shared_G += np.nan_to_num(seeds * (seeds - 1) / n)
            doubled_G |= fold.n > 0
    count = (~np.isnan(mean_SG)).sum(axis=0)
    S = np.where(count > 0, count, np.nan).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        toll = np.nansum(mean_SG, axis=0) / S
        of_seeds = np.nansum((mean_SG - toll) ** 2, axis=0) / np.where(S > 1, S - 1, np.nan) / S
        covariance = np.where(pairs_G > 0, weighted_G / pairs_G, np.nan)
        of_rows = np.where(doubled_G, np.maximum(covariance, 0) * shared_G / (S * (S - 1)), 0.0)
        se = resolved(np.sqrt(of_seeds + of_rows), 1e3 * np.abs(toll))
        freedom = se**4 / (of_seeds**2 / (S - 1) + of_rows**2 / np.maximum(freedom_G, 1))
        few = np.sqrt(np.maximum(FEWEST_ROWS / np.maximum(rows_G, 1), 1))
        half = few * stdtrit(freedom, 1 - alpha / 2) * se
    return {"seeds": count, "toll": toll, "se": se, "low": toll - half, "high": toll + half}
