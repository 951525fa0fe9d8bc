"""The answer in a few sentences, made from the figures and no surer than they are."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from fedtoll.server.report.digest import Digest
from fedtoll.server.report.words import chance, count, interval, named, number, span
from fedtoll.server.toll import EVERYBODY, FEW_SEEDS, MEASURES, ResultsLike


def headline(results: ResultsLike | Digest) -> str:
    """Say who pays most and least at the tightest ε, what other strategies change, and how sure that is.

    The measure is log-loss; groups with too few records are not named. FedAvg leads where the scenario has
    it, else the first strategy. What cannot be said is said to be so: no finite ε, no reference at ∞,
    no interval with one seed, no test and why.

    Parameters
    ----------
    results
        The results of a scenario, or their digest.
    """
    return " ".join(sentences(results))


def sentences(results: ResultsLike | Digest) -> list[str]:
    """Return the sentences of :func:`headline`, who pays first."""
    digest = Digest.of(results)
    if math.isinf(digest.epsilon):
        return ["No run has a finite ε: there is no toll to compare."]
    tight = digest.tight
    if tight.empty:
        return [
            f"No toll can be stated at ε = {digest.epsilon_text}: "
            "no strategy has a run at ε = ∞ with the same seed to compare with."
        ]
    said = _who_pays(tight[tight["strategy"] == digest.leader], digest)
    others = [s for s in dict.fromkeys(tight["strategy"]) if s != digest.leader]
    rival = _rival(digest, others)
    if rival:
        said.append(_what_changes(digest, rival, others))
    said.append(_how_sure(digest, rival))
    return [s for s in said if s]


def _who_pays(rows: pd.DataFrame, digest: Digest) -> list[str]:
    """Name the group that pays most and the one that pays least, with their n and intervals."""
    claimed = rows[(rows["group"] != EVERYBODY) & ~rows["too_few"]].sort_values("toll", kind="stable")
    start = f"At ε = {digest.epsilon_text} under {digest.leader}"
    if claimed.empty:
        everybody = rows[rows["group"] == EVERYBODY]
        cost = f"{_cost(everybody.iloc[0])}" if len(everybody) else "an unknown toll"
        return [
            f"{start} everybody together pays {cost}.",
            "No group has enough records for a claim of its own.",
        ]
    worst, best = claimed.iloc[-1], claimed.iloc[0]
    if len(claimed) == 1:
        return [f"{start} {_who(worst, digest)} pays {_cost(worst)}."]
    return [
        f"{start} {_who(worst, digest)} pays most: {_cost(worst)}.",
        f"{_first(_who(best, digest))} pays least: {_cost(best, short=True)}.",
    ]


def _who(row: pd.Series[Any], digest: Digest) -> str:
    return f"{named(row['group'], digest.attribute)} (n = {count(row['n'])})"


def _first(words: str) -> str:
    """Begin a sentence; a group's own name stays as it is written."""
    return words if "“" not in words else words[0].upper() + words[1:]


def _cost(row: pd.Series[Any], short: bool = False) -> str:
    """Write one toll and, where there is one, its interval."""
    text = number(row["toll"]) + ("" if short else " nats of log-loss")
    if interval(row["toll_low"], row["toll_high"]) == "none":
        return text
    return f"{text} ({'' if short else '95% interval '}{span(row['toll_low'], row['toll_high'])})"


def _rival(digest: Digest, others: list[str]) -> str:
    """Return the other strategy with the smallest toll gap; nothing if no gap is known."""
    gaps = _gaps(digest)
    known = gaps.reindex(others).dropna()
    return "" if known.empty or pd.isna(gaps.get(digest.leader)) else str(known.idxmin())


def _gaps(digest: Digest) -> pd.Series[float]:
    here = (digest.gaps["mechanism"] == "dp-sgd") & (digest.gaps["epsilon"] == digest.epsilon)
    return digest.gaps[here].set_index("strategy")["gap"]


def _what_changes(digest: Digest, rival: str, others: list[str]) -> str:
    """Say what the rival changes in the toll gap, and what everybody pays for it."""
    gaps = _gaps(digest)
    everybody = digest.tight[digest.tight["group"] == EVERYBODY].set_index("strategy")
    changes = f"the toll gap from {number(gaps[digest.leader])} to {number(gaps[rival])}"
    if {digest.leader, rival} <= set(everybody.index):
        loss = everybody["value"]
        changes += f" and everybody’s log-loss from {number(loss[digest.leader])} to {number(loss[rival])}"
    if len(others) == 1:
        who = rival
    elif gaps[rival] < gaps[digest.leader]:
        who = f"Of the {len(others)} other strategies {rival} narrows the gap most: it"
    else:
        who = f"None of the {len(others)} other strategies narrows the gap: {rival}, the nearest,"
    sentence = f"{who} changes {changes}."
    if rival in everybody.index and everybody["below_majority"][rival] >= 0.5:
        sentence += f" But {rival} does no better than predicting the majority."
    return sentence


def _how_sure(digest: Digest, rival: str) -> str:
    """Say how many seeds there are, and what the test of the rival's toll gap says."""
    seeds = int(digest.tight["seeds"].min())
    if seeds == 1:
        return "One seed: no interval and no test."
    if seeds <= FEW_SEEDS:
        return f"{seeds} seeds: too few for a test."
    if not rival:
        return f"{seeds} seeds."
    tests = digest.comparisons
    own = tests[
        (tests["strategy"] == rival)
        & (tests["baseline"] == digest.leader)
        & (tests["epsilon"] == digest.epsilon)
        & (tests["quantity"] == "toll gap")
    ]
    if own.empty:
        return f"{seeds} seeds; this change of the gap is not among the scenario’s declared comparisons."
    row = own.iloc[0]
    if row["reason"]:
        return f"{seeds} seeds; no test: {row['reason']}."
    measure = "" if row["measure"] == "log_loss" else f" (in {MEASURES[row['measure']].title})"
    sure = "significant" if row["significant"] else "not significant"
    return (
        f"Over {seeds} seeds the change of the gap{measure} is {sure}: {number(row['difference'])} "
        f"(95% interval {interval(row['low'], row['high'])}; p {_p(row['p_holm'])} after Holm over "
        f"{len(tests)} comparisons)."
    )


def _p(p: float) -> str:
    text = chance(p)
    return text if text.startswith("below") else f"= {text}"
