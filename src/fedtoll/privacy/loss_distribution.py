"""Privacy loss distributions of composed subsampled Gaussians: an upper bound of ε that is nearly exact.

One release on a Poisson sample compares P = (1 − q) N(0, σ²) + q N(1, σ²) with Q = N(0, σ²). This pair
dominates the mechanism for removing a record, (Q, P) for adding one, and both compose (Zhu, Dong and Wang
2022, arXiv 2106.08567). The privacy loss is L = log dP/dQ under P. T releases have the sum of T losses, and

    δ(ε) = E[(1 − e^(ε − L))₊].

Adding and removing are composed separately, and the larger δ counts. The discretisation only ever raises δ:

- A loss between two points of the grid is spread over both such that its probability stays the same under
  P *and* under Q ("connect the dots"; Doroshenko et al. 2022, arXiv 2207.04380). That spreads e^−L and keeps
  its mean; δ is convex in e^−L, so it can only grow (Jensen).
- A loss above the grid counts as infinite, and one below it as the lowest point.
- Sums are convolved by FFT in a window. Losses above the window count as infinite, too.
- An allowance for rounding errors of the FFT is added to δ, and one for those of the grid to ε.

The grid is as fine as an error of about ``TOLERANCE`` of ε needs. tests/peers/test_pld.py compares with
dp-accounting, which implements the same papers, with Opacus's PRV, and with exact formulas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedtoll.privacy.gaussian import gaussian_epsilon

Floats = NDArray[np.float64]

Kind = tuple[float, float, int]
"""σ, q and the number of releases."""

TOLERANCE = 1e-4
"""The relative error of ε, due to the grid, that its spacing aims at; always upwards."""

FINEST = 2**21
"""Maximum number of points of a composition; a coarser grid is used where this does not suffice."""

LONGEST = 2**16
"""Maximum number of points of one release."""

FARTHEST = 600.0
"""Largest loss of one release; e^L must be representable."""

_UNIT = float(np.finfo(float).eps)
_CUT = 1e-6  # of δ: what each of the tails cut off may add to it


@dataclass(frozen=True)
class _Grid:
    """The loss of one release on a grid: ``mass_N[i]`` at (``low`` + i) · spacing, and ``infinite`` above."""

    low: int
    mass_N: Floats
    infinite: float


@dataclass(frozen=True)
class Distribution:
    """The privacy loss of a composition, in one direction, rounded up.

    Parameters
    ----------
    lowest, spacing
        The first loss of the grid, and the distance between losses.
    mass_N
        The probability of each loss, shape (N,).
    infinite
        The probability that the loss counts as infinite, with the allowance for rounding errors.
    shift
        The allowance for rounding errors that is added to ε.
    """

    lowest: float
    spacing: float
    mass_N: Floats
    infinite: float
    shift: float

    def delta(self, epsilon: float) -> float:
        """Return an upper bound of δ at ``epsilon``."""
        loss_N = self.lowest + self.spacing * np.arange(len(self.mass_N))
        above = loss_N > (reached := epsilon - self.shift)
        return min(1.0, self.infinite + _dot(self.mass_N[above], -np.expm1(reached - loss_N[above])))

    def deltas(self, epsilon: Floats) -> Floats:
        """Return :meth:`delta` at each ε ≥ 0 of an ascending array; e^ε must be representable."""
        loss_N = self.lowest + self.spacing * np.arange(len(self.mass_N))
        mass_N = np.where(loss_N > -self.shift, self.mass_N, 0.0)
        upper_N = np.append(np.cumsum(mass_N[::-1])[::-1], 0.0)
        lower_N = np.append(np.cumsum((mass_N * np.exp(-np.maximum(loss_N, -1.0)))[::-1])[::-1], 0.0)
        reached = epsilon - self.shift
        first = np.searchsorted(loss_N, reached, side="right")
        return np.asarray(np.minimum(1.0, self.infinite + upper_N[first] - np.exp(reached) * lower_N[first]))

    def epsilon(self, delta: float) -> float:
        """Return an upper bound of the smallest ε ≥ 0 at which δ is at most ``delta``."""
        if self.delta(0.0) <= delta:
            return 0.0
        if self.infinite > delta:
            return math.inf
        mass_N, size = self.mass_N, len(self.mass_N)
        fall_N = np.exp(-self.spacing * np.arange(1, size + 1))
        above_N = np.cumsum(mass_N[::-1])[::-1] - mass_N  # the probability of a larger loss

        def weighted(i: int) -> float:
            return _dot(mass_N[i + 1 :], fall_N[: size - i - 1])

        low, high = -1, size - 1  # δ is above ``delta`` at the loss ``low``, and not at ``high``
        while high - low > 1:
            middle = (low + high) // 2
            if self.infinite + float(above_N[middle]) - weighted(middle) > delta:
                low = middle
            else:
                high = middle
        total = self.infinite + (float(above_N[low]) if low >= 0 else float(mass_N.sum())) - delta
        reached = self.lowest + low * self.spacing + math.log(total / weighted(low))
        return max(0.0, reached + self.shift)


def epsilon(kinds: Sequence[Kind], delta: float) -> float:
    """Return an upper bound of the ε of a composition, or infinity where none can be computed.

    Parameters
    ----------
    kinds
        σ > 0, 0 < q ≤ 1 and the number of releases, at least 1.
    delta
        δ, between 0 and 1.

    Examples
    --------
    >>> round(epsilon([(1.0, 0.02, 1000)], 1e-5), 3)
    3.899
    """
    if all(rate == 1 for _, rate, _ in kinds):
        return gaussian_epsilon(total_mu(kinds), delta)
    both = distributions(kinds, delta)
    return max((d.epsilon(delta) for d in both), default=math.inf)


def total_mu(kinds: Sequence[Kind]) -> float:
    """Return μ of the releases without sampling, which compose to one Gaussian: √Σ T/σ²."""
    return math.sqrt(sum(count / noise**2 for noise, rate, count in kinds if rate == 1))


def distributions(kinds: Sequence[Kind], delta: float, refine: float = 1.0) -> tuple[Distribution, ...]:
    """Return the loss of removing a record and that of adding one; nothing where neither can be computed.

    Parameters
    ----------
    kinds, delta
        As in :func:`epsilon`; ``delta`` is the smallest δ of interest.
    refine
        The spacing of the grid is divided by this number.
    """
    merged = [kind for kind in kinds if kind[1] < 1]
    if (mu := total_mu(kinds)) > 0:
        merged.append((1 / mu, 1.0, 1))
    total = sum(count for *_, count in merged)
    cut = _CUT * delta / total
    if any(_ends(noise, rate, cut)[1] > FARTHEST for noise, rate, _ in merged):
        return ()
    spacing = _spacing(merged, cut) / refine
    while True:
        both = [[_release(n, q, spacing, cut, way) for n, q, _ in merged] for way in (False, True)]
        windows = [_window(grids, merged, spacing, delta) for grids in both]
        size = max(high - low + 1 for low, high in windows)
        if size <= FINEST:
            break
        spacing *= 1.1 * size / FINEST
    found = tuple(
        _composed(grids, merged, spacing, window, delta) for grids, window in zip(both, windows, strict=True)
    )
    return found if all(d.infinite <= delta / 10 for d in found) else ()


def _ends(noise: float, rate: float, cut: float) -> tuple[float, float]:
    """Return the losses of removal between which all but ``cut`` of the probability lies."""
    from scipy.special import ndtri

    far = -float(ndtri(cut)) * noise
    low = _loss(-far, noise, rate)
    return low, _loss(1 + far, noise, rate)


def _loss(x: float, noise: float, rate: float) -> float:
    """Return log dP/dQ at an output."""
    exponent = (2 * x - 1) / (2 * noise**2)
    if rate == 1:
        return exponent
    return float(np.logaddexp(math.log1p(-rate), math.log(rate) + exponent))


@lru_cache(maxsize=4096)
def _variance(noise: float, rate: float) -> float:
    """Return the variance of the loss of removing a record in one release, by the trapezoidal rule."""
    if rate == 1:
        return 1 / noise**2
    x = np.linspace(-9 * noise, 1 + 9 * noise, 2001)
    ratio = (2 * x - 1) / (2 * noise**2)
    loss = np.logaddexp(math.log1p(-rate), math.log(rate) + ratio)
    weight = np.exp(-(x**2) / (2 * noise**2) + loss)
    weight /= weight.sum()
    return _dot(weight, loss**2) - _dot(weight, loss) ** 2


def _spacing(kinds: Sequence[Kind], cut: float) -> float:
    """Return the spacing at which the grid adds about ``TOLERANCE`` to the standard deviation of the sum.

    Spreading a loss over its two neighbours adds h²/6 to its variance on average.
    """
    variance = sum(count * _variance(noise, rate) for noise, rate, count in kinds)
    widest = max(high - low for low, high in (_ends(noise, rate, cut) for noise, rate, _ in kinds))
    return max(math.sqrt(12 * TOLERANCE * variance / sum(count for *_, count in kinds)), widest / LONGEST)


def _release(noise: float, rate: float, spacing: float, cut: float, adding: bool) -> _Grid:
    """Return the loss of one release on the grid."""
    from scipy.special import ndtr

    low, high = _ends(noise, rate, cut)
    first, last = math.floor(low / spacing), math.ceil(high / spacing)
    loss_N: Floats = spacing * np.arange(first, last + 1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_N = np.log1p(np.maximum(np.expm1(loss_N) / rate, -1.0))
    x_N = noise**2 * ratio_N + 0.5  # the output with that loss; −∞ below the smallest loss
    base_N, moved_N = (_between(ndtr, (x_N - shift) / noise) for shift in (0.0, 1.0))
    mixed_N = (1 - rate) * base_N + rate * moved_N
    if adding:
        loss_N, upper_N, lower_N = -loss_N[::-1], base_N[::-1], mixed_N[::-1]
    else:
        upper_N, lower_N = mixed_N, base_N
    inner = slice(1, -1)
    mass_N = np.zeros(len(loss_N))
    right_N = _spread(upper_N[inner], lower_N[inner], loss_N[:-1], spacing)
    mass_N[1:] += right_N
    mass_N[:-1] += upper_N[inner] - right_N
    mass_N[0] += upper_N[0]
    return _Grid(-last if adding else first, mass_N, float(upper_N[-1]))


def _spread(upper_N: Floats, lower_N: Floats, loss_N: Floats, spacing: float) -> Floats:
    """Return which part of ``upper_N``, whose loss is above ``loss_N``, goes to the next point of the grid.

    Of the probability u under P and l under Q, the part r goes up and u − r down. Then Q has
    r e^−(ε + h) + (u − r) e^−ε = l.
    """
    right_N = (upper_N - lower_N * np.exp(loss_N)) / -math.expm1(-spacing)
    return np.asarray(np.clip(right_N, 0.0, upper_N))


def _dot(a_N: Floats, b_N: Floats) -> float:
    """Return the inner product without BLAS, whose sums depend on the machine and its threads."""
    return float((a_N * b_N).sum())


def _between(ndtr: Any, z_N: Floats) -> Floats:
    """Return the standard normal probabilities below, between and above points: shape (N + 1,)."""
    edge_N = np.concatenate([[-np.inf], z_N, [np.inf]])
    below, above = ndtr(edge_N), ndtr(-edge_N)
    return np.asarray(np.where(edge_N[:-1] > 0, above[:-1] - above[1:], below[1:] - below[:-1]))


def _window(grids: Sequence[_Grid], kinds: Sequence[Kind], spacing: float, delta: float) -> tuple[int, int]:
    """Return the first and last point between which all but a little of the sum lies (Chernoff's bound)."""
    from scipy.optimize import minimize_scalar

    counts = [count for *_, count in kinds]
    lowest = sum(n * g.low for n, g in zip(counts, grids, strict=True))
    highest = sum(n * (g.low + len(g.mass_N) - 1) for n, g in zip(counts, grids, strict=True))
    spread = math.sqrt(sum(count * _variance(noise, rate) for noise, rate, count in kinds))
    widest = spacing * max(len(g.mass_N) for g in grids)
    rarity = -math.log(_CUT * delta)

    def reach(log_slope: float, sign: int) -> float:
        """Return a bound of the largest (or minus the least, with sign −1) sum; any slope gives one."""
        slope, total = math.exp(log_slope), rarity
        for n, g in zip(counts, grids, strict=True):
            power_N = (sign * slope * spacing) * (g.low + np.arange(len(g.mass_N)))
            top = float(power_N.max())
            total += n * (top + math.log(_dot(np.exp(power_N - top), g.mass_N) or 1.0))
        return min(total / slope / spacing, highest if sign > 0 else -lowest)

    slopes = math.log(min(0.5 / widest, 1 / spread)), math.log(20 / spread)
    ends = [
        minimize_scalar(reach, bounds=slopes, args=(sign,), method="bounded", options={"maxiter": 12}).fun
        for sign in (-1, 1)
    ]
    return math.floor(-ends[0]), math.ceil(ends[1])


def _composed(
    grids: Sequence[_Grid], kinds: Sequence[Kind], spacing: float, window: tuple[int, int], delta: float
) -> Distribution:
    """Convolve the losses of all releases. What the FFT wraps around is counted twice, never lost."""
    from scipy.fft import irfft, next_fast_len, rfft

    low, high = window
    longest = max(len(g.mass_N) for g in grids)
    size = int(next_fast_len(max(high - low + 1, longest), real=True))
    spectrum, offset, finite, total = np.ones(size // 2 + 1, dtype=complex), 0, 0.0, 0
    for (_, _, count), grid in zip(kinds, grids, strict=True):
        spectrum *= rfft(grid.mass_N, size) ** count
        offset += count * grid.low
        finite += count * math.log1p(-grid.infinite)
        total += count
    mass_N = np.maximum(np.roll(irfft(spectrum, size), offset - low), 0.0)
    rounding = 4 * _UNIT * (total + math.log2(size)) * math.sqrt(size * _dot(mass_N, mass_N))
    infinite = -math.expm1(finite) + _CUT * delta + rounding
    return Distribution(spacing * low, spacing, mass_N, infinite, _UNIT * total * longest)
