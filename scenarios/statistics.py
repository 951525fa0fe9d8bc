"""The declarations of private statistics: what strategies ask and clients answer.

A declaration is public. It states the clip, and from the clip and the
client's public size the L2 sensitivity under adding or removing one record.
The mechanisms behind the declarations live in ``fedtoll.clients.statistics``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol


@dataclass(frozen=True)
class Estimate:
    """A privatised number as a strategy sees it: its value and the standard deviation of its noise."""

    value: float
    sd: float


class Statistic(Protocol):
    """What every declaration has."""

    name: ClassVar[str]

    def sensitivity(self, size: int) -> float:
        """Return the L2 sensitivity for a client of this public size."""
        ...


@dataclass(frozen=True)
class MeanLoss:
    """Mean loss of a client's records at the broadcast model, before local training.

    Releases Σ min(ℓ_i, clip) / n over the *public* size n, plus Gaussian
    noise. One record more or less changes the sum by at most ``clip``: the L2
    sensitivity is ``clip / n``.

    Parameters
    ----------
    clip
        Bound B of a single record's loss, in nats.
    """

    clip: float = 4.0
    name: ClassVar[str] = "mean_loss"

    def __post_init__(self) -> None:
        if not self.clip > 0:
            raise ValueError(f"clip = {self.clip}: must be greater than 0")

    def sensitivity(self, size: int) -> float:
        """Return ``clip / size``.

        Examples
        --------
        >>> MeanLoss(clip=4.0).sensitivity(200)
        0.02
        """
        return self.clip / size


STATISTICS: dict[str, type[MeanLoss]] = {MeanLoss.name: MeanLoss}
"""Every declaration by name."""
