"""Verdicts on claims, from paired differences over seeds: the toll's intervals, sign flips and Holm.

A claim names a region for one seed-mean or several. It is *reproduced* where the mean lies inside and its
95% t interval too; *contradicted* where both lie outside; in either case the sign-flip test at the bound must
reject at .05 after Holm over all claims of the finding. Else it is *not reproduced*: the figures agree with
the claim and with its opposite. Where no test can decide it is *undecided*, with the reason.

Examples
--------
>>> import numpy as np
>>> apart = Part(np.array([3.0, 4, 5, 4, 3, 4, 5, 4, 3, 4]), low=0.0)
>>> judge([Case((apart,))])[0].verdict
'reproduced'
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedtoll.scenarios.claims import LEAST_SEEDS
from fedtoll.scenarios.compare import LEVEL, unreachable
from fedtoll.server.toll.intervals import holm, sign_flip, t_interval

Word = Literal["reproduced", "not reproduced", "contradicted", "undecided"]
VERDICTS: tuple[Word, ...] = ("reproduced", "not reproduced", "contradicted", "undecided")


@dataclass(frozen=True, eq=False)
class Part:
    """One paired contrast, and the region in which its mean must lie.

    Parameters
    ----------
    x
        One value a seed; NaN is dropped.
    low, high
        The region.
    guard
        It need not lie inside, but must not lie outside: a step of a curve.
    """

    x: NDArray[np.float64]
    low: float = -math.inf
    high: float = math.inf
    guard: bool = False

    @property
    def seeds(self) -> int:
        """How many seeds have a value."""
        return int(np.isfinite(self.x).sum())

    def interval(self) -> tuple[float, float, float]:
        """Return mean, low and high of the 95% t interval; the mean itself where all seeds are equal."""
        known = self.x[np.isfinite(self.x)]
        if known.size > 1 and np.ptp(known) == 0:
            return (float(known[0]),) * 3
        mean, low, high = (float(v) for v in t_interval(known)) if known.size else (math.nan,) * 3
        return mean, low, high

    def place(self) -> tuple[bool, bool, float]:
        """Return whether the mean lies inside, whether all of its interval lies on that side too, and p."""
        mean, low, high = self.interval()
        if math.isnan(mean):
            return False, False, math.nan
        bounds = [b for b in (self.low, self.high) if math.isfinite(b)]
        if self.low <= mean <= self.high:
            clear = (low > self.low or self.low == -math.inf) and (high < self.high or self.high == math.inf)
            return True, clear, max((sign_flip(self.x - b) for b in bounds), default=0.0)
        passed = self.low if mean < self.low else self.high
        clear = high < self.low or low > self.high
        return False, clear, sign_flip(self.x - passed)


@dataclass(frozen=True)
class Case:
    """A claim ready to be judged.

    Parameters
    ----------
    parts
        All of them must lie inside.
    barred
        Why it cannot be decided; empty where it can.
    void
        Why the claim has no sense with these figures (a ratio to nothing): then it is not reproduced.
    """

    parts: tuple[Part, ...]
    barred: str = ""
    void: str = ""


@dataclass(frozen=True)
class Judged:
    """A verdict, the reason in words, and the p-value before and after Holm."""

    verdict: Word
    why: str
    p: float
    p_holm: float


@dataclass(frozen=True)
class Outcome:
    """What became of one claim in one setting: everything that the page and ``--json`` show.

    ``mean``, ``low`` and ``high`` are of the figure that ``figure`` names (a difference, a ratio, a value),
    and ``sides`` gives the seed-mean of every side with what it is.
    """

    claim: str
    says: str
    kind: str
    setting: str
    verdict: Word
    why: str
    published: str
    region: str
    reason: str
    figure: str
    mean: float
    low: float
    high: float
    sides: tuple[tuple[str, float], ...]
    seeds: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class _Leaning:
    inside: bool
    clear: bool
    p: float


def judge(cases: Sequence[Case]) -> list[Judged]:
    """Return the verdict of every case; together they are the family of Holm's correction."""
    leanings = [_lean(case.parts) for case in cases]
    adjusted = holm([leaning.p for leaning in leanings])
    made = []
    for case, leaning, p_holm in zip(cases, leanings, adjusted, strict=True):
        seeds = min((part.seeds for part in case.parts), default=0)
        bare = Judged("undecided", "", leaning.p, float(p_holm))
        if why := case.barred or _undecided(seeds, len(cases), leaning.p):
            made.append(replace(bare, why=why))
        elif case.void:
            made.append(replace(bare, verdict="not reproduced", why=case.void))
        else:
            verdict, why = _decided(leaning, float(p_holm))
            made.append(replace(bare, verdict=verdict, why=why))
    return made


def _undecided(seeds: int, family: int, p: float) -> str:
    if seeds == 0:
        return "undefined in every seed"
    if seeds < LEAST_SEEDS:
        return f"too few seeds: {seeds}, and {LEAST_SEEDS} are the fewest"
    return unreachable(family, seeds) or ("undefined" if math.isnan(p) else "")


def _decided(leaning: _Leaning, p_holm: float) -> tuple[Word, str]:
    sure = p_holm <= LEVEL
    if leaning.clear and sure:
        if leaning.inside:
            return "reproduced", "mean and interval lie where the claim says"
        return "contradicted", "mean and interval lie where the claim says they do not"
    which = "agree" if leaning.inside else "disagree"
    doubt = "its interval reaches over the bound" if not leaning.clear else "p is above .05 after Holm"
    return "not reproduced", f"the mean would {which}, but {doubt}"


def _lean(parts: Sequence[Part]) -> _Leaning:
    """Return towards what the parts of a claim lean together.

    Inside: all parts but the guards are, so p is the largest (an intersection-union test). Outside: one is,
    or one guard is beyond doubt, so p is the smallest times the number of those that could have been.
    """
    placed = [(part, _Leaning(*part.place())) for part in parts]
    own = [leaning for part, leaning in placed if not part.guard]
    guards = [leaning for part, leaning in placed if part.guard]
    fallen = [g for g in guards if not g.inside and g.clear and g.p * len(guards) <= LEVEL]
    if fallen:
        worst = min(fallen, key=lambda g: g.p)
        return _Leaning(False, True, min(1.0, worst.p * len(guards)))
    if any(math.isnan(leaning.p) for leaning in own) or not own:
        return _Leaning(False, False, math.nan)
    if all(leaning.inside for leaning in own):
        return _Leaning(True, all(leaning.clear for leaning in own), max(leaning.p for leaning in own))
    out = [leaning for leaning in own if not leaning.inside]
    worst = min(out, key=lambda leaning: (not leaning.clear, leaning.p))
    return _Leaning(False, worst.clear, min(1.0, worst.p * len(own)))


def fieller(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the ratio of two seed-means and its 95% interval (Fieller 1954), paired.

    The interval holds every r at which the t interval of a − r·b covers 0. It is unbounded, and NaN is
    returned, where b itself is not clear of 0.

    Examples
    --------
    >>> a, b = np.array([2.0, 2.2, 1.8, 2.1]), np.array([1.0, 1.1, 1.0, 0.9])
    >>> [round(v, 2) for v in fieller(a, b)]
    [2.02, 1.72, 2.39]
    """
    from scipy import stats

    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if a.size < 2 or b.mean() == 0:
        return math.nan, math.nan, math.nan
    mean = float(a.mean() / b.mean())
    t2 = float(stats.t.ppf(0.975, a.size - 1)) ** 2 / a.size
    (aa, ab), (_, bb) = np.cov(a, b)
    square = float(b.mean() ** 2 - t2 * bb)
    cross = float(a.mean() * b.mean() - t2 * ab)
    root = cross**2 - square * float(a.mean() ** 2 - t2 * aa)
    if square <= 0 or root < 0:
        return mean, math.nan, math.nan
    return mean, (cross - math.sqrt(root)) / square, (cross + math.sqrt(root)) / square
