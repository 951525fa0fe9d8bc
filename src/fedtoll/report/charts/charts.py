"""All charts of a report, shared by the page and the figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fedtoll.report.charts import federation, sensitivity, tolls
from fedtoll.report.charts.front import front
from fedtoll.report.charts.style import Spec
from fedtoll.report.charts.utility import utility
from fedtoll.report.digest import Digest


@dataclass(frozen=True)
class Charts:
    """The charts of a digest; each is built at its first use, and ``None`` if it cannot be drawn.

    Parameters
    ----------
    digest
        The digest of the results.
    """

    digest: Digest

    @cached_property
    def who_pays(self) -> Spec | None:
        """The leader's tolls."""
        return tolls.who_pays(self.digest) if len(self.digest.tight) else None

    @cached_property
    def who_pays_narrow(self) -> Spec | None:
        """The leader's tolls, laid out for a phone."""
        return tolls.who_pays_narrow(self.digest) if len(self.digest.tight) else None

    @cached_property
    def others(self) -> Spec | None:
        """The tolls under the other strategies."""
        return tolls.others(self.digest) if len(self.digest.tight) else None

    @cached_property
    def split(self) -> Spec | None:
        """The tolls split into clipping and noise."""
        return tolls.split(self.digest) if len(self.digest.tight) else None

    @cached_property
    def front(self) -> Spec | None:
        """Fairness against utility."""
        return front(self.digest)

    @cached_property
    def utility(self) -> dict[str, Spec]:
        """Utility against ε: log-loss, the rate of the rarer class, and accuracy, each if it is defined."""
        drawn = ("log_loss", self.digest.rate, "accuracy")
        return {m: utility(self.digest, m) for m in drawn if m in self.digest.measures}

    @cached_property
    def sensitivity(self) -> Spec | None:
        """Everybody's log-loss over the candidates of ``[tune]``."""
        return sensitivity.loss(self.digest)

    @cached_property
    def sensitivity_gap(self) -> Spec | None:
        """The gap over the candidates of ``[tune]``."""
        return sensitivity.gap(self.digest)

    @cached_property
    def partition(self) -> Spec | None:
        """The records that each client is planned to hold."""
        return federation.partition(self.digest)

    @cached_property
    def weights(self) -> Spec | None:
        """Each group's share of the weight by round."""
        return federation.weights(self.digest)

    @cached_property
    def noise(self) -> Spec | None:
        """The effective noise by round."""
        return federation.effective_noise(self.digest)
