"""Adaptive clipping: the clip follows a quantile of the norms, with or without a lower bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedtoll.clients.clipping.base import ClientMechanism, Codes, Floats, Public, clipped, within


@dataclass(frozen=True)
class AdaptiveClip(ClientMechanism):
    """Adaptive quantile clipping (Andrew et al. 2021, arXiv 1905.03871): C ← C · exp(−η (b̃ − γ)).

    b̃ is the noised share of gradients whose norm is at most C; it starts at ``training.clip``. The published
    mechanism sums 1[‖g‖ ≤ C] − 1/2, whose sensitivity is 1/2 among neighbours that replace a record; here a
    record is added or removed, the count itself is summed, and its sensitivity is 1. It is divided by the
    public batch size B.

    Parameters
    ----------
    quantile
        γ: the share of gradients that are not clipped, in balance.
    rate
        η.
    normalised
        Whether scaled gradients are divided by C, and multiplied by ``training.clip``, so that a smaller clip
        does not shorten the steps.
    """

    quantile: float = 0.5
    rate: float = 0.2
    normalised: bool = False

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile = {self.quantile}: must be between 0 and 1")
        if not (self.rate >= 0 and math.isfinite(self.rate)):
            raise ValueError(f"rate = {self.rate}: must be 0 or greater")

    @property
    def least(self) -> float:
        """The lower bound of the clip."""
        return 0.0

    def cells(self, groups: int) -> int:
        """Return one cell."""
        return 1

    def init(self, public: Public) -> Floats:
        """Return the clip of this step and of the next."""
        start = max(self.least, public.clip)
        return np.array([start, start])

    def count(self, norms_N: Floats, groups_N: Codes, state: Floats, public: Public) -> Floats:
        """Return 1 for each gradient that is not clipped."""
        return np.asarray(norms_N <= state[1], dtype=np.float64)[:, None]

    def update(self, noised_M: Floats, state: Floats, public: Public) -> Floats:
        """Return the clip of this step, and that of the next."""
        share = float(noised_M[0]) / public.batch_size
        factor = math.exp(float(np.clip(-self.rate * (share - self.quantile), -100.0, 100.0)))
        return np.array([state[1], max(self.least, within(state[1] * factor, public.clip))])

    def scale(self, norms_N: Floats, groups_N: Codes, state: Floats, public: Public) -> Floats:
        """Clip to the clip of this step."""
        factors_N = clipped(norms_N, state[0])
        return np.asarray(factors_N * (public.clip / state[0])) if self.normalised else factors_N

    def bound(self, state: Floats, public: Public) -> float:
        """Return the clip of this step, or C if gradients are normalised."""
        return public.clip if self.normalised else float(state[0])


@dataclass(frozen=True)
class BoundedAdaptiveClip(AdaptiveClip):
    """Bounded adaptive clipping (Zhao et al. 2025, arXiv 2506.01396): C ← max(C_LB, C · exp(−η (b̃ − γ))).

    The lower bound keeps the clip from shrinking to the gradients of those whom the model fits already. As in
    the authors' code, scaled gradients are normalised by default. Their code divides the count by the size of
    the batch, which is not public; here it is divided by B.

    Parameters
    ----------
    lower
        C_LB, in units of the gradient.
    """

    normalised: bool = True
    lower: float = 0.1

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        if not (self.lower > 0 and math.isfinite(self.lower)):
            raise ValueError(f"lower = {self.lower}: must be greater than 0")

    @property
    def least(self) -> float:
        """The lower bound of the clip."""
        return self.lower
