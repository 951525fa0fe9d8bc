"""Intervals for the population, over seeds and test records jointly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedtoll.scenarios.errors import ScenarioError, nearest
from fedtoll.scenarios.measures import EVERYBODY, RUN
from fedtoll.toll.intervals import hall_ends, mean_skewness, nan_if_zero
from fedtoll.toll.limits import LEVEL, ResultsLike, too_few
from fedtoll.toll.predictions import ROWS, Floats, encode, utilities
from fedtoll.toll.tolls import sort_by_privacy

FEWEST_ROWS = 20
"""Below this number n of test rows, intervals are widened by √(20 / n): so few underestimate the variance."""


def joint_intervals(results: ResultsLike, measure: str = "log_loss", alpha: float = LEVEL) -> pd.DataFrame:
    """Return intervals of the tolls for the population that the table was drawn from.

    The interval of :func:`~fedtoll.toll.tolls.toll` concerns *this* table: what would other seeds give on the
    same records? This one concerns the population: what would other seeds give on other test records of the
    same kind? Seeds that test the same fold share its rows, as do all ε and strategies. Their tolls are not
    independent, so an interval over seeds alone is too narrow (with one fixed test set it ignores the
    variance of the test rows altogether).

    Let d_sr = U_r(∞) − U_r(ε) for seed s on row r of the group. The toll is the mean over seeds of the means
    on their folds, and the model is d_sr = μ + a_s + b_r + e_sr. Drawing new seeds and rows jointly gives

        Var = var_s(m_s) / S + σ_b² · Σ_f S_f (S_f − 1) / n_f / (S (S − 1)),

    where m_s is the mean of seed s, S_f the number of seeds that test fold f, n_f the group's rows in it, and
    σ_b² the mean covariance over rows of two seeds on one fold. Both terms have unbiased estimates, so no
    resampling is needed. The interval is studentised with Satterthwaite's degrees of freedom (a third of
    n − 1 for the rows, whose distribution is strongly skewed). It is corrected for the skewness of the m_s
    like that of :func:`~fedtoll.toll.tolls.toll`, in proportion to their part of the variance. In simulations
    with the variance components of adult-race its coverage is 93.3 to 95.9% from 20 rows on; with fewer rows
    it is deliberately wider. It does not include the dependence between folds through shared training
    records, which has no unbiased estimate (Bengio and Grandvalet 2004).

    Parameters
    ----------
    results
        The results of a scenario, with predictions; without, the frame is empty.
    measure
        ``log_loss``, ``accuracy``, ``tpr``, ``fpr`` or ``selection_rate``: means over records. (The selection
        rate is not a utility: its "toll" is the rate at ∞ minus that at ε.)
    alpha
        1 − coverage.

    Returns
    -------
    pandas.DataFrame
        One row per (strategy, mechanism, epsilon, group) with a finite ε or clip-only: ``n``, the number of
        distinct test rows in the measure (positives for ``tpr``); ``seeds``; ``toll``, ``se``, ``low``,
        ``high``; ``too_few``. NaN with fewer than two seeds or rows, or if all tolls are equal.

    Raises
    ------
    ScenarioError
        If the measure is not a mean over records.
    """
    if not isinstance(measure, str) or measure not in ROWS:
        raise ScenarioError(
            f"joint intervals: measure {measure!r} is not a mean over records{nearest(str(measure), ROWS)}"
        )
    predictions = results.predictions
    sheets, names = _sheets(predictions, measure) if len(predictions) else ({}, ())
    rows = []
    for key in dict.fromkeys(key[:3] for key in sheets if key[1] != "none"):
        private = {k[3]: sheet for k, sheet in sheets.items() if k[:3] == key}
        reference = {k[3]: sheet for k, sheet in sheets.items() if k[:2] == (key[0], "none")}
        pairs = [
            (sheet, reference[seed])
            for seed, sheet in private.items()
            if seed in reference and sheet.fold is reference[seed].fold
        ]
        intervals = _interval(pairs, len(names) + 1, alpha)
        folds = {sheet.fold.records: sheet.fold for sheet in private.values()}.values()
        n, everyone, positives = (sum(getattr(f, c) for f in folds) for c in ("n", "everyone", "positives"))
        head = dict(zip(RUN[:3], key, strict=True)) | {"group": [*names, EVERYBODY], "measure": measure}
        rows.append(
            pd.DataFrame(head | {"n": n.astype(int)} | intervals | {"too_few": too_few(everyone, positives)})
        )
    columns = [*RUN[:3], "group", "measure", "n", "seeds", "toll", "se", "low", "high", "too_few"]
    if rows:
        return sort_by_privacy(pd.concat(rows, ignore_index=True))
    return pd.DataFrame(columns=columns).astype(dict.fromkeys(["epsilon", *columns[5:10]], float))


@dataclass(frozen=True)
class _Fold:
    """A set of test rows, ordered by group, and the number of rows per group.

    ``records`` identifies the fold by its records, labels and groups. ``n`` counts the rows that the measure
    covers, ``everyone`` all rows; the last entry is "(all)". ``positives`` is NaN with more than two classes.
    """

    records: bytes
    order: NDArray[np.int64]
    n: Floats
    everyone: Floats
    positives: Floats

    def sums(self, x_SN: Floats) -> Floats:
        """Return sums over each group's rows, shape ``[..., groups + 1]``."""
        sums = np.zeros((*x_SN.shape[:-1], len(self.n)))
        nonempty = np.flatnonzero(self.n[:-1])
        if len(nonempty):
            starts = np.concatenate([[0], np.cumsum(self.n[:-1])])[nonempty].astype(np.int64)
            sums[..., nonempty] = np.add.reduceat(x_SN, starts, axis=-1)
        sums[..., -1] = x_SN.sum(axis=-1)
        return sums

    def variances(self, x_SN: Floats) -> Floats:
        """Return variances over each group's rows; NaN with fewer than two."""
        n = np.where(self.n > 1, self.n, np.nan)
        return np.asarray((self.sums(x_SN**2) - self.sums(x_SN) ** 2 / n) / (n - 1))


@dataclass(frozen=True)
class _Sheet:
    """One run's utilities per row, in the order of its fold."""

    fold: _Fold
    utility: Floats


def _sheets(predictions: pd.DataFrame, measure: str) -> tuple[dict[tuple[Any, ...], _Sheet], tuple[str, ...]]:
    """Return every run's sheet by strategy, mechanism, ε and seed, and the names of the groups."""
    code = encode(predictions)
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
                    _count(group[chosen], len(code.groups))
                    for chosen in (part, np.ones(len(rows), dtype=bool), label[rows] == 1)
                ),
            )
            if not binary:
                folds[records].positives.fill(np.nan)
        fold = folds[records]
        sheets[key] = _Sheet(fold, utility[rows][fold.order])
    return sheets, code.groups


def _count(group: NDArray[np.int64], groups: int) -> Floats:
    """Count rows by group, with the total last."""
    return np.append(np.bincount(group, minlength=groups), len(group)).astype(float)


def _interval(pairs: list[tuple[_Sheet, _Sheet]], groups: int, alpha: float) -> dict[str, Floats]:
    """Return seeds, toll, standard error and interval of every group, from (run, reference) pairs."""
    from scipy.special import stdtrit

    folds = {private.fold.records: private.fold for private, _ in pairs}
    mean_SG = np.empty((0, groups))
    weighted_G, pairs_G, shared_G = np.zeros(groups), np.zeros(groups), np.zeros(groups)
    freedom_G, repeated_G = np.zeros(groups), np.zeros(groups, dtype=bool)
    rows_G = sum((fold.n for fold in folds.values()), np.zeros(groups))
    for records, fold in folds.items():
        toll_SN = np.stack(
            [base.utility - private.utility for private, base in pairs if private.fold.records == records]
        )
        seeds, n = len(toll_SN), np.where(fold.n > 0, fold.n, np.nan)
        mean_SG = np.concatenate([mean_SG, fold.sums(toll_SN) / n])
        if seeds > 1:
            variance_G = fold.variances(toll_SN).sum(axis=0)
            covariance_G = seeds**2 * fold.variances(toll_SN.mean(axis=0)) - variance_G  # over ordered pairs
            rows_less_one = np.maximum(fold.n - 1, 0)
            weighted_G += np.nan_to_num(covariance_G) * rows_less_one
            pairs_G += seeds * (seeds - 1) * rows_less_one
            freedom_G += rows_less_one / 3  # not n − 1: differences of single rows are strongly skewed
            shared_G += np.nan_to_num(seeds * (seeds - 1) / n)
            repeated_G |= fold.n > 0
    count = (~np.isnan(mean_SG)).sum(axis=0)
    S = np.where(count > 0, count, np.nan).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        toll = np.nansum(mean_SG, axis=0) / S
        seed_part = np.nansum((mean_SG - toll) ** 2, axis=0) / np.where(S > 1, S - 1, np.nan) / S
        covariance = np.where(pairs_G > 0, weighted_G / pairs_G, np.nan)
        row_part = np.where(repeated_G, np.maximum(covariance, 0) * shared_G / (S * (S - 1)), 0.0)
        se = nan_if_zero(np.sqrt(seed_part + row_part), 1e3 * np.abs(toll))
        freedom = se**4 / (seed_part**2 / (S - 1) + row_part**2 / np.maximum(freedom_G, 1))
        widening = np.sqrt(np.maximum(FEWEST_ROWS / np.maximum(rows_G, 1), 1))
        third, second = (np.nansum((mean_SG - toll) ** k, axis=0) / S for k in (3, 2))
        skewness = mean_skewness(third / second**1.5, S) * (np.sqrt(seed_part) / se) ** 3
        low, high = hall_ends(toll, widening * se, stdtrit(freedom, 1 - alpha / 2), skewness)
    return {"seeds": count, "toll": toll, "se": se, "low": low, "high": high}
