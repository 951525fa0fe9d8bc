"""The results in a few sentences, which claim no more than the tolls and tests show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from fedtoll.formatting import count, group_label, in_seeds, interval, number, p_value, span
from fedtoll.report import constants, trust, who
from fedtoll.report.digest import Digest
from fedtoll.report.tables.compared import verdict
from fedtoll.scenarios.measures import EVERYBODY, MEASURES
from fedtoll.toll import FEW_SEEDS, ResultsLike

_USELESS = {
    "collapsed": "is collapsed (predicts one class at .5, or not shown to rank better than chance)",
    "below_majority": "does no better than predicting the majority",
}
"""What a flag on the row of everybody means."""


def headline(results: ResultsLike | Digest) -> str:
    """Return who pays most and least at the tightest ε, what other strategies change, and how sure that is.

    The measure is log-loss, with the rate of the rarer class next to it, under FedAvg or else the scenario's
    first strategy. Groups with too few records are not named, and a strategy whose model is useless for
    everybody is described as such. If there is no finite ε, no reference at ε = ∞, no interval or no test,
    the text says so.

    Parameters
    ----------
    results
        The results of a scenario, or their digest.
    """
    return " ".join(sentences(results))


def lead(results: ResultsLike | Digest) -> str:
    """Return the first sentence of :func:`headline`, and what limits it.

    That is, that the seeds do not distinguish the groups, and that the model is useless for everybody.
    """
    digest = Digest.from_results(results)
    first = sentences(digest)[0]
    limits = _undistinguished(digest) + _useless(digest, digest.leader) if len(digest.tight) else ""
    return first if first.endswith(limits) else first + limits


def sentences(results: ResultsLike | Digest) -> list[str]:
    """Return the sentences of :func:`headline`, the first of which says who pays most."""
    digest = Digest.from_results(results)
    if math.isinf(digest.epsilon):
        return [f"No run has a finite ε: there is no {digest.word} to compare."]
    tight = digest.tight
    if tight.empty:
        return [
            f"No {digest.word} can be stated at ε = {digest.epsilon_text}: "
            "no strategy has a run at ε = ∞ with the same seed to compare with."
        ]
    text = _who_pays(tight[tight["strategy"] == digest.leader], digest)
    text[-1] += _undistinguished(digest) + _useless(digest, digest.leader)
    text += constants.sentences(digest)
    others = [s for s in dict.fromkeys(tight["strategy"]) if s != digest.leader]
    rival = _rival(digest, others)
    if rival:
        text.append(_effect(digest, rival, others))
    text.append(_evidence(digest, rival))
    return [sentence for sentence in text if sentence]


def _who_pays(rows: pd.DataFrame, digest: Digest) -> list[str]:
    """Return the sentences on the groups that pay most and least, with their n and intervals."""
    claimed = rows[(rows["group"] != EVERYBODY) & ~rows["too_few"]].sort_values("toll", kind="stable")
    tuned = "with constants chosen for each ε, " if digest.tuned else ""
    scenario = digest.results.resolved.get("scenario", {})
    where = trust.phrase(scenario.get("privacy", {})) + who.phrase(scenario)
    start = f"At ε = {digest.epsilon_text}{where} under {digest.leader}, {tuned}".rstrip()
    if claimed.empty:
        everybody = rows[rows["group"] == EVERYBODY]
        cost = _paid(everybody.iloc[0]) if len(everybody) else f"pays an unknown {digest.word}"
        return [
            f"{start} everybody together {cost}.",
            "No group has enough records for a claim of its own.",
        ]
    worst, best = claimed.iloc[-1], claimed.iloc[0]
    if len(claimed) == 1:
        return [f"{start} {_label_with_n(worst, digest)} {_paid(worst)}{_more(worst, digest)}."]
    last = _capitalised(_label_with_n(best, digest))
    if worst["toll"] <= 0:
        gains = f"{_cost(_gain(worst))}{_more(worst, digest)}"
        return [
            f"{start} no group pays: {_label_with_n(worst, digest)} gains least, {gains}.",
            f"{last} gains most: {_cost(_gain(best), short=True)}{_more(best, digest)}.",
        ]
    return [
        f"{start} {_label_with_n(worst, digest)} pays most: {_cost(worst)}{_more(worst, digest)}.",
        f"{last} pays least: {_cost(best, short=True)}{_more(best, digest)}.",
    ]


def _label_with_n(row: pd.Series[Any], digest: Digest) -> str:
    return f"{group_label(row['group'], digest.attribute)} (n = {count(row['n'])})"


def _capitalised(label: str) -> str:
    """Capitalise a label at the start of a sentence; a group's own name keeps its spelling."""
    return label if "“" not in label else label[0].upper() + label[1:]


def _cost(row: Mapping[str, float] | pd.Series[Any], short: bool = False) -> str:
    """Format a toll with its interval, if it has one."""
    text = number(row["toll"]) + ("" if short else " nats of log-loss")
    if interval(row["toll_low"], row["toll_high"]) == "none":
        return text
    return f"{text} ({'' if short else '95% interval '}{span(row['toll_low'], row['toll_high'])})"


def _more(row: pd.Series[Any], digest: Digest) -> str:
    """Return how the rate of the rarer class changes, and in how many seeds the model is collapsed."""
    text = ""
    if digest.rate:
        at: Any = row.name
        measure, rate = MEASURES[digest.rate], digest.rates.loc[at]
        private = rate["paired_value"]
        free = private + measure.sign * rate["toll"]  # over the same seeds
        before, after = number(free, 2), number(private, 2)
        if not math.isnan(free):
            verb = "falls" if private < free else "rises"
            change = f"stays at {after}" if before == after else f"{verb} from {before} to {after}"
            text = f"; its {measure.title} {change}"
    flag = in_seeds("collapsed", row["collapsed"], row["runs"])
    return f"{text}; {flag}" if flag else text


def _gain(row: pd.Series[Any]) -> dict[str, float]:
    """Return a toll with its sign reversed."""
    return {"toll": -row["toll"], "toll_low": -row["toll_high"], "toll_high": -row["toll_low"]}


def _paid(row: pd.Series[Any]) -> str:
    return f"pays {_cost(row)}" if row["toll"] > 0 else f"gains {_cost(_gain(row))}"


def _rival(digest: Digest, others: list[str]) -> str:
    """Return the other strategy with the smallest toll gap; ``""`` if no gaps can be told apart in print."""
    gaps = _gaps(digest)["gap"]
    known = gaps.reindex(others).dropna()
    if known.empty or pd.isna(gaps.get(digest.leader)):
        return ""
    rival = str(known.idxmin())
    return "" if number(gaps[rival]) == number(gaps[digest.leader]) else rival


def _gaps(digest: Digest) -> pd.DataFrame:
    here = (digest.gaps["mechanism"] == "dp-sgd") & (digest.gaps["epsilon"] == digest.epsilon)
    return digest.gaps[here].set_index("strategy")


def _undistinguished(digest: Digest) -> str:
    """Return a sentence if the interval of the leader's gap begins at 0: then no two groups differ."""
    own = _gaps(digest).reindex([digest.leader]).iloc[0]
    if own["gap_low"] != 0 or math.isnan(own["gap_high"]):
        return ""
    return (
        f" The seeds do not distinguish the groups: the {digest.word} gap is {number(own['gap'])} "
        f"(95% interval {interval(own['gap_low'], own['gap_high'])})."
    )


def _effect(digest: Digest, rival: str, others: list[str]) -> str:
    """Return what the rival changes in the toll gap and in everybody's log-loss."""
    gaps = _gaps(digest)["gap"]
    everybody = digest.tight[digest.tight["group"] == EVERYBODY].set_index("strategy")
    changes = f"the {digest.word} gap from {number(gaps[digest.leader])} to {number(gaps[rival])}"
    if {digest.leader, rival} <= set(everybody.index):
        loss = everybody["paired_value"]
        changes += f" and everybody’s log-loss from {number(loss[digest.leader])} to {number(loss[rival])}"
    if len(others) == 1:
        who = rival
    elif gaps[rival] < gaps[digest.leader]:
        own = _tested(digest, rival)
        narrows = own is not None and own["significant"] and own["measure"] == "log_loss"
        what = "narrows the gap most" if narrows else "has the smallest gap"
        who = f"Of the {len(others)} other strategies, {rival} {what}: it"
    else:
        who = f"None of the {len(others)} other strategies has a smaller gap: the closest, {rival},"
    seeds = [_seeds(digest, strategy) for strategy in (digest.leader, rival)]
    if seeds[0] != seeds[1]:
        changes += f", over different seeds ({len(seeds[0])} and {len(seeds[1])})"
    return f"{who} changes {changes}.{_useless(digest, rival)}"


def _tested(digest: Digest, rival: str) -> pd.Series[Any] | None:
    """Return the comparison of the rival's toll gap with the leader's at the tightest ε, if it is one."""
    tests = digest.comparisons
    own = tests[
        (tests["strategy"] == rival)
        & (tests["baseline"] == digest.leader)
        & (tests["epsilon"] == digest.epsilon)
        & (tests["quantity"] == "toll gap")
    ]
    return own.iloc[0] if len(own) else None


def _useless(digest: Digest, strategy: str) -> str:
    """Return a sentence if a strategy's model is useless for everybody in at least half of the seeds."""
    rows = digest.tight[(digest.tight["group"] == EVERYBODY) & (digest.tight["strategy"] == strategy)]
    faults = []
    for _, row in rows.iterrows():
        for flag, meaning in _USELESS.items():
            if row[flag] >= 0.5:
                runs = int(row["runs"])
                part = "" if row[flag] == 1 else f" in {round(row[flag] * runs)} of {runs} seeds"
                faults.append(f"{meaning}{part}")
    return f" But {strategy} {' and '.join(faults)}." if faults else ""


def _seeds(digest: Digest, strategy: str) -> set[int]:
    """Return the seeds of a strategy's tolls at the tightest ε: those that also have a run at ∞."""
    runs = digest.results.groups
    own = runs[runs["strategy"] == strategy]
    private = (own["mechanism"] == "dp-sgd") & (own["epsilon"] == digest.epsilon)
    return set(own.loc[private, "seed"]) & set(own.loc[own["mechanism"] == "none", "seed"])


def _evidence(digest: Digest, rival: str) -> str:
    """Return how many seeds there are, and the result of testing the rival's toll gap."""
    sides = [_seeds(digest, strategy) for strategy in (digest.leader, rival or digest.leader)]
    seeds, common = len(sides[0] & sides[1]), "" if sides[0] == sides[1] else " in common"
    row = _tested(digest, rival)
    if row is not None and row["seeds"]:
        seeds = int(row["seeds"])
    if seeds == 0:
        return "No seed in common: no test."
    if seeds == 1:
        return "One seed in common: no test." if common else "One seed: no interval and no test."
    if seeds <= FEW_SEEDS:
        return f"{seeds} seeds{common}: too few for a test."
    if not rival:
        return f"{seeds} seeds."
    if row is None:
        family = "scenario’s declared" if digest.declared else "default"
        return f"{seeds} seeds{common}; this change in the gap is not among the {family} comparisons."
    if row["reason"]:
        return f"{seeds} seeds{common}; no test: {row['reason']}."
    measure = "" if row["measure"] == "log_loss" else f" (in {MEASURES[row['measure']].title})"
    sure = "significant" if row["significant"] else "not significant"
    if verdict(row).endswith(": interval includes 0"):
        sure += ", because its interval includes 0"
    return (
        f"Over {seeds} seeds{common} the change in the gap{measure} is {sure}: {number(row['difference'])} "
        f"(95% interval {interval(row['low'], row['high'])}; p {_p(row['p_holm'])} after Holm over "
        f"{len(digest.comparisons)} comparisons)."
    )


def _p(p: float) -> str:
    text = p_value(p)
    return text if text.startswith("below") else f"= {text}"
