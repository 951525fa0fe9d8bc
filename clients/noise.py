"""Gaussian noise in floating point: how it is drawn, added and rounded, for every engine and statistic.

A proof for real numbers does not cover what floating-point numbers reveal. Noise drawn from few random bits
lies on a lattice, so a released value tells which exact sums are possible at all (Mironov 2012; Holohan and
Braghin 2021). Here:

- normals are float64, by the ziggurat method from 52 random bits each, and exact in the tails;
- exact value and noise are added in float64;
- the sum is rounded to a grid whose step is a power of two, between 2⁻¹⁷ and 2⁻¹⁶ of the noise's standard
  deviation. The grid does not depend on records. Every cell of it within five standard deviations contains
  more than 2³⁰ of the numbers that the noise can take, so its probability is that of the real Gaussian to a
  relative error of about 2⁻³⁰, or 2⁻²⁵ if the exact value is a thousand standard deviations. Farther out,
  where cells are rare, the error grows. Everything after the rounding is post-processing.

The rounding itself moves a release by at most 2⁻¹⁷ standard deviations.

What remains: the exact sum that noise is added to is computed in float32, and its own rounding depends on all
records of a batch (Casacuberta et al. 2022). It is not part of the sensitivity.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

GRID_BITS = 16
"""A grid has between 2^GRID_BITS and 2^(GRID_BITS + 1) steps for one standard deviation of the noise."""


def grid_step(sd: float) -> float:
    """Return the step of the grid for noise of a standard deviation: a power of two.

    Examples
    --------
    >>> grid_step(1.0) == grid_step(1.9) == 2**-16
    True
    >>> grid_step(0.0)
    0.0
    """
    return math.ldexp(0.5, math.frexp(sd)[1] - GRID_BITS) if sd > 0 else 0.0


def noised(
    values: torch.Tensor, normals: torch.Tensor, sds: Sequence[float], out: torch.Tensor | None = None
) -> torch.Tensor:
    """Return exact values plus Gaussian noise, rounded to the grid of the noise.

    Parameters
    ----------
    values
        ``[K, ...]``, of any precision.
    normals
        Standard normals of the same shape, float64.
    sds
        The standard deviation of the noise of each of the K, greater than 0.
    out
        A float64 tensor of the same shape for the result.

    Returns
    -------
    torch.Tensor
        The releases ``[K, ...]``, float64.

    Examples
    --------
    >>> released = noised(torch.zeros(1, 3), torch.tensor([[0.1, 1e-7, -2.0]], dtype=torch.float64), [1.0])
    >>> (released * 2**16).tolist()
    [[6554.0, 0.0, -131072.0]]
    """
    shape = (len(sds),) + (1,) * (values.dim() - 1)
    sd_K, magic_K = (x.view(shape) for x in _columns(tuple(sds), values.device, grid_step))
    released = torch.empty_like(normals) if out is None else out
    return released.copy_(values).addcmul_(normals, sd_K).add_(magic_K).sub_(magic_K)


def noised_array(values: NDArray[Any], normals: NDArray[np.float64], sd: float) -> NDArray[np.float64]:
    """Return what :func:`noised` does for one array in numpy."""
    exact, noise = (torch.from_numpy(np.asarray(x, dtype=np.float64)[None]) for x in (values, normals))
    return np.asarray(noised(exact, noise, [sd])[0].numpy())


@lru_cache(maxsize=1024)
def _columns(
    sds: tuple[float, ...], device: torch.device, step: Callable[[float], float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the standard deviations, and the numbers that round to their grids, both ``[K]``.

    Adding and subtracting 1.5 · 2⁵² steps rounds to the nearest step, ties to even, in two fast passes. The
    function is part of the cache's key, so that a test can replace it.
    """
    if not all(0 < sd < math.inf for sd in sds):
        raise ValueError(f"noise with the standard deviations {sds}: must be finite and greater than 0")
    magic = [1.5 * 2.0**52 * step(sd) for sd in sds]
    sd_K, magic_K = (torch.tensor(x, dtype=torch.float64, device=device) for x in (sds, magic))
    return sd_K, magic_K


def secret_normals(count: int) -> NDArray[np.float64]:
    """Return standard normals from the operating system's cryptographic generator.

    Each is Φ⁻¹ of a uniform number of 52 bits, so its absolute value is below 8.3.
    """
    from scipy.special import ndtri

    words = np.frombuffer(secrets.token_bytes(8 * count), dtype=np.uint64)
    return np.asarray(ndtri(((words >> np.uint64(12)) + 0.5) / 2.0**52))  # with 53 bits, 1 - 2⁻⁵⁴ is 1
