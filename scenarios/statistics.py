"""The declarations of private statistics: what strategies ask and clients answer.

A declaration is public. It states the clip, the shape of the answer, and the
L2 sensitivity of the answer under adding or removing one record. The
mechanisms behind the declarations live in ``fedtoll.clients.mechanisms``.

Answers are sums or counts (or a mean over the *public* size), never a ratio
of two private numbers: a strategy divides what was released, which is free.

=====================  ===============  ==================  ==================================
declaration            shape            L2 sensitivity      value
=====================  ===============  ==================  ==================================
``MeanLoss(B)``        ()               B / n               Σ min(ℓ, B) / n
``ErrorRate()``        ()               1 / n               Σ 1[ŷ ≠ y] / n
``GroupLoss(B)``       (G, 2)           √2                  (Σ min(ℓ, B) / B, count) by group
``LabelGroupLoss(B)``  (G, C, 2)        √2                  the same by group and label
``GroupConfusion()``   (G, C, C)        1                   count by group, label, prediction
=====================  ===============  ==================  ==================================

n is the client's public size, G the groups of the scenario, C the classes. All
groups are answered for, so that absence does not leak, unless the plan
declares the group of a client's records public: then only that group's cells
are released, and the others are 0 with a standard deviation of 0.

The clip belongs to privacy. In the references (ε = ∞ and clip-only) answers are
exact and not clipped: a mean loss may exceed B there, and a group's sum of
losses its count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

Value = Any
"""A float, or a float64 array of the statistic's shape (too loose a type, so that numpy takes either)."""


@dataclass(frozen=True)
class Estimate:
    """A privatised statistic as a strategy sees it.

    Parameters
    ----------
    value
        A float for a scalar statistic, else an array of its shape.
    sd
        The standard deviation of the noise in the value; of the same form.
    """

    value: Value
    sd: Value


class Statistic(Protocol):
    """What every declaration has."""

    name: ClassVar[str]

    def shape(self, groups: int, classes: int) -> tuple[int, ...]:
        """Return the shape of the answer: ``()`` for a number, else groups come first."""
        ...

    def sensitivity(self, size: int) -> float:
        """Return the L2 sensitivity for a client of this public size."""
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
    """Mean loss of a client's records at the broadcast model, before local training.

    Releases Σ min(ℓ_i, B) / n over the *public* size n, plus Gaussian noise.

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
    """Share of a client's records that the broadcast model gets wrong: Σ 1[ŷ_i ≠ y_i] / n.

    Like a mean loss with B = 1: coarser, and at B = 4 four times less noisy.
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
        """Return √2: one record changes one pair by at most (1, 1)."""
        return math.sqrt(2)


@dataclass(frozen=True)
class GroupConfusion:
    """Confusion counts of every group at the broadcast model: ``value[g, y, ŷ]``.

    With two classes a record is predicted positive at a probability of .5 or more.
    """

    name: ClassVar[str] = "group_confusion"

    def shape(self, groups: int, classes: int) -> tuple[int, ...]:
        """Return ``(groups, classes, classes)``."""
        return (groups, classes, classes)

    def sensitivity(self, size: int) -> float:
        """Return 1: one record changes one count by 1."""
        return 1.0


STATISTICS: dict[str, Callable[..., Statistic]] = {
    s.name: s for s in (MeanLoss, ErrorRate, GroupLoss, LabelGroupLoss, GroupConfusion)
}
"""Every declaration by name."""
