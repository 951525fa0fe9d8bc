"""Compare strategies with a baseline: a declared family of exact tests within seeds, adjusted by Holm."""

from __future__ import annotations

from typing import Any

import pandas as pd
from pydantic import ValidationError

from fedtoll.scenarios.compare import LEVEL, Compare, Comparison, family, unreachable
from fedtoll.scenarios.errors import ScenarioError
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.scenarios.numbers import read_number
from fedtoll.toll.intervals import holm, seed_interval, sign_flip
from fedtoll.toll.limits import ResultsLike, folds_of, strategy_names
from fedtoll.toll.quantities import sides
from fedtoll.toll.tolls import ROW, paired, record_counts
from fedtoll.toll.two_gaps import gap_difference, gap_swap

COLUMNS = [
    "strategy",
    "baseline",
    "measure",
    "mechanism",
    "epsilon",
    "quantity",
    "seeds",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "significant",
    "reason",
    "declared",
]


def comparisons(results: ResultsLike) -> pd.DataFrame:
    """Return all comparisons of the family that the scenario declares (``[compare]``), or of the default.

    Runs with the same seed share records, split, partition and noise streams, so strategies are compared
    within seeds. The permutation tests are exact if the two strategies are exchangeable within a seed (all
    2^S arrangements up to 16 seeds, 100,000 fixed draws beyond). All p-values are adjusted by Holm over the
    whole family.

    - ``toll gap``: T = gap(seed-mean tolls of the strategy) − gap(seed-mean tolls of the baseline), over the
      groups with enough records; negative means fairer. The test swaps the two strategies' vectors of group
      tolls within seeds and recomputes the gap *of the means* (:func:`gap_swap`). The interval is studentised
      over seeds (:func:`gap_difference`).
    - ``disparity``, ``demographic parity difference``, ``equalised odds difference``: the same with the
      seed-mean utilities, selection rates, or true-positive and false-positive rates (of the two, the larger
      difference) of the groups. The last two follow fairlearn's definitions and need two classes.
    - ``utility``: the difference in everybody's utility, with a sign-flip test and an interval over seeds
      (:func:`~fedtoll.toll.intervals.seed_interval`).

    The tests reject strategies that are not exchangeable, and two strategies with the same expected gap may
    differ in their noise alone, which widens a gap of means. A difference is therefore significant only if
    its interval excludes 0 too. In simulations with five groups that do not differ, and one strategy with
    five times the noise of the other, the test alone rejects in 57%, both together in 3%.

    Parameters
    ----------
    results
        The results of a scenario.

    Returns
    -------
    pandas.DataFrame
        One row per comparison: ``strategy``, ``baseline``, ``measure``, ``mechanism`` (always dp-sgd),
        ``epsilon``, ``quantity``, ``seeds`` (number of pairs), ``difference``, ``low``, ``high`` (95%, not
        adjusted), ``p``, ``p_holm``, ``significant`` (``p_holm`` ≤ .05, and the interval, if there is one,
        excludes 0), ``reason`` (why the comparison was not tested, or ``""``) and ``declared`` (whether the
        scenario declares this family; otherwise it is the default). Untested comparisons stay in the family.
    """
    compared = scenario_family(results.resolved)
    if not compared:
        return pd.DataFrame(columns=COLUMNS).astype({"significant": bool, "declared": bool})
    (measure,) = {c.measure for c in compared}
    final = paired(results.groups, measure)
    rows = record_counts(final, folds_of(results.resolved)).reset_index()
    too_few = set(map(tuple, rows.loc[rows["too_few"], ROW].to_numpy()))
    final = final[final["mechanism"] == "dp-sgd"]
    cells = dict(iter(final.groupby(["strategy", "epsilon"], sort=False)))
    frame = pd.DataFrame([_compared(c, cells, too_few, len(compared)) for c in compared], columns=COLUMNS)
    frame["p_holm"] = holm(frame["p"])
    frame["significant"] = (frame["p_holm"] <= LEVEL) & _excludes_zero(frame["low"], frame["high"])
    frame["declared"] = is_declared(results.resolved)
    return frame


def is_declared(resolved: dict[str, Any]) -> bool:
    """Return whether a results folder's scenario declares its comparisons."""
    return resolved.get("scenario", {}).get("compare") is not None


def scenario_family(resolved: dict[str, Any]) -> tuple[Comparison, ...]:
    """Return the family of comparisons of a results folder's scenario.

    Raises
    ------
    ScenarioError
        If its ``[compare]`` section is invalid.
    """
    scenario = resolved.get("scenario", {})
    names = strategy_names(resolved)
    if not names:
        return ()
    epsilons = [read_number(e) for e in scenario.get("privacy", {}).get("epsilons", [])]
    section = scenario.get("compare")
    try:
        return family(None if section is None else Compare.model_validate(section), names, epsilons)
    except ValidationError as error:
        raise ScenarioError(f"resolved.json: compare: {error.errors()[0]['msg']}") from None


def _compared(
    c: Comparison, cells: dict[Any, pd.DataFrame], too_few: set[tuple[Any, ...]], count: int
) -> dict[str, Any]:
    """Return one row, without the columns that depend on the whole family."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, float("nan")) | {
        "strategy": c.strategy,
        "baseline": c.baseline,
        "measure": c.measure,
        "mechanism": "dp-sgd",
        "epsilon": c.epsilon,
        "quantity": c.quantity,
        "seeds": 0,
        "reason": "",
    }
    for label in (c.strategy, c.baseline):
        if (label, c.epsilon) not in cells:
            return row | {"reason": f"no run of {label} at ε = {c.epsilon:g}"}
    ours, baseline = cells[c.strategy, c.epsilon], cells[c.baseline, c.epsilon]
    if c.quantity == "utility":
        outcome = _utilities(ours, baseline)
    else:
        outcome = _spreads(c.quantity, ours, baseline, too_few)
    if isinstance(outcome, str):
        return row | {"reason": outcome}
    row["seeds"], (row["difference"], row["low"], row["high"]), p = outcome
    row["reason"] = unreachable(count, row["seeds"])
    if not row["reason"]:
        row["p"] = p
    return row


def _utilities(ours: pd.DataFrame, baseline: pd.DataFrame) -> tuple[int, tuple[Any, Any, Any], float] | str:
    """Return seeds, difference with interval and p of everybody's utility, or why there is no test."""
    sides = [
        part[part["group"] == EVERYBODY].set_index("seed")["utility"].rename(name)
        for name, part in (("ours", ours), ("baseline", baseline))
    ]
    both = pd.concat(sides, axis=1, join="inner").dropna()
    if both.empty:
        return "no seed in which everybody's utility is defined for both"
    x = (both["ours"] - both["baseline"]).to_numpy()
    return len(x), seed_interval(x), sign_flip(x)


def _spreads(
    quantity: str, ours: pd.DataFrame, baseline: pd.DataFrame, too_few: set[tuple[Any, ...]]
) -> tuple[int, tuple[Any, Any, Any], float] | str:
    """Return seeds, difference with interval and p in a difference between groups, or why there is none."""
    both = sides(quantity, ours, baseline, too_few)
    if isinstance(both, str):
        return both
    arrays = both.ours, both.baseline, both.block
    return len(both.ours), gap_difference(*arrays), gap_swap(*arrays)


def _excludes_zero(low: pd.Series[float], high: pd.Series[float]) -> pd.Series[bool]:
    """Return whether intervals exclude 0. Without spread between seeds there is no interval to contradict."""
    return (low > 0) | (high < 0) | low.isna() | high.isna()
