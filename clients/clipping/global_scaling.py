"""DP-SGD-Global and Global-Adapt: one factor for all gradients, which preserves their directions' mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedtoll.clients.clipping.base import ClientMechanism, Codes, Floats, Public, clipped, within


@dataclass(frozen=True)
class DPSGDGlobal(ClientMechanism):
    """DP-SGD-Global (Bu et al. 2021, arXiv 2106.07830): g · C / Z if ‖g‖ ≤ Z, else 0.

    Steps are Z / C times shorter than those of plain DP-SGD, so learning rates must be larger. It releases no
    statistic. (The rule is checked against code published with Esipova et al. 2023.)

    Parameters
    ----------
    z
        Z, an upper bound on the norms that matter, in units of the gradient.
    """

    z: float = 50.0

    def __post_init__(self) -> None:
        """Check the parameter."""
        if not (self.z > 0 and math.isfinite(self.z)):
            raise ValueError(f"z = {self.z}: must be greater than 0")

    def scale(self, norms_N: Floats, groups_N: Codes, state: Floats, public: Public) -> Floats:
        """Scale gradients up to Z by C / Z, and drop the others."""
        return np.where(norms_N <= self.z, public.clip / self.z, 0.0)


@dataclass(frozen=True)
class GlobalAdapt(DPSGDGlobal):
    """DP-SGD-Global-Adapt (Esipova et al. 2023, arXiv 2206.07737): g · C / Z if ‖g‖ ≤ Z, else clipped to C.

    After each step Z ← Z · exp(−η + b̃), where b̃ is the noised share of gradients whose norm exceeds τ Z. The
    count is divided by the public batch size B; the authors' code divides it by the size of the batch, which
    is not public.

    Parameters
    ----------
    z
        Z of the first step, in units of the gradient.
    rate
        η: how fast Z falls if no gradient exceeds it. In balance, the share η does.
    threshold
        τ.
    """

    rate: float = 0.1
    threshold: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        for name, value in (("rate", self.rate), ("threshold", self.threshold)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} = {value}: must be greater than 0")

    def cells(self, groups: int) -> int:
        """Return one cell."""
        return 1

    def init(self, public: Public) -> Floats:
        """Return Z of this step and of the next."""
        return np.array([self.z, self.z])

    def count(self, norms_N: Floats, groups_N: Codes, state: Floats, public: Public) -> Floats:
        """Return 1 for each gradient above τ Z."""
        return np.asarray(norms_N > self.threshold * state[1], dtype=np.float64)[:, None]

    def update(self, noised_M: Floats, state: Floats, public: Public) -> Floats:
        """Return Z of this step, and that of the next."""
        factor = math.exp(min(100.0, float(noised_M[0]) / public.batch_size - self.rate))
        return np.array([state[1], within(state[1] * factor, self.z)])

    def scale(self, norms_N: Floats, groups_N: Codes, state: Floats, public: Public) -> Floats:
        """Scale gradients up to Z by C / Z, and clip the others."""
        clip = public.clip
        return np.asarray(np.where(norms_N <= state[0], clip / state[0], clipped(norms_N, clip)))
