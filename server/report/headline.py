"""The answer in a sentence or two, made from the figures and no surer than they are."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from fedtoll.server.report.words import general, number, span
from fedtoll.server.toll import EVERYBODY, FEW_SEEDS, ResultsLike, folds_of, toll, toll_gap


def headline(results: ResultsLike) -> str:
    """Say who pays most and least at the tightest ε, and what the other strategies do to the gap.

    The measure is log-loss; groups with too few records are not named. FedAvg leads where the scenario has
    it, else the first strategy. What cannot be said is said to be so: no finite ε, no reference at ∞,
    no interval with one seed, no test with few.

    Parameters
    ----------
    results
        The results of a scenario.
    """
    tolls = toll(results.groups, "log_loss", folds_of(results.resolved))
    private = tolls[tolls["mechanism"] == "dp-sgd"]
    if private.empty:
        return "No run has a finite ε: there is no toll to compare."
    epsilon = private["epsilon"].min()
    tight = private[(private["epsilon"] == epsilon) & private["toll"].notna()]
    if tight.empty:
        return (
            f"No toll can be stated at ε = {general(epsilon)}: "
            "no strategy has a run at ε = ∞ with the same seed to compare with."
        )
    strategies = list(dict.fromkeys(tight["strategy"]))
    leader = "fedavg" if "fedavg" in strategies else strategies[0]
    sentences = [_who_pays(tight[tight["strategy"] == leader], leader)]
    others = [s for s in strategies if s != leader]
    if others:
        sentences.append(_what_others_do(tight, leader, others))
    sentences.append(_how_sure(tight))
    return " ".join(s for s in sentences if s)


def _who_pays(rows: pd.DataFrame, strategy: str) -> str:
    """Name the group that pays most and the one that pays least, with their intervals."""
    claimed = rows[(rows["group"] != EVERYBODY) & ~rows["too_few"]].sort_values("toll", kind="stable")
    start = f"At ε = {general(rows['epsilon'].iloc[0])} {strategy} costs "
    if claimed.empty:
        everybody = rows[rows["group"] == EVERYBODY]
        cost = (
            f"{_cost(everybody.iloc[0], unit=True)} over all groups" if len(everybody) else "an unknown toll"
        )
        return f"{start}{cost}; every group has too few test records or positives for a claim of its own."
    worst, best = claimed.iloc[-1], claimed.iloc[0]
    sentence = f"{start}{worst['group']} {_cost(worst, unit=True)}"
    return f"{sentence} and {best['group']} {_cost(best)}." if len(claimed) > 1 else f"{sentence}."


def _cost(row: pd.Series[Any], unit: bool = False) -> str:
    """Write one toll and, where there is one, its interval."""
    text = number(row["toll"]) + (" nats of log-loss" if unit else "")
    if math.isnan(row["toll_se"]):
        return text
    return f"{text} ({'95% interval ' if unit else ''}{span(row['toll_low'], row['toll_high'])})"


def _what_others_do(tight: pd.DataFrame, leader: str, others: list[str]) -> str:
    """Say which other strategy leaves the smallest toll gap, if less, and what everybody pays for it."""
    gaps = toll_gap(tight).set_index("strategy")["gap"]
    known = gaps[others].dropna()
    if known.empty or pd.isna(gaps[leader]):
        return ""
    rival = str(known.idxmin())
    everybody = tight[tight["group"] == EVERYBODY].set_index("strategy")
    changes = f"the toll gap from {number(gaps[leader])} to {number(gaps[rival])}"
    if {leader, rival} <= set(everybody.index):
        loss = everybody["value"]
        changes += f" and everybody’s log-loss from {number(loss[leader])} to {number(loss[rival])}"
    if len(others) == 1:
        who = rival
    elif known.min() < gaps[leader]:
        who = f"Of the {len(others)} other strategies {rival} narrows the gap most: it"
    else:
        who = f"None of the {len(others)} other strategies narrows the gap: {rival}, the nearest,"
    sentence = f"{who} changes {changes}."
    if rival in everybody.index and everybody["below_majority"][rival] >= 0.5:
        sentence += f" But {rival} does no better than predicting the majority."
    return sentence


def _how_sure(tight: pd.DataFrame) -> str:
    """Say how many seeds there are, where they are too few."""
    seeds = int(tight["seeds"].min())
    if seeds == 1:
        return "One seed: no interval and no test."
    return f"{seeds} seeds: too few seeds for a test." if seeds <= FEW_SEEDS else ""
