"""Declarations of the private statistics that strategies request and clients release.

A declaration is public. It states the clip, the shape of the value and its L2
sensitivity when one record is added or removed. The mechanisms are in
``fedtoll.clients.mechanisms``.

Values are sums or counts (or a mean over the *public* size), never the ratio of
two private numbers: a strategy divides released values, which costs nothing.

=====================  ===============  ==================  ==================================
declaration            shape            L2 sensitivity      value
=====================  ===============  ==================  ==================================
``MeanLoss(B)``        ()               B / n               Σ min(ℓ, B) / n
``ErrorRate()``        ()               1 / n               Σ 1[ŷ ≠ y] / n
``GroupLoss(B)``       (G, 2)           √2                  (Σ min(ℓ, B) / B, count) by group
``LabelGroupLoss(B)``  (G, C, 2)        √2                  the same by group and label
``GroupConfusion()``   (G, C, C)        1                   count by group, label, prediction
``GroupScore()``       (G, C)           1                   Σ of the classes' probabilities by group
=====================  ===============  ==================  ==================================

n is the client's public size, G the number of groups in the scenario, C the number
of classes. Cells of all groups are released, so that the absence of a group does not
leak, unless the plan declares the group of a client's records public: then only that
group's cells are released, and the others are 0 with a standard deviation of 0.

If a client is the unit of privacy, what all of its records together add to a sum has a bound of its own,
which the plan states: see :mod:`fedtoll.scenarios.client_unit`.

The clip is part of the mechanism. At ε = ∞ and under clip-only, values are exact and
not clipped: there, a mean loss may exceed B, and a group's sum of losses its count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

Value = Any
"""A float, or a float64 array of the statistic's shape (typed loosely because numpy accepts either)."""


@dataclass(frozen=True)
class Estimate:
    """A privatised statistic, as a strategy sees it.

    Parameters
    ----------
    value
        A float for a scalar statistic, else an array of its shape.
    sd
        The standard deviation of the noise in the value, of the same shape.
    """

    value: Value
    sd: Value


class Statistic(Protocol):
    """The interface of a declaration."""

    name: ClassVar[str]

    def shape(self, groups: int, classes: int) -> tuple[int, ...]:
        """Return the shape of the value: ``()`` for a scalar; else the first axis is the groups."""
        ...

    def sensitivity(self, size: int) -> float:
        """Return the L2 sensitivity for a client of a public size."""
        ...


@dataclass(frozen=True)
class _Clipped:
    """A statistic of losses, each clipped at ``clip`` nats."""

    clip: float = 4.0

    def __post_init__(self) -> None:
        if not (self.clip > 0 and math.isfinite(self.clip)):
            raise ValueError(f"clip = {self.clip}: must be greater than 0")


@dataclass(frozen=True)
class MeanLoss(_Clipped):
    """Mean loss of a client's records under the broadcast model, before local training.

    The value is Σ min(ℓ_i, B) / n, with the *public* size n, plus Gaussian noise.

    Parameters
    ----------
    clip
        Bound B of a single record's loss, in nats.
    """

    name: ClassVar[str] = "mean_loss"

    def shape(self, groups: int, classes: int) -> tuple[int, ...]:
        """Return ``()``."""
        return ()

    def sensitivity(self, size: int) -> float:
        """Return ``clip / size``.

        Examples
        --------
        >>> MeanLoss(clip=4.0).sensitivity(200)
        0.02
        """
        return self.clip / size


@dataclass(frozen=True)
class ErrorRate:
    """Share of a client's records that the broadcast model misclassifies: Σ 1[ŷ_i ≠ y_i] / n.

    Its sensitivity is that of a mean loss with B = 1: coarser, but four times less noisy than B = 4.
    """

    name: ClassVar[str] = "error_rate"

    def shape(self, groups: int, classes: int) -> tuple[int, ...]:
        """Return ``()``."""
        return ()

    def sensitivity(self, size: int) -> float:
        """Return ``1 / size``."""
        return 1.0 / size


@dataclass(frozen=True)
class GroupLoss(_Clipped):
    """Loss and count of every group: ``value[g] = (Σ min(ℓ_i, B) / B, n_g)``.

    One record changes one group's pair by at most (1, 1): the L2 sensitivity is √2. The mean loss of a
    group over clients is ``B · Σ_k value_k[g, 0] / Σ_k value_k[g, 1]``.

    Parameters
    ----------
    clip
        Bound B of a single record's loss, in nats.
    """

    name: ClassVar[str] = "group_loss"

    def shape(self, groups: int, classes: int) -> tuple[int, ...]:
        """Return ``(groups, 2)``."""
        return (groups, 2)

    def sensitivity(self, size: int) -> float:
        """Return √2, whatever the size."""
        return math.sqrt(2)


@dataclass(frozen=True)
class LabelGroupLoss(_Clipped):
    """Loss and count of every group and label: ``value[g, y] = (Σ min(ℓ_i, B) / B, n_gy)``.

    Parameters
    ----------
    clip
        Bound B of a single record's loss, in nats.
    """

    name: ClassVar[str] = "label_group_loss"

    def shape(self, groups: int, classes: int) -> tuple[int, ...]:
        """Return ``(groups, classes, 2)``."""
        return (groups, classes, 2)

    def sensitivity(self, size: int) -> float:
        """Return √2, because one record changes one pair by at most (1, 1)."""
        return math.sqrt(2)


@dataclass(frozen=True)
class GroupConfusion:
    """Confusion counts of every group under the broadcast model: ``value[g, y, ŷ]``.

    With two classes, a record is predicted positive if its probability is .5 or more.
    """

    name: ClassVar[str] = "group_confusion"

    def shape(self, groups: int, classes: int) -> tuple[int, ...]:
        """Return ``(groups, classes, classes)``."""
        return (groups, classes, classes)

    def sensitivity(self, size: int) -> float:
        """Return 1, because one record changes one count by 1."""
        return 1.0


@dataclass(frozen=True)
class GroupScore:
    """Sums of the classes' probabilities by group under the broadcast model: ``value[g, c] = Σ p_i(c)``.

    It is the expected number of predictions of each class, and its sum over classes is the group's number of
    records. A record adds its probabilities to one group's cells. They are 0 or more and their sum is 1, so
    the L2 sensitivity is 1.
    """

    name: ClassVar[str] = "group_score"

    def shape(self, groups: int, classes: int) -> tuple[int, ...]:
        """Return ``(groups, classes)``."""
        return (groups, classes)

    def sensitivity(self, size: int) -> float:
        """Return 1, because a vector of probabilities has a norm of at most 1."""
        return 1.0


STATISTICS: dict[str, Callable[..., Statistic]] = {
    s.name: s for s in (MeanLoss, ErrorRate, GroupLoss, LabelGroupLoss, GroupConfusion, GroupScore)
}
"""Every declaration by name."""

ADDITIVE = frozenset({"group_loss", "label_group_loss", "group_confusion", "group_score"})
"""Sums and counts over records: their sum over clients is that of all records, with the same sensitivity."""
