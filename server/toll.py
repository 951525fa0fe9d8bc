"""What privacy costs each group: paired tolls, prices, gaps and their intervals.

A *toll* is ΔU_g(ε) = U_g(∞) − U_g(ε), the utility that group g loses to
privacy under one strategy and one seed. Both runs of a pair share their
split, partition, initial weights and streams, so the difference is paired,
and its interval is the studentised (t) interval over seeds.

Two rules hold throughout. A measure that is undefined (a rate without a
denominator) stays NaN: its seed is dropped from the pair and counted, never
read as 0. And nothing is claimed about a group with fewer than
:data:`FEWEST_RECORDS` test records or :data:`FEWEST_POSITIVES` positives.

Examples
--------
>>> groups = pd.DataFrame({
...     "strategy": "fedavg", "mechanism": ["none", "dp-sgd"] * 2, "epsilon": [np.inf, 1.0] * 2,
...     "seed": [0, 0, 1, 1], "round": 30, "group": "Black", "n": 900, "positives": 110,
...     "log_loss": [0.20, 0.30, 0.22, 0.34], "collapsed": False, "below_majority": False,
... })
>>> toll(groups).query("mechanism == 'dp-sgd'")[["group", "n", "seeds", "toll"]].round(2).to_dict("records")
[{'group': 'Black', 'n': 1800, 'seeds': 2, 'toll': 0.11}]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from fedtoll.scenarios.errors import ScenarioError, nearest

EVERYBODY = "(all)"
"""The name under which the groups table holds all test records together."""

FEWEST_RECORDS = 100
FEWEST_POSITIVES = 20
FEW_SEEDS = 5
"""With this many seeds or fewer, a two-sided sign-flip test cannot reach .05."""

RUN = ["strategy", "mechanism", "epsilon", "seed"]
"""The columns that name one run, in every table of the results."""


@dataclass(frozen=True)
class Measure:
    """One per-group measure: its column, its title and which way is better."""

    name: str
    title: str
    higher_is_better: bool
    unit: str = ""

    @property
    def sign(self) -> int:
        """Return +1 or -1, which turns the measure into a utility (higher is better)."""
        return 1 if self.higher_is_better else -1


MEASURES: dict[str, Measure] = {
    m.name: m
    for m in (
        Measure("log_loss", "log-loss", False, "nats"),
        Measure("tpr", "true-positive rate", True),
        Measure("accuracy", "accuracy", True),
        Measure("balanced_accuracy", "balanced accuracy", True),
        Measure("auroc", "area under the ROC curve", True),
        Measure("fpr", "false-positive rate", False),
    )
}
"""The measures that a toll can be taken of, log-loss first: it is the one that small groups resolve."""


class ResultsLike(Protocol):
    """What the toll and the report read of a results folder (see :mod:`fedtoll.server.results`)."""

    @property
    def folder(self) -> Path: ...  # noqa: D102
    @property
    def resolved(self) -> dict[str, Any]: ...  # noqa: D102
    @property
    def groups(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def clients(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def rounds(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def ledger(self) -> pd.DataFrame: ...  # noqa: D102
    @property
    def predictions(self) -> pd.DataFrame: ...  # noqa: D102


def sign_flip(differences: Iterable[float]) -> float:
    """Return the two-sided p-value of the sign-flip permutation test that paired differences centre on 0.

    Exact up to 16 seeds, 100,000 draws from a fixed stream beyond. The least value it can return is
    2 / 2^S for S seeds, .0625 for five: below six seeds it cannot reject at .05, and NaN is returned.

    Parameters
    ----------
    differences
        One paired difference a seed, shape ``(seeds,)``; NaN is dropped.
    """
    from scipy import stats

    x = np.asarray(list(differences), dtype=float)
    x = x[~np.isnan(x)]
    if x.size <= FEW_SEEDS:
        return float("nan")
    test = stats.permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=100_000, rng=np.random.default_rng(0)
    )
    return float(test.pvalue)


def folds_of(resolved: dict[str, Any]) -> int:
    """Return how many disjoint test sets the seeds go through: ``seed mod folds`` names a seed's one.

    A split that is not into folds counts as one, since its test records may repeat over seeds.
    """
    split = resolved.get("scenario", {}).get("split", {})
    return int(split["folds"]) if split.get("kind") == "folds" else 1


def toll(groups: pd.DataFrame, measure: str = "log_loss", folds: int | None = None) -> pd.DataFrame:
    """Return the toll and the price of every group, at the final round.

    Parameters
    ----------
    groups
        The results' table of groups: one row a run, round and group.
    measure
        A name of :data:`MEASURES`. The utility of a measure where lower is better is minus the measure.
    folds
        How many disjoint test sets the seeds go through (:func:`folds_of`), so that no test record is
        counted twice in ``n``. ``None``: every seed has test records of its own.

    Returns
    -------
    pandas.DataFrame
        One row a (strategy, mechanism, epsilon, group), from no privacy to the tightest, with

        - ``n``, ``positives``: test records pooled over the distinct test sets; ``n_per_seed``,
          ``positives_per_seed``: in one of them on average; ``too_few``: too few (pooled) for a claim
        - ``runs``: seeds run; ``seeds``: pairs behind the toll; ``undefined``: seeds dropped because the
          measure is undefined on either side of the pair
        - ``value``, ``value_sd``: the measure itself, mean and standard deviation over seeds
        - ``toll``, ``toll_se``, ``toll_low``, ``toll_high``: U(∞) − U(ε), 95% t interval; NaN without a
          run at ∞, and all but ``toll`` NaN with one seed
        - ``price``, ``price_se``: U(FedAvg at ∞) − U(ε); NaN without FedAvg at ∞
        - ``collapsed``, ``below_majority``: share of seeds so flagged

    Raises
    ------
    ScenarioError
        If the measure is unknown.
    """
    if measure not in MEASURES:
        raise ScenarioError(f"unknown measure {measure!r}{nearest(measure, MEASURES)}")
    from scipy import stats

    last = groups.groupby(RUN, sort=False)["round"].transform("max")
    final = groups[groups["round"] == last]
    final = final.assign(value=final[measure].astype(float), fold=final["seed"] % (folds or np.inf))
    final["utility"] = MEASURES[measure].sign * final["value"]
    reference = final.loc[final["mechanism"] == "none", ["strategy", "seed", "group", "utility"]]
    reference = reference.rename(columns={"utility": "reference"}).assign(paired=True)
    fedavg = reference.loc[reference["strategy"] == "fedavg", ["seed", "group", "reference"]]
    fedavg = fedavg.rename(columns={"reference": "fedavg"})
    final = final.merge(reference, "left", on=["strategy", "seed", "group"], validate="many_to_one")
    final = final.merge(fedavg, "left", on=["seed", "group"], validate="many_to_one")
    final["toll"] = final["reference"] - final["utility"]
    final["price"] = final["fedavg"] - final["utility"]
    final["undefined"] = final["utility"].isna() | (final["paired"].notna() & final["reference"].isna())

    row = ["strategy", "mechanism", "epsilon", "group"]
    pooled = final.groupby([*row, "fold"], sort=False)[["n", "positives"]].mean()
    pooled = pooled.groupby(row, sort=False).sum(min_count=1).round().astype({"n": int})
    if pooled["positives"].notna().all():  # with several classes there is no positive one
        pooled = pooled.astype({"positives": int})
    frame = final.groupby(row, sort=False).agg(
        n_per_seed=("n", "mean"),
        positives_per_seed=("positives", "mean"),
        runs=("seed", "size"),
        seeds=("toll", "count"),
        undefined=("undefined", "sum"),
        value=("value", "mean"),
        value_sd=("value", "std"),
        toll=("toll", "mean"),
        toll_se=("toll", "sem"),
        price=("price", "mean"),
        price_se=("price", "sem"),
        collapsed=("collapsed", "mean"),
        below_majority=("below_majority", "mean"),
    )
    half = stats.t.ppf(0.975, frame["seeds"] - 1) * frame["toll_se"]
    frame = pooled.join(frame.assign(toll_low=frame["toll"] - half, toll_high=frame["toll"] + half))
    frame["too_few"] = (frame["n"] < FEWEST_RECORDS) | (frame["positives"] < FEWEST_POSITIVES)
    return _by_privacy(frame.reset_index())


def _by_privacy(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort from no privacy to the tightest; strategies and groups keep the order they came in."""
    if frame.empty:
        return frame
    rank = frame["mechanism"].map({"none": 0, "clip-only": 1, "dp-sgd": 2})
    strategy = frame["strategy"].map({s: i for i, s in enumerate(frame["strategy"].unique())})
    keys = pd.DataFrame({"rank": rank, "tightness": -frame["epsilon"], "strategy": strategy})
    order = keys.sort_values(["rank", "tightness", "strategy"], kind="stable").index
    return frame.loc[order].reset_index(drop=True)


def toll_gap(tolls: pd.DataFrame) -> pd.DataFrame:
    """Return the toll gap and the disparity of every strategy at every ε, from seed means.

    The gap is the maximum minus the minimum over groups of the *seed-mean* tolls: a mean of per-seed gaps
    would mostly measure noise. Even so a maximum minus a minimum is biased upward, the more the smaller
    the groups: read it beside the groups' own intervals.

    Parameters
    ----------
    tolls
        What :func:`toll` returned. "(all)" and the groups with too few records take no part.

    Returns
    -------
    pandas.DataFrame
        One row a (strategy, mechanism, epsilon) with ``groups`` (how many were compared), ``gap``,
        ``worst_group``, ``worst_toll``, ``best_group``, ``best_toll`` and ``disparity``, the maximum minus
        the minimum over groups of the seed-mean utility. NaN with fewer than two
        groups; no names where no group differs.
    """
    rows = []
    for key, part in tolls.groupby(["strategy", "mechanism", "epsilon"], sort=False):
        claimed = part[(part["group"] != EVERYBODY) & ~part["too_few"]]
        known = claimed.dropna(subset="toll").set_index("group")["toll"]
        enough = len(known) > 1
        apart = enough and known.max() > known.min()
        rows.append(
            dict(zip(["strategy", "mechanism", "epsilon"], key, strict=True))
            | {
                "groups": len(known),
                "gap": known.max() - known.min() if enough else np.nan,
                "worst_group": known.idxmax() if apart else None,
                "worst_toll": known.max() if enough else np.nan,
                "best_group": known.idxmin() if apart else None,
                "best_toll": known.min() if enough else np.nan,
                "disparity": np.ptp(claimed["value"].dropna()) if claimed["value"].count() > 1 else np.nan,
            }
        )
    return pd.DataFrame(rows)


def fairness(predictions: pd.DataFrame, threshold: float = 0.5) -> pd.DataFrame:
    """Return the two differences that fairlearn's users expect, one a run and then the mean over seeds.

    ``demographic_parity_difference`` is the maximum minus the minimum over groups of the selection rate;
    ``equalized_odds_difference`` the larger of the same differences of the true- and of the false-positive
    rate: fairlearn's definitions, and its figures to the last digit, from counts. Where a group lacks
    positives or negatives, fairlearn reads its rate as 0 and makes a difference out of nothing; here such a
    run's equalised odds are undefined (NaN), dropped from the mean and counted.

    Parameters
    ----------
    predictions
        The results' table of predictions; leave out the groups that are too small beforehand.
    threshold
        The score from which a record is predicted positive.

    Returns
    -------
    pandas.DataFrame
        One row a (strategy, mechanism, epsilon): both differences with their ``_se`` over seeds, ``seeds``,
        and ``undefined``, the seeds whose equalised odds are undefined. With more than two classes there
        is no ``score`` of a positive class, and both are NaN.
    """
    score = predictions.get("score", pd.Series(np.nan, index=predictions.index))
    scored, selected = score.notna(), score >= threshold
    positive = scored & (predictions["label"] == 1)
    cells = predictions[[*RUN, "group"]].assign(
        scored=scored, positives=positive, selected=selected, hits=positive & selected
    )
    cells = cells.groupby([*RUN, "group"], sort=False).sum()
    with np.errstate(invalid="ignore"):
        cells["selection"] = cells["selected"] / cells["scored"]
        cells["tpr"] = cells["hits"] / cells["positives"]
        cells["fpr"] = (cells["selected"] - cells["hits"]) / (cells["scored"] - cells["positives"])
    rows = []
    for key, run in cells.groupby(RUN, sort=False):
        # np.ptp, unlike pandas, lets one undefined rate make the whole difference undefined.
        apart = (
            np.ptp(run[["selection", "tpr", "fpr"]].to_numpy(), axis=0)
            if len(run) > 1
            else np.full(3, np.nan)
        )
        rows.append((*key, apart[0], apart[1:].max()))
    runs = pd.DataFrame(rows, columns=[*RUN, "parity", "odds"])
    frame = runs.groupby(RUN[:3], sort=False).agg(
        demographic_parity_difference=("parity", "mean"),
        demographic_parity_difference_se=("parity", "sem"),
        equalized_odds_difference=("odds", "mean"),
        equalized_odds_difference_se=("odds", "sem"),
        seeds=("seed", "size"),
        undefined=("odds", lambda x: int(x.isna().sum())),
    )
    return _by_privacy(frame.reset_index())
