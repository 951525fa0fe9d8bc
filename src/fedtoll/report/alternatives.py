"""Text alternatives of the charts, for screen readers and where no chart is drawn."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fedtoll.formatting import budget, count, group_label, in_seeds, interval, listed, number
from fedtoll.report.charts.front import front_rows
from fedtoll.report.digest import Digest
from fedtoll.report.sensitivity import candidates
from fedtoll.scenarios.measures import EVERYBODY, MEASURES

_MOST = 12  # groups or strategies that one alternative lists; the tables have all


def who_pays(digest: Digest) -> str:
    """Return the leader's tolls, largest first."""
    rows = _by_order(digest.tight[digest.tight["strategy"] == digest.leader], digest)
    items = [
        f"{group_label(r['group'], digest.attribute)} {number(r['toll'])}"
        f"{_within(r['toll_low'], r['toll_high'])}, n {count(r['n'])}"
        f"{_flag(r)}"
        for _, r in rows.iterrows()
    ]
    what = f"{digest.word.capitalize()} in log-loss at ε = {digest.epsilon_text} under {digest.leader}"
    return f"Chart. {what}: {_first_few(items)}."


def _flag(row: pd.Series[Any]) -> str:
    flag = in_seeds("collapsed", row["collapsed"], row["runs"])
    return f", {flag}" if flag else ""


def others(digest: Digest) -> str:
    """Return which groups pay most and least under each other strategy."""
    items = []
    for strategy in digest.strategies:
        rows = digest.tight[digest.tight["strategy"] == strategy]
        if strategy != digest.leader and len(rows):
            items.append(f"{strategy}: {_ends(rows, digest)}")
    what = f"{digest.word.capitalize()}s of the other strategies at ε = {digest.epsilon_text}"
    return f"Chart. {what}. {_first_few(items)}."


def utility(digest: Digest, measure: str) -> str:
    """Return each group's measure at the largest and at the tightest ε, under the leader."""
    frame = digest.tolls[measure]
    own = _by_order(frame[frame["strategy"] == digest.leader], digest)
    items = []
    for group in dict.fromkeys(own["group"]):
        rows = own[own["group"] == group].sort_values("epsilon", ascending=False, kind="stable")
        first, last = rows.iloc[0], rows.iloc[-1]
        items.append(
            f"{group_label(group, digest.attribute)} from {number(first['value'])} at ε = "
            f"{budget(first['mechanism'], first['epsilon'])} to {number(last['value'])} at ε = "
            f"{budget(last['mechanism'], last['epsilon'])}"
        )
    title = MEASURES[measure].title
    title = title[0].upper() + title[1:]
    at = f"at the largest and at the tightest ε, under {digest.leader}"
    return f"Chart. {title} by group, {at}: {_first_few(items)}."


def front(digest: Digest) -> str:
    """Return each strategy's toll gap and log-loss at the tightest ε, and the strategies on the front."""
    rows = front_rows(digest)
    rows = rows[rows["epsilon"] == rows["epsilon"].min()]
    items = [
        f"{r['strategy']} {digest.word} gap {number(r['gap'])}{_within(r['gap_low'], r['gap_high'])}, "
        f"everybody’s log-loss {number(r['value'])}"
        for _, r in rows.iterrows()
    ]
    ahead = listed(rows.loc[rows["on_front"], "strategy"])
    return f"Chart. At ε = {digest.epsilon_text}: {_first_few(items)}. On the Pareto front: {ahead}."


def split(digest: Digest) -> str:
    """Return each group's toll from clipping and from noise, under the leader."""
    own = digest.tight[(digest.tight["strategy"] == digest.leader) & digest.tight["clipping"].notna()]
    items = [
        f"{group_label(r['group'], digest.attribute)} {number(r['clipping'])} and {number(r['noise'])}"
        for _, r in _by_order(own, digest).iterrows()
    ]
    return (
        f"Chart. {digest.word.capitalize()} from clipping and from noise at ε = {digest.epsilon_text} "
        f"under {digest.leader}: {_first_few(items)}."
    )


def weights(digest: Digest) -> str:
    """Return each group's mean share of the weight under each strategy."""
    groups = digest.results.groups
    rows = groups[(groups["group"] != EVERYBODY) & groups["weight"].notna()]
    rows = rows[rows["epsilon"] == rows["epsilon"].min()]
    items = []
    for strategy, part in rows.groupby("strategy", sort=False):
        share = part.groupby("group", sort=False)["weight"].mean()
        each = [f"{group_label(str(g), digest.attribute)} {100 * w:.1f}%" for g, w in share.items()]
        items.append(f"{strategy}: {_first_few(each, ', ')}")
    return f"Chart. Share of the aggregation weight, mean over rounds. {_first_few(items)}."


def partition(digest: Digest) -> str:
    """Return how many clients and records each group has."""
    planned = digest.results.resolved["partition"]
    expected = pd.DataFrame(planned["expected"], columns=planned["groups"])
    items = [
        f"{group_label(str(g), digest.attribute)} {count(float(n.sum()))} in {int((n > 0).sum())}"
        for g, n in expected.items()
    ]
    planned_for = f"Records planned for {len(expected)} clients"
    return f"Chart. {planned_for}; by group, records and clients: {_first_few(items)}."


def noise(digest: Digest) -> str:
    """Return each strategy's mean effective noise at the tightest ε."""
    rows = digest.results.rounds
    rows = rows[(rows["mechanism"] == "dp-sgd") & (rows["epsilon"] == digest.epsilon)]
    mean = rows.groupby("strategy", sort=False)["effective_noise"].mean().dropna()
    items = [f"{s} {v:.2e}" for s, v in mean.items()]
    return f"Chart. Effective noise at ε = {digest.epsilon_text}, mean over rounds: {_first_few(items)}."


def _ends(rows: pd.DataFrame, digest: Digest) -> str:
    claimed = rows[(rows["group"] != EVERYBODY) & ~rows["too_few"]].sort_values("toll", kind="stable")
    if claimed.empty:
        return "no group with enough records"
    worst, best = claimed.iloc[-1], claimed.iloc[0]
    names = (group_label(worst["group"], digest.attribute), group_label(best["group"], digest.attribute))
    if worst["toll"] <= 0:
        return (
            f"no group pays: {names[0]} gains least, {number(-worst['toll'])}, "
            f"{names[1]} most, {number(-best['toll'])}"
        )
    return f"{names[0]} pays most, {number(worst['toll'])}, {names[1]} least, {number(best['toll'])}"


def _by_order(rows: pd.DataFrame, digest: Digest) -> pd.DataFrame:
    rank = {g: i for i, g in enumerate([*digest.order, EVERYBODY])}
    return rows.assign(rank=rows["group"].map(rank)).sort_values("rank", kind="stable")


def _within(low: float, high: float) -> str:
    text = interval(low, high)
    return "" if text == "none" else f" ({text})"


def _first_few(items: list[str], separator: str = "; ") -> str:
    more = len(items) - _MOST
    return separator.join(items[:_MOST]) + (f"{separator}and {more} more" if more > 0 else "")


def sensitivity(digest: Digest) -> str:
    """Return a description of the chart of everybody's loss over the candidates."""
    return f"Chart. Everybody’s log-loss on the public records over the constants tried. {_choices(digest)}."


def sensitivity_gap(digest: Digest) -> str:
    """Return a description of the chart of the gap over the candidates."""
    return f"Chart. Gap on the public records over the constants tried. {_choices(digest)}."


def _choices(digest: Digest) -> str:
    frame = candidates(digest)
    chosen = frame[frame["chosen"]]
    items = [
        f"{row['strategy']} at ε = {budget(row['mechanism'], row['epsilon'])} chose {row['constants']}: "
        f"log-loss {number(row['log_loss'])}, gap {number(row['gap'])}"
        for _, row in chosen.iterrows()
    ]
    return _first_few(items)
