"""The interface of a client-side mechanism: how each record's gradient is scaled before the sum.

Plain DP-SGD clips every gradient to C, sums, and adds noise with the standard deviation σ C. A mechanism may
choose other scales, and may release a noised statistic of the same batch to choose them by. In every step,
the engine

1. computes the norm ‖g_i‖ of each record's gradient in the batch,
2. sums what :meth:`ClientMechanism.count` says of each record, and adds noise,
3. passes only this noised sum to :meth:`ClientMechanism.update`, which returns the new state,
4. multiplies each gradient by :meth:`ClientMechanism.scale`, sums them, and adds noise in proportion to
   :meth:`ClientMechanism.bound`.

Steps 2 and 4 look at the same Poisson batch, so they are one release. With noise z₁ in the statistic and z₂
in the gradient, each in units of its sensitivity, a step costs what one Gaussian release with the noise
multiplier z = (z₁⁻² + z₂⁻²)^(−1/2) costs (theorem 1 of Andrew et al. 2021, arXiv 1905.03871, with a
sensitivity of 1). ``client.statistic_share`` s divides z: z₁ = z / √s and z₂ = z / √(1 − s).

The engine enforces what it can: a record counts for a vector of norm at most 1, and the norm of its scaled
gradient is at most the bound. What it cannot see is whether the scale of one record depends on others in the
batch; :mod:`fedtoll.clients.clipping.conformance` tests that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Public:
    """What is public about a client: constants of the plan, which do not depend on its records.

    Parameters
    ----------
    clip
        C, ``training.clip``.
    groups
        The number of groups that the client's records may belong to; 1 if its group is public.
    batch_size
        B, the expected size of a batch, from the public size.
    """

    clip: float
    groups: int
    batch_size: float


@dataclass(frozen=True)
class ClientMechanism:
    """Plain clipping, and the base class of all mechanisms: frozen dataclasses with parameters as fields.

    A mechanism has no other memory than its state, an array of numbers that starts with :meth:`init` and
    continues over steps and rounds. Shapes: N records of a batch, S numbers of state, M cells.
    """

    def cells(self, groups: int) -> int:
        """Return M, the number of cells of the statistic; 0, the default, releases none."""
        return 0

    def init(self, public: Public) -> Floats:
        """Return the state before the first step, ``[S]``; by default empty."""
        return np.zeros(0)

    def count(self, norms_N: Floats, groups_N: Codes, state: Floats, public: Public) -> Floats:
        """Return what each record adds to the statistic, ``[N, M]``: rows with an L2 norm of at most 1.

        A row may depend on its own record, the state and public constants only.
        """
        return np.zeros((len(norms_N), 0))

    def update(self, noised_M: Floats, state: Floats, public: Public) -> Floats:
        """Return the next state, from the noised statistic, ``[M]``; noise can make it negative."""
        return state

    def scale(self, norms_N: Floats, groups_N: Codes, state: Floats, public: Public) -> Floats:
        """Return the factor of each gradient, ``[N]``; by default that of clipping to :meth:`bound`.

        The state is that of :meth:`update`. A factor may depend on its own record, the state and public
        constants only. The engine reduces factors that would exceed the bound.
        """
        return clipped(norms_N, self.bound(state, public))

    def bound(self, state: Floats, public: Public) -> float:
        """Return the largest norm of a scaled gradient, by default C: noise is in proportion to it.

        It may depend on the state and public constants only, never on the batch.
        """
        return public.clip


def clipped(norms_N: Floats, bound: float | Floats) -> Floats:
    """Return the factors that clip gradients to a bound, or each to its own.

    Examples
    --------
    >>> clipped(np.array([0.0, 1.0, 4.0]), 2.0).round(3).tolist()
    [1.0, 1.0, 0.5]
    """
    return np.minimum(1.0, bound / (norms_N + TINY))


TINY = 1e-6
"""Added to norms before division, as Opacus does."""


def within(value: float, start: float) -> float:
    """Return a threshold, within a factor of a million of where it started, so that it stays finite."""
    return float(np.clip(value, start / FAR, start * FAR))


FAR = 1e6
