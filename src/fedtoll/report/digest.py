"""Everything that the report shows, computed once for the page, the figures and the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from fedtoll.formatting import attribute, budget
from fedtoll.scenarios.measures import EVERYBODY
from fedtoll.toll import ResultsLike, comparisons, joint_intervals, price_reference, results_toll, toll_gap
from fedtoll.toll.comparisons import is_declared

MEASURES = ("log_loss", "tpr", "fpr", "accuracy", "balanced_accuracy")
"""The measures of the report. Log-loss comes first because it resolves small groups best. Of the two rates,
only that of the rarer class is shown: see :attr:`Digest.rate`."""

CELL = ["strategy", "mechanism", "epsilon"]


@dataclass(frozen=True)
class Digest:
    """Results and all that the report derives from them; each property is computed at its first use.

    Parameters
    ----------
    results
        The results of a scenario.
    """

    results: ResultsLike

    @classmethod
    def from_results(cls, results: ResultsLike | Digest) -> Digest:
        """Return the digest of results; a digest is returned unchanged."""
        return results if isinstance(results, Digest) else cls(results)

    @cached_property
    def tolls(self) -> dict[str, pd.DataFrame]:
        """The tolls by measure, from :func:`fedtoll.toll.toll`; the rows of the frames are aligned."""
        known = {"log_loss": self.loss, self.rate: self.rates}
        shown = [m for m in MEASURES if m not in {"tpr", "fpr"} - {self.rate}]
        return {m: known[m] if m in known else results_toll(self.results, m) for m in shown}

    @cached_property
    def loss(self) -> pd.DataFrame:
        """The tolls in log-loss: the headline and the terminal need no others, except for :attr:`rates`."""
        return results_toll(self.results, "log_loss")

    @cached_property
    def base_rate(self) -> float:
        """The share of positives among everybody's test records; NaN with more than two classes."""
        everybody = self.loss[self.loss["group"] == EVERYBODY]
        return float((everybody["positives"] / everybody["n"]).mean())

    @property
    def rate(self) -> str:
        """The rate that carries the toll: that of the rarer class. Empty with more than two classes.

        A model that noise drives towards the common class loses the true positives (``tpr``) if positives are
        rare, and gains false positives (``fpr``) if negatives are.
        """
        return "" if self.several_classes else "fpr" if self.base_rate > 0.5 else "tpr"

    @cached_property
    def rates(self) -> pd.DataFrame:
        """The tolls in :attr:`rate`, with the index of :attr:`loss`; without a rate, no rows."""
        return results_toll(self.results, self.rate) if self.rate else self.loss.iloc[:0]

    @cached_property
    def measures(self) -> list[str]:
        """The measures that are defined in any run: more than two classes have no true-positive rate."""
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
        """Whether the scenario declares its comparisons; otherwise they are the default ones."""
        return is_declared(self.results.resolved)

    @cached_property
    def joint(self) -> pd.DataFrame:
        """The tolls' intervals over seeds and test records together: those for the population."""
        return joint_intervals(self.results, "log_loss").astype({"epsilon": float})

    @cached_property
    def epsilon(self) -> float:
        """The tightest ε; infinity if no run is private."""
        private = self.loss.loc[self.loss["mechanism"] == "dp-sgd", "epsilon"]
        return float(private.min()) if len(private) else math.inf

    @property
    def epsilon_text(self) -> str:
        """The tightest ε as text."""
        return budget("dp-sgd" if math.isfinite(self.epsilon) else "none", self.epsilon)

    @cached_property
    def tight(self) -> pd.DataFrame:
        """The tolls in log-loss at the tightest ε, without undefined ones."""
        loss = self.loss
        private = (loss["mechanism"] == "dp-sgd") & (loss["epsilon"] == self.epsilon)
        return loss[private & loss["toll"].notna()]

    @cached_property
    def strategies(self) -> list[str]:
        """All strategies in the scenario's order."""
        return list(self.loss["strategy"].unique())

    @cached_property
    def leader(self) -> str:
        """The strategy that the others are compared with: fedtoll's FedAvg if it was run, else the first."""
        known = list(dict.fromkeys(self.tight["strategy"])) or self.strategies
        reference = price_reference(self.results.resolved)
        return reference if reference is not None and reference in known else known[0]

    @cached_property
    def order(self) -> list[str]:
        """The groups by their toll under the leader at the tightest ε, largest first."""
        rows = self.tight[self.tight["strategy"] == self.leader]
        rows = rows[rows["group"] != EVERYBODY].sort_values("toll", ascending=False, kind="stable")
        others = [g for g in self.loss["group"].unique() if g != EVERYBODY]
        return list(dict.fromkeys([*rows["group"], *others]))

    @property
    def tuned(self) -> bool:
        """Whether every strategy has the constants that it chose at each ε."""
        return bool(self.results.resolved.get("tuning"))

    @property
    def word(self) -> str:
        """The name of U(∞) − U(ε): ``price`` at best constants, else the ``toll`` of one recipe."""
        return "price" if self.tuned else "toll"

    @cached_property
    def recipe(self) -> Digest | None:
        """The digest of the scenario's own recipe, if the results are those of tuned constants."""
        recipe = getattr(self.results, "recipe", None)
        return None if recipe is None else Digest(recipe)

    @cached_property
    def probe(self) -> dict[float, Digest]:
        """The digests of a few runs with other learning rates, by learning rate."""
        return {rate: Digest(results) for rate, results in getattr(self.results, "probe", {}).items()}

    @cached_property
    def attribute(self) -> str:
        """The attribute that defines the groups: ``race``, ``digit``."""
        return attribute(self.results.resolved)

    @cached_property
    def several_classes(self) -> bool:
        """Whether there are more than two classes, so that no class is the positive one."""
        return bool(self.loss["positives"].isna().all())

    @cached_property
    def seeds(self) -> int:
        """The number of seeds."""
        return int(self.results.groups["seed"].nunique())
