"""DPSGD-F: a clip for each group, larger where more gradients exceed C."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedtoll.clients.clipping.base import ClientMechanism, Codes, Floats, Public, clipped


@dataclass(frozen=True)
class DPSGDF(ClientMechanism):
    """DPSGD-F (Xu, Du and Wu 2021): C_g = C · (1 + (m_g / b_g) / (m / b)), and noise for the largest C_g.

    m_g counts the gradients of group g in the batch whose norm exceeds C, b_g all of them, and m and b are
    the sums over groups. The counts m_g and b_g − m_g are released with noise; a record changes one of them
    by 1. The largest clip is that over all groups of the scenario, because the groups of the batch are not
    public.

    Negative counts are 0, and b_g is at least 1. If no gradient exceeds C, all ratios are 1. A client whose
    group is public has one group, so that it clips to 2 C.

    Algorithm 2 of "Removing Disparate Impact on Model Accuracy in Differentially Private Stochastic Gradient
    Descent" (KDD 2021). Public code of others averages the ratios m_g / b_g instead of dividing sums; the
    division of sums is unverified against the authors' own code.
    """

    def cells(self, groups: int) -> int:
        """Return two cells per group: above the clip, and not above it."""
        return 2 * groups

    def init(self, public: Public) -> Floats:
        """Return C for every group; it is replaced in the first step."""
        return np.full(public.groups, public.clip)

    def count(self, norms_N: Floats, groups_N: Codes, state: Floats, public: Public) -> Floats:
        """Return the one cell that a record belongs to."""
        cells = np.zeros((len(norms_N), self.cells(public.groups)))
        cells[np.arange(len(norms_N)), 2 * groups_N + (norms_N <= public.clip)] = 1.0
        return cells

    def update(self, noised_M: Floats, state: Floats, public: Public) -> Floats:
        """Return C_g for every group."""
        above_G, below_G = np.maximum(noised_M, 0.0).reshape(public.groups, 2).T
        all_G = above_G + below_G
        mean = above_G.sum() / max(1.0, all_G.sum())
        ratio_G = above_G / np.maximum(1.0, all_G) / mean if mean > 0 else np.ones(public.groups)
        return np.asarray(public.clip * (1.0 + ratio_G))

    def scale(self, norms_N: Floats, groups_N: Codes, state: Floats, public: Public) -> Floats:
        """Clip each gradient to the bound of its group."""
        return clipped(norms_N, state[groups_N])

    def bound(self, state: Floats, public: Public) -> float:
        """Return the largest clip of any group."""
        return float(state.max())
