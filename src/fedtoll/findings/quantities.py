"""The quantities in claims: one number per seed, computed from results."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fedtoll.findings.atypicality import group_permutation_p, rank_correlation
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
        The value for every seed, indexed by seed; NaN where undefined.
    too_few
        Those of its groups that have too few records for a claim.
    description
        What the quantity is, in words.
    over
        For a correlation, the groups that it is over and their permutation p-value.
    """

    seeds: pd.Series[float]
    too_few: tuple[str, ...]
    description: str
    over: tuple[str, float] | None = None


@dataclass(frozen=True)
class Study:
    """The results of one setting that claims need.

    Parameters
    ----------
    groups
        The table of groups of all runs.
    folds
        The number of disjoint test sets over the seeds.
    strategy
        The label of the scenario's first strategy, the default of a claim.
    reference
        The label of the strategy that prices refer to; ``None`` if there is none.
    traits
        The traits of every group, if a claim is about a correlation with one.
    """

    groups: pd.DataFrame
    folds: int
    strategy: str
    reference: str | None
    traits: pd.DataFrame | None = None
    _paired: dict[str, pd.DataFrame] = field(default_factory=dict)
    _too_few: dict[tuple[str, float | str | None], frozenset[str]] = field(default_factory=dict)

    def quantity(self, term: Term) -> Quantity:
        """Return the quantity of one side of a claim; all fields of the term but the strategy must be set."""
        assert term.of is not None
        label = term.strategy or self.strategy
        rows = self._rows(term.measure or "log_loss")
        rows = rows[(rows["strategy"] == label) & at_epsilon(rows, term.epsilon)]
        few = self._groups_too_few(label, term)
        too_few: tuple[str, ...] = ()
        if term.of == "weight":
            seeds = self._weights(label, term)
        elif term.of == "spread":
            groups = term.groups or tuple(g for g in rows["group"].unique() if g not in {EVERYBODY, *few})
            wide = _wide(rows, "value", groups)
            seeds = wide.max(axis=1, skipna=False) - wide.min(axis=1, skipna=False)
            too_few = tuple(g for g in term.groups if g in few)
            if len(groups) < 2:  # one group has no spread
                seeds, too_few = seeds * np.nan, tuple(sorted(few))
        else:
            groups = term.groups or (EVERYBODY,)
            seeds = _wide(rows, term.of, groups).mean(axis=1, skipna=False)
            too_few = tuple(g for g in groups if g in few)
        return Quantity(seeds, too_few, describe(term, label))

    def side(self, claim: Claim, term: Term) -> Quantity:
        """Return one side of a claim; for a correlation, the correlation of the term with the trait."""
        if claim.along is None:
            return self.quantity(term)
        assert self.traits is not None
        assert term.of is not None
        label = term.strategy or self.strategy
        rows = self._rows(term.measure or "log_loss")
        rows = rows[(rows["strategy"] == label) & at_epsilon(rows, term.epsilon)]
        few = self._groups_too_few(label, term)
        candidates = term.groups or tuple(rows["group"].unique())
        groups = tuple(g for g in candidates if g not in {EVERYBODY, *few})
        given = None if claim.given is None else self.traits[claim.given]
        wide = _wide(rows, term.of, groups)
        seeds = rank_correlation(wide, self.traits[claim.along], given)
        p = group_permutation_p(wide, self.traits[claim.along], given)
        control = f", given {claim.given}" if claim.given else ""
        prefix = f"rank correlation with {claim.along}{control} over {len(groups)} groups of the"
        each = "each of them" if term.groups else "each group"
        description = describe(term.model_copy(update={"groups": (each,)}), label)
        too_few = tuple(g for g in term.groups if g in few)
        return Quantity(seeds, too_few, f"{prefix} {description}", (f"{len(groups)} groups", p))

    def losses(self, term: Term) -> bytes:
        """Return everybody's log-loss in all runs that a term reads: different runs give different bytes."""
        everybody = self.groups[self.groups["group"] == EVERYBODY]
        chosen = (everybody["strategy"] == (term.strategy or self.strategy)) & at_epsilon(
            everybody, term.epsilon
        )
        if term.of in {"toll", "price"}:
            chosen |= everybody["mechanism"] == "none"
        read = everybody[chosen].sort_values(["strategy", "mechanism", "epsilon", "seed", "round"])
        return np.asarray(read["log_loss"], dtype=np.float64).tobytes()

    def _rows(self, measure: str) -> pd.DataFrame:
        """Return one row per run and group at the final round, paired by the toll; cached by measure."""
        if measure not in self._paired:
            rows = paired(self.groups, "accuracy" if measure in VALUED else measure, self.reference)
            if measure in VALUED:
                rows["value"] = rows[measure].astype(float)
                rows[["toll", "price"]] = np.nan
            self._paired[measure] = rows
        return self._paired[measure]

    def _groups_too_few(self, label: str, term: Term) -> frozenset[str]:
        """Return the groups with too few records for a claim; cached by strategy and ε."""
        key = (label, term.epsilon)
        if key not in self._too_few:
            rows = self._rows(term.measure or "log_loss")
            rows = rows[(rows["strategy"] == label) & at_epsilon(rows, term.epsilon)]
            frame = record_counts(rows, self.folds).reset_index() if len(rows) else rows.assign(too_few=True)
            few = frame.loc[frame["too_few"] & (frame["group"] != EVERYBODY), "group"]
            self._too_few[key] = frozenset(few)
        return self._too_few[key]

    def _weights(self, label: str, term: Term) -> pd.Series[float]:
        rows = self.groups[(self.groups["strategy"] == label) & at_epsilon(self.groups, term.epsilon)]
        rows = rows[(rows["round"] > 0) & rows["group"].isin(term.groups or (EVERYBODY,))]
        by_round = rows.groupby(["seed", "round"])["weight"].sum(min_count=1)
        return by_round.groupby("seed").mean()


def at_epsilon(rows: pd.DataFrame, epsilon: float | str | None) -> pd.Series[bool]:
    """Return which rows are at an ε: infinity or None is the reference, ``"clip-only"`` the second one."""
    if epsilon == CLIP_ONLY:
        return rows["mechanism"] == CLIP_ONLY
    if epsilon is None or epsilon == math.inf:
        return rows["mechanism"] == "none"
    return (rows["mechanism"] == "dp-sgd") & (rows["epsilon"] == epsilon)


def describe(term: Term, label: str) -> str:
    """Return a term in words: ``toll in accuracy of Black, ε = 1, fedavg, base``."""
    measure = (term.measure or "log_loss").replace("_", " ")
    groups = ", ".join(term.groups) or "everybody"
    epsilon = "∞" if term.epsilon in {None, math.inf} else f"{term.epsilon}"
    epsilon = f"{term.epsilon:g}" if isinstance(term.epsilon, float) and epsilon != "∞" else epsilon
    what = {
        "toll": f"toll in {measure} of {groups}",
        "price": f"price in {measure} of {groups}",
        "value": f"{measure} of {groups}",
        "spread": f"maximum − minimum of {measure} over {groups if term.groups else 'groups'}",
        "weight": f"share of the aggregation weight of {groups}",
    }[term.of or "toll"]
    return f"{what}, ε = {epsilon}, {label}, {term.setting}"


def _wide(rows: pd.DataFrame, column: str, groups: tuple[str, ...]) -> pd.DataFrame:
    """Return one row per seed and one column per group; a missing group is NaN."""
    wide = {name: rows[rows["group"] == name].set_index("seed")[column].astype(float) for name in groups}
    return pd.DataFrame(wide, index=sorted(rows["seed"].unique()))
