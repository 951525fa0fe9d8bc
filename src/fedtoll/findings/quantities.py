"""From results to one number a seed: the quantities that claims are about."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fedtoll.findings.atypicality import rank_correlation, shuffled
from fedtoll.scenarios.claims import Claim, Term
from fedtoll.scenarios.fields import CLIP_ONLY
from fedtoll.scenarios.measures import EVERYBODY, VALUED
from fedtoll.toll.tolls import paired, record_counts


@dataclass(frozen=True)
class Quantity:
    """One side of a claim.

    Parameters
    ----------
    seeds
        The value of every seed, indexed by it; NaN where it is undefined.
    too_few
        The groups of it that have too few records for a claim.
    words
        What it is, for the page.
    over
        Of a correlation: what it is over, and p of shuffling them.
    """

    seeds: pd.Series[float]
    too_few: tuple[str, ...]
    words: str
    over: tuple[str, float] | None = None


@dataclass(frozen=True)
class Study:
    """The results of one setting, as far as claims read them.

    Parameters
    ----------
    groups
        The table of groups of all its runs.
    folds
        How many disjoint test sets the seeds go through.
    strategy
        The label of the scenario's first strategy.
    reference
        The label of the strategy that prices refer to; ``None`` if there is none.
    traits
        Of every group, where a claim is about a correlation with one.
    """

    groups: pd.DataFrame
    folds: int
    strategy: str
    reference: str | None
    traits: pd.DataFrame | None = None
    _made: dict[str, pd.DataFrame] = field(default_factory=dict)
    _known: dict[tuple[str, float | str | None], frozenset[str]] = field(default_factory=dict)

    def quantity(self, term: Term) -> Quantity:
        """Return one side of a claim, of which every field but the strategy is filled in."""
        assert term.of is not None
        label = term.strategy or self.strategy
        rows = self._rows(term.measure or "log_loss")
        rows = rows[(rows["strategy"] == label) & of_budget(rows, term.epsilon)]
        few = self._few(label, term)
        named: tuple[str, ...] = ()
        if term.of == "weight":
            seeds = self._weights(label, term)
        elif term.of == "spread":
            kept = term.groups or tuple(g for g in rows["group"].unique() if g not in {EVERYBODY, *few})
            wide = _wide(rows, "value", kept)
            seeds = wide.max(axis=1, skipna=False) - wide.min(axis=1, skipna=False)
            named = tuple(g for g in term.groups if g in few)
            if len(kept) < 2:  # one group is not apart from itself
                seeds, named = seeds * np.nan, tuple(sorted(few))
        else:
            kept = term.groups or (EVERYBODY,)
            seeds = _wide(rows, term.of, kept).mean(axis=1, skipna=False)
            named = tuple(g for g in kept if g in few)
        return Quantity(seeds, named, words(term, label))

    def side(self, claim: Claim, term: Term) -> Quantity:
        """Return one side of a claim: of a correlation, that of the term with the trait, over groups."""
        if claim.along is None:
            return self.quantity(term)
        assert self.traits is not None
        assert term.of is not None
        label = term.strategy or self.strategy
        rows = self._rows(term.measure or "log_loss")
        rows = rows[(rows["strategy"] == label) & of_budget(rows, term.epsilon)]
        few = self._few(label, term)
        there = term.groups or tuple(rows["group"].unique())
        kept = tuple(g for g in there if g not in {EVERYBODY, *few})
        given = None if claim.given is None else self.traits[claim.given]
        wide = _wide(rows, term.of, kept)
        seeds = rank_correlation(wide, self.traits[claim.along], given)
        p = shuffled(wide, self.traits[claim.along], given)
        held = f", given {claim.given}" if claim.given else ""
        over = f"rank correlation with {claim.along}{held} over {len(kept)} groups of the"
        units = (f"{len(kept)} groups", p)
        named = "each of them" if term.groups else "each group"
        told = words(term.model_copy(update={"groups": (named,)}), label)
        return Quantity(seeds, tuple(g for g in term.groups if g in few), f"{over} {told}", units)

    def _rows(self, measure: str) -> pd.DataFrame:
        """Return one row a run and group at the final round, paired by the toll; made once a measure."""
        if measure not in self._made:
            rows = paired(self.groups, "accuracy" if measure in VALUED else measure, self.reference)
            if measure in VALUED:
                rows["value"] = rows[measure].astype(float)
                rows[["toll", "price"]] = np.nan
            self._made[measure] = rows
        return self._made[measure]

    def _few(self, label: str, term: Term) -> frozenset[str]:
        """Return the groups that have too few records for a claim; made once a strategy and ε."""
        key = (label, term.epsilon)
        if key not in self._known:
            rows = self._rows(term.measure or "log_loss")
            rows = rows[(rows["strategy"] == label) & of_budget(rows, term.epsilon)]
            frame = record_counts(rows, self.folds).reset_index() if len(rows) else rows.assign(too_few=True)
            few = frame.loc[frame["too_few"] & (frame["group"] != EVERYBODY), "group"]
            self._known[key] = frozenset(few)
        return self._known[key]

    def _weights(self, label: str, term: Term) -> pd.Series[float]:
        rows = self.groups[(self.groups["strategy"] == label) & of_budget(self.groups, term.epsilon)]
        rows = rows[(rows["round"] > 0) & rows["group"].isin(term.groups or (EVERYBODY,))]
        by_round = rows.groupby(["seed", "round"])["weight"].sum(min_count=1)
        return by_round.groupby("seed").mean()


def of_budget(rows: pd.DataFrame, epsilon: float | str | None) -> pd.Series[bool]:
    """Say which rows are of an ε: infinity is the reference, and ``"clip-only"`` the second one."""
    if epsilon == CLIP_ONLY:
        return rows["mechanism"] == CLIP_ONLY
    if epsilon is None or epsilon == math.inf:
        return rows["mechanism"] == "none"
    return (rows["mechanism"] == "dp-sgd") & (rows["epsilon"] == epsilon)


def words(term: Term, label: str) -> str:
    """Return what a term is, in words: ``toll in accuracy of Black, ε = 1, fedavg``."""
    measure = (term.measure or "log_loss").replace("_", " ")
    whom = ", ".join(term.groups) or "everybody"
    epsilon = "∞" if term.epsilon in {None, math.inf} else f"{term.epsilon}"
    epsilon = f"{term.epsilon:g}" if isinstance(term.epsilon, float) and epsilon != "∞" else epsilon
    what = {
        "toll": f"toll in {measure} of {whom}",
        "price": f"price in {measure} of {whom}",
        "value": f"{measure} of {whom}",
        "spread": f"maximum − minimum of {measure} over {whom if term.groups else 'groups'}",
        "weight": f"share of the weight of {whom}",
    }[term.of or "toll"]
    return f"{what}, ε = {epsilon}, {label}, {term.setting}"


def _wide(rows: pd.DataFrame, column: str, groups: tuple[str, ...]) -> pd.DataFrame:
    """Return one row a seed and one column a group; a group that is not there is NaN."""
    wide = {name: rows[rows["group"] == name].set_index("seed")[column].astype(float) for name in groups}
    return pd.DataFrame(wide, index=sorted(rows["seed"].unique()))
