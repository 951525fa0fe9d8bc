"""What the report is made from: every figure is computed once, for the page, the figures and the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from fedtoll.formatting import attribute, budget
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll import ResultsLike, comparisons, joint_intervals, price_reference, results_toll, toll_gap
from fedtoll.toll.comparisons import is_declared

MEASURES = ("log_loss", "tpr", "accuracy", "balanced_accuracy")
"""The measures of the report, log-loss first: it is the one that resolves small groups."""

CELL = ["strategy", "mechanism", "epsilon"]


@dataclass(frozen=True)
class Digest:
    """Results and what follows from them; each property is computed at its first use.

    Parameters
    ----------
    results
        The results of a scenario.
    """

    results: ResultsLike

    @classmethod
    def of(cls, results: ResultsLike | Digest) -> Digest:
        """Return the digest of results; a digest is returned as it is."""
        return results if isinstance(results, Digest) else cls(results)

    @cached_property
    def tolls(self) -> dict[str, pd.DataFrame]:
        """What :func:`fedtoll.toll.toll` returns, by measure; the frames' rows are aligned."""
        return {m: self.loss if m == "log_loss" else results_toll(self.results, m) for m in MEASURES}

    @cached_property
    def loss(self) -> pd.DataFrame:
        """The tolls in log-loss: all that headline and terminal need."""
        return results_toll(self.results, "log_loss")

    @cached_property
    def measures(self) -> list[str]:
        """The measures that are defined anywhere: with several classes there is no rate of positives."""
        return [m for m, frame in self.tolls.items() if frame["value"].notna().any()]

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """The toll gaps in log-loss."""
        return toll_gap(self.loss)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """The comparisons of strategies."""
        return comparisons(self.results)

    @property
    def declared(self) -> bool:
        """Whether the scenario declares its comparisons; else they are the default family."""
        return is_declared(self.results.resolved)

    @cached_property
    def joint(self) -> pd.DataFrame:
        """The tolls' intervals over seeds and test records: those of the population."""
        return joint_intervals(self.results, "log_loss").astype({"epsilon": float})

    @cached_property
    def epsilon(self) -> float:
        """The tightest ε; infinity if no run is private."""
        private = self.loss.loc[self.loss["mechanism"] == "dp-sgd", "epsilon"]
        return float(private.min()) if len(private) else math.inf

    @property
    def epsilon_text(self) -> str:
        """The tightest ε in words."""
        return budget("dp-sgd" if math.isfinite(self.epsilon) else "none", self.epsilon)

    @cached_property
    def tight(self) -> pd.DataFrame:
        """The log-loss tolls at the tightest ε that are defined."""
        loss = self.loss
        private = (loss["mechanism"] == "dp-sgd") & (loss["epsilon"] == self.epsilon)
        return loss[private & loss["toll"].notna()]

    @cached_property
    def strategies(self) -> list[str]:
        """All strategies, in the scenario's order."""
        return list(self.loss["strategy"].unique())

    @cached_property
    def leader(self) -> str:
        """The strategy that the others are compared with: fedtoll's FedAvg if it was run, else the first."""
        known = list(dict.fromkeys(self.tight["strategy"])) or self.strategies
        reference = price_reference(self.results.resolved)
        return reference if reference is not None and reference in known else known[0]

    @cached_property
    def order(self) -> list[str]:
        """The groups from who pays most (under the leader, at the tightest ε) to who pays least."""
        rows = self.tight[self.tight["strategy"] == self.leader]
        rows = rows[rows["group"] != EVERYBODY].sort_values("toll", ascending=False, kind="stable")
        others = [g for g in self.loss["group"].unique() if g != EVERYBODY]
        return list(dict.fromkeys([*rows["group"], *others]))

    @cached_property
    def attribute(self) -> str:
        """What the groups are groups of: ``race``, ``digit``."""
        return attribute(self.results.resolved)

    @cached_property
    def several_classes(self) -> bool:
        """Whether there are more than two classes, and so no positives."""
        return bool(self.loss["positives"].isna().all())

    @cached_property
    def seeds(self) -> int:
        """How many seeds were run."""
        return int(self.results.groups["seed"].nunique())
